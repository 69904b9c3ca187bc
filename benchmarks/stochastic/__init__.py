"""Stochastic methods against the same update rules in JAX: microseconds of an outer step.

The field's benchmark (benchopt/benchmark_bilevel, Dagreou et al., 2022) runs its methods in JAX, as
`lax.scan` over compiled steps. Here its form is that of the peers, written from the papers' update
rules: same data, same blocks, same step sizes. `agreement.py` holds each to ours.

    problems.py     the two problems and their derivatives
    rules/          the update rules
    programs.py     many steps as one program, batches drawn within
    cases.py        what is compared
    clock.py        ours, a run, and the peers in turn, on one core
    measure.py      the processes that do so, and the tables they fill
    curves.py       scores of the peers against seconds and oracle calls
"""
