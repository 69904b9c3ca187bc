"""How time and memory grow with the sizes of a problem, and with how many runs there are.

    python -m benchmarks scaling                 docs/scaling.md and its picture, in 20 minutes
    python -m benchmarks scaling --size quick    in two minutes, into outputs/

A ladder (`ladders.py`) has the sizes of one kind, each `FACTOR` times the one before. A point is
one size of a ladder, measured in a process of its own with a bound on memory and on time
(`points.py`). An exponent is the slope between the two largest sizes that a ladder reached
(`fits.py`); where it is above 1.1, the reason is asked from the method (`Hypergradient.holds` and
`cost`), and from nobody else.
"""
