"""The data of many outer steps, drawn ahead of them from the same streams."""

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from bilevel_cli.core import episodes, trees
from bilevel_cli.core.blocks import epochs_ahead
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.random import Recorder, Replay, Stream, Streams
from bilevel_cli.core.trees import Params, Tree
from bilevel_cli.runs.experiment import Experiment


class Sample(Protocol):
    """Draws the data of one outer step from two streams: of the inner loop, and of the method."""

    def __call__(self, sampling: Any, extras: Any) -> StepData: ...


class Numbers:
    """Data that are gathered, by numbers that alone are drawn ahead.

    Args:
        sample: Draws nothing but epochs (`blocks.epochs`).
        device: Where they are drawn.

    Raises:
        TypeError: It draws something else.
    """

    def __init__(self, sample: Sample, device: torch.device) -> None:
        asked = Recorder(device), Recorder(device)
        sample(*asked)
        self._sample, self._device = sample, device
        self._asked = tuple(recorder.asked for recorder in asked)

    def draw(self, steps: int, *streams: Stream) -> Tree:
        """The numbers of so many outer steps, each of shape [steps, ...]."""
        pairs = zip(self._asked, streams, strict=True)
        return tuple(tuple(epochs_ahead(asked, steps, stream)) for asked, stream in pairs)

    def data(self, one: Tree) -> StepData:
        """The data of a step whose numbers are `one`."""
        return self._sample(*(Replay(numbers, self._device) for numbers in one))


class Whole:
    """Data that are drawn as they are, but for tensors that are the same at every step.

    Args:
        sample: Draws them.
        streams: Draws from them twice.
    """

    def __init__(self, sample: Sample, streams: tuple[Stream, Stream]) -> None:
        self._sample = sample
        self._nesting: Tree = tuple(sample(*streams))
        two = trees.leaves(self._nesting), trees.leaves(tuple(sample(*streams)))
        # A full batch is a view of what the task holds.
        self._same = [
            one if _place(one) == _place(other) else None for one, other in zip(*two, strict=True)
        ]

    def draw(self, steps: int, *streams: Stream) -> Tree:
        """The data of so many outer steps, each of shape [steps, ...].

        Raises:
            ValueError: What was the same at every step is not. The streams are as before.
        """
        before, rows = [stream.state() for stream in streams], []
        for _ in range(steps):
            leaves = trees.leaves(tuple(self._sample(*streams)))
            pairs = list(zip(leaves, self._same, strict=True))
            if any(same is not None and _place(x) != _place(same) for x, same in pairs):
                for stream, state in zip(streams, before, strict=True):
                    stream.restore(state)
                raise ValueError("data that seemed to be the same at every step are not")
            rows.append(tuple(x for x, same in pairs if same is None))
        return tuple(map(torch.stack, zip(*rows, strict=True)))

    def data(self, one: Tree) -> StepData:
        """The data of a step, of what was drawn for it."""
        drawn = iter(one)
        leaves = [next(drawn) if same is None else same for same in self._same]
        return StepData(*trees.rebuilt(self._nesting, leaves))


def _place(x: Tensor) -> tuple[Any, ...]:
    return x.untyped_storage().data_ptr(), x.storage_offset(), x.shape, x.stride()


class Ahead:
    """What outer steps of a run are given besides what moves: data and noise.

    Args:
        part: What is computed.
        steps: Inner steps of an outer step.
        outer: The outer parameters, for their shapes.
        streams: The random numbers of the run.
    """

    def __init__(self, part: Experiment, steps: int, outer: Params, streams: Streams) -> None:
        self._part, self._steps, self._outer, self._streams = part, steps, outer, streams
        two = streams.sampling, streams.extras
        self._data: Numbers | Whole
        try:
            self._data = Numbers(self._sample, two[0].device)
        except (TypeError, AttributeError):  # it draws something else than epochs
            with self.undone():
                self._data = Whole(self._sample, two)
        if part.loop.solver.takes_draws:
            with self.undone():
                self._example = self._sample(*two)

    def draw(self, steps: int) -> Tree:
        """What so many outer steps are given, each tensor of shape [steps, ...].

        Raises:
            ValueError: It cannot be drawn ahead. The streams are as before.
        """
        streams = self._streams
        noise = [self._part.method.draw(self._outer, streams.noise) for _ in range(steps)]
        draws = [self._draws() for _ in range(steps)]
        return {
            "data": self._data.draw(steps, streams.sampling, streams.extras),
            "noise": trees.map_leaves(lambda *xs: torch.stack(xs), *noise),
            "draws": trees.map_leaves(lambda *xs: torch.stack(xs), *draws),
        }

    def data(self, one: Tree) -> StepData:
        """The data and the random numbers of one step, of what was drawn for it."""
        data = self._data.data(one["data"])
        return data._replace(noise=one["noise"], draws=one["draws"])

    @contextlib.contextmanager
    def undone(self) -> Iterator[None]:
        """Afterwards the streams are as before."""
        saved = self._streams.saved()
        try:
            yield
        finally:
            self._streams.restore(saved)

    def _draws(self) -> Params:
        """The random numbers of the inner steps of one outer step."""
        loop, random = self._part.loop, self._streams.draws
        if not loop.solver.takes_draws:
            return {}
        return episodes.drawn(loop, self._outer, self._example, random).draws

    def _sample(self, sampling: Any, extras: Any) -> StepData:
        part = self._part
        return episodes.sample(part.task, part.method, self._steps, sampling, extras)
