"""Many outer steps of a peer as one program: `lax.scan` over the steps of a rule, under jit.

As in benchopt/benchmark_bilevel, batches are drawn within the loop. Each loss has an order of its
blocks, which is walked through, and drawn anew after the last one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.stochastic.problems import Array, blocks_of, posed
from benchmarks.stochastic.rules import Numbers, Rates, Rule, State, rule
from bilevel_cli.core.schedules import PowerLaw
from bilevel_cli.runs.runner import Runner

Order = tuple[Array, Array, Array]  # of blocks; the position in it; a key


@dataclass(frozen=True)
class Peer:
    """The method, the problem and the step sizes of a run of ours, in JAX.

    Args:
        method: Our method, which holds the settings.
        rule: Its update rule.
        task: Our task.
        rates: The step sizes.
        data: The blocks of training and of validation examples.
        inner_steps: K.
        extra: Blocks of an outer step besides those of inner steps and of F.
        start: The inner and the outer parameters at which the run begins.
    """

    method: Any
    rule: Rule
    task: Any
    rates: Rates
    data: Any
    inner_steps: int
    extra: int
    start: tuple[Array, Array]

    def begin(self) -> State:
        """The state before the first step, in memory of its own."""
        inner, outer = self.start
        memory = self.rule.begin(self.method, posed(self.task, *self.data), inner, outer)
        state = {"inner": inner, "outer": outer, "count": jnp.zeros((), inner.dtype), **memory}
        copied: State = jax.tree.map(jnp.array, state)
        return copied

    def step(self, data: Any, state: State, numbers: Numbers) -> State:
        """One outer step on blocks of the given numbers; `data` is an argument, not a constant."""
        return self.rule.step(self.method, posed(self.task, *data), self.rates, state, numbers)

    def program(self, steps: int, **options: bool) -> tuple[Callable[..., Any], Any]:
        """Many outer steps as one function of what it returned last, and the first argument.

        The argument is given away: its memory becomes that of the result. The state is its first
        part.

        Args:
            steps: How many.
            options: Of XLA, which differ from its own.
        """

        @partial(jax.jit, donate_argnums=1, compiler_options=options)
        def run(data: Any, carry: Any) -> Any:
            def one(carry: Any, _: None) -> tuple[Any, None]:
                state, orders = carry
                numbers, orders = self._drawn(state, orders)
                return (self.step(data, state, numbers), orders), None

            return lax.scan(one, carry, None, length=steps)[0]

        keys = jax.random.split(jax.random.PRNGKey(0), 5)
        count, judged = (len(part["y"]) for part in self.data)
        orders = {
            "inner": _fresh(keys[0], count),
            "extra": _fresh(keys[1], count),
            "outer": _fresh(keys[2], judged),
            "noise": keys[3],
        }
        return partial(run, self.data), (self.begin(), orders)

    def _drawn(self, state: State, orders: Any) -> tuple[Numbers, Any]:
        """The random numbers of a step."""
        noise, key = jax.random.split(orders["noise"])
        inner, first = _next(orders["inner"], self.inner_steps)
        outer, last = _next(orders["outer"], 1)
        numbers: Numbers = {"inner": inner, "outer": outer[0]}
        orders = {**orders, "inner": first, "outer": last}
        if self.extra:
            numbers["extra"], extra = _next(orders["extra"], self.extra)
            orders["extra"] = extra
        series = getattr(self.method, "series", None)
        if series is not None and series.random:
            numbers["power"] = jax.random.randint(key, (), 0, series.terms)
            orders["noise"] = noise
        if hasattr(self.method, "directions"):
            shape = (self.method.directions, *state["outer"].shape)
            numbers["directions"] = self.method.std * jax.random.normal(
                key, shape, state["outer"].dtype
            )
            orders["noise"] = noise
        return numbers, orders


def waited(carry: Any) -> Any:
    """The result of a program, once it is there."""
    return jax.block_until_ready(carry)


def _fresh(key: Array, count: int) -> Order:
    key, own = jax.random.split(key)
    return jax.random.permutation(own, count), jnp.zeros((), jnp.int32), key


def _next(order: Order, count: int) -> tuple[Array, Order]:
    """The numbers of the next blocks."""

    def one(order: Order, _: None) -> tuple[Order, Array]:
        blocks, position, key = order
        drawn = blocks[position]
        position = position + 1
        order = lax.cond(
            position == len(blocks),
            lambda key: _fresh(key, len(blocks)),
            lambda key: (blocks, position, key),
            key,
        )
        return order, drawn

    if count == 1:
        order, drawn = one(order, None)
        return drawn[None], order
    order, drawn = lax.scan(one, order, None, length=count)
    return drawn, order


def peer(run: Runner) -> Peer | None:
    """The peer of a run of ours that has taken no step; None where there is no rule."""
    experiment, state = run.experiment, run.state
    found = rule(experiment.method)
    if found is None:
        return None
    (group,) = state.optimizer.param_groups
    factor = getattr(state.scheduler, "lr_lambdas", [PowerLaw(1.0, 0.0)])[0]
    first = group.get("initial_lr", group["lr"])
    lr, steps = experiment.loop.solver.lr, run.plan.schedule.inner_steps
    count = getattr(experiment.method, "extras", None)
    return Peer(
        method=experiment.method,
        rule=found,
        task=experiment.task,
        rates=Rates(
            lr if isinstance(lr, PowerLaw) else PowerLaw(lr, 0.0),
            PowerLaw(first * factor.initial, factor.exponent),
        ),
        data=blocks_of(experiment.task),
        inner_steps=steps,
        extra=count(steps) if count else experiment.method.extra_batches,
        start=(_array(state.carry["inner"]["inner"]), _array(state.outer)),
    )


def _array(params: Any) -> Array:
    (value,) = params.values()
    return jnp.asarray(value.detach().numpy().copy())
