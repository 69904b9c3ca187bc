"""Backpropagation through inner steps, within the memory budget of the device."""

import logging
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.host import is_host
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import StepData, episodes_of
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.trees import Params, Scalar
from bilevel_cli.machine import memory
from bilevel_cli.methods.parts import graphs, segments

log = logging.getLogger(__name__)

# Derivatives of F in a state and in the outer parameters, and the function that takes them back
# through steps. The sum over later steps goes in, and the terms of these steps are added to it one
# by one, in the order in which a single graph of all steps adds them. So on a CPU, no bit of the
# result depends on where the steps are cut.
Slopes = tuple[Any, Params]
Pullback = Callable[[Slopes], Slopes]

# For annotations of inner functions: torch.compile evaluates them, and cannot subscript a type.
Variables = tuple[SolverState, Params]
Loss = tuple[Tensor, SolverState]


class Unrolled(NamedTuple):
    """The outer loss behind some inner steps, the state there, and the slopes before them."""

    loss: Tensor
    state: SolverState
    slopes: Slopes


def inner_grads(metrics: dict[str, Any], num_steps: int) -> Scalar:
    """The inner gradients of an estimate, in the mean over episodes; off the host, a 0-dim tensor.

    Args:
        metrics: What it reported.
        num_steps: Inner steps, taken once each where it reported nothing.
    """
    found = metrics.get("inner_grads", num_steps)
    if isinstance(found, Tensor) and (autodiff.mapped() or not is_host(found.device)):
        return found
    taken = float(found)
    return int(taken) if taken.is_integer() else taken


def counted(number: int, outer: Params) -> Tensor:
    """A number that Python knows as a metric: 0-dim, on the device of the outer parameters."""
    # Filled there: a copy from the host would be waited for, and is not for a CUDA graph.
    return torch.full((), number, device=next(iter(outer.values())).device)


class Steps:
    """The inner steps of one estimate: run, run with a graph, and backpropagated through.

    The bytes of the graph of a step are measured at the first estimate of a loop, on steps that it
    takes anyway. Under mapping they cannot be, and all graphs are held.

    Args:
        loop: The inner loop.
        outer: The outer parameters.
        data: The data of the outer step.

    Attributes:
        taken: Inner steps run so far; one that was run again counts again.
    """

    def __init__(self, loop: InnerLoop, outer: Params, data: StepData) -> None:
        self.loop, self.outer, self.data, self.taken = loop, outer, data, 0

    @property
    def capacity(self) -> int | None:
        """Steps whose graphs the memory budget holds; None while nothing was measured."""
        size = graphs.measured.get(self._key)
        return None if size is None else self._budget // size

    def advance(
        self, state: SolverState, outer: Params, start: int, stop: int, measure: bool = False
    ) -> SolverState:
        """The state behind the steps `start` to `stop` (excluded), within a derivative.

        Args:
            state: The state before them.
            outer: The outer parameters, as the derivative sees them.
            start: The first step.
            stop: The step after the last one.
            measure: Whether this is one of the two steps, both held, that tell what a step takes.
        """
        self.taken += stop - start
        if not measure or self.capacity is not None:
            return self.loop.run(state, outer, self.data, start, stop)
        before = state
        with self._meter:
            state = self.loop.run(state, outer, self.data, start, stop)
        self._readings.append(self._meter.total())
        if len(self._readings) == 2:  # their difference is free of data and of constants
            around = graphs.NODE * graphs.nodes(state, before)
            self._learn(self._readings[1] - self._readings[0] + around)
        return state

    def run(self, state: SolverState, start: int, stop: int) -> SolverState:
        """The state behind the steps `start` to `stop` (excluded), whose graphs are not kept.

        The graphs are made all the same, one at a time. Where no derivative will follow, torch
        computes the gradient of some layers, such as group normalisation, in another order. Near a
        kink, a state that differs in its last digits may have quite another derivative.
        """
        if autodiff.mapped():
            return self.advance(state, self.outer, start, stop)
        for t in range(start, stop):
            state = self.graph(state, t, t + 1)[0]  # and its graph is gone before the next
        return state

    def graph(
        self, state: SolverState, start: int, stop: int, measure: bool = False
    ) -> tuple[SolverState, Pullback]:
        """The state behind some steps, and the pullback through them. Arguments as in `advance`."""

        def steps(state: SolverState, outer: Params) -> Variables:
            return self.advance(state, outer, start, stop, measure), outer

        (after, _), pullback = autodiff.vjp(steps, state, self.outer, once=True)
        return after, pullback

    def backward(
        self, state: SolverState, first: int, last: int, segment: int | None = None
    ) -> Unrolled:
        """F behind the steps `first` to `last` (excluded), and its slopes at `state` before them.

        The last steps keep their graph. Earlier ones are run again from stored states on the way
        back, a segment at a time.

        Args:
            state: The state before the steps.
            first: The first step.
            last: The step after the last one.
            segment: Steps whose graph is held at once; None for what the memory budget holds.
        """
        count = last - first
        if segment is not None:
            return self._back(state, first, last, (segment,))
        if count < 2 or autodiff.mapped():
            return self._back(state, first, last, ())
        if self.capacity is None:
            middle, through_first = self.graph(state, first, first + 1, measure=True)
            middle, through_second = self.graph(middle, first + 1, first + 2, measure=True)
            if self._sizes(state, count) == (count,):
                found = self._back(middle, first + 2, last, ())
                return found._replace(slopes=through_first(through_second(found.slopes)))
            del middle, through_first, through_second
        return self._back(state, first, last, self._sizes(state, count))

    def to_start(self, previous: SolverState, slopes: Slopes) -> Params:
        """The derivative in the outer parameters, that of the start included.

        Args:
            previous: What the start policy was given.
            slopes: The derivatives of F at the start.
        """

        def begin(outer: Params) -> Variables:
            return self.loop.begin(outer, self.data, previous), outer

        _, pullback = autodiff.vjp(begin, self.outer, once=True)
        grad: Params = pullback(slopes)[0]
        return grad

    def metrics(self) -> dict[str, Tensor]:
        """The number of steps taken, for `inner_grads`: the run's table has their sum."""
        return {"inner_grads": counted(self.taken, self.outer)}

    def _back(
        self,
        state: SolverState,
        start: int,
        stop: int,
        sizes: tuple[int, ...],
        found: Unrolled | None = None,
    ) -> Unrolled:
        """As `backward`, given what was found behind `stop`: None where F is next."""
        if not sizes and found is not None:
            _, pullback = self.graph(state, start, stop)
            return found._replace(slopes=pullback(found.slopes))
        if not sizes:
            return self._finish(state, start, stop)
        cuts = [start, *reversed(range(stop - sizes[0], start, -sizes[0])), stop]
        states = [state]
        for segment in pairwise(cuts[:-1]):
            states.append(self.run(states[-1], *segment))
        for segment in reversed(list(pairwise(cuts))):
            found = self._back(states.pop(), *segment, sizes[1:], found)
        assert found is not None
        return found

    def _finish(self, state: SolverState, start: int, stop: int) -> Unrolled:
        def outer_loss(state: SolverState, outer: Params) -> Loss:
            state = self.advance(state, outer, start, stop)
            return self.loop.problem.outer_loss(state["inner"], outer, self.data.outer), state

        loss, pullback, end = autodiff.vjp(outer_loss, state, self.outer, has_aux=True, once=True)
        return Unrolled(loss, end, pullback(torch.ones_like(loss)))

    # What measures is made only when it is asked for, since none of it can be compiled.
    @cached_property
    def _key(self) -> tuple[Any, ...]:
        return graphs.key(self.loop, self.outer, self.data)

    @cached_property
    def _meter(self) -> autodiff.HeldBytes:
        return autodiff.HeldBytes()

    @cached_property
    def _readings(self) -> list[int]:
        return []

    @property
    def _budget(self) -> int:
        return memory.budget(episodes_of(self.loop.problem) or 1)

    def _learn(self, size: int) -> None:
        graphs.remember(self.loop, self._key, size)
        if not self.capacity:
            log.warning(
                "The memory budget is %.3g MB, and the graph of one inner step takes %.3g MB.",
                self._budget / 1e6,
                size / 1e6,
            )

    def _sizes(self, state: SolverState, count: int) -> tuple[int, ...]:
        state_bytes = sum(part.nbytes for part in trees.leaves(state))
        return segments.plan(count, graphs.measured[self._key], state_bytes, self._budget)
