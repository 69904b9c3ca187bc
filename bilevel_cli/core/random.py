"""The independent random numbers behind the seed of a run."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

# The streams behind a seed, by what their numbers are for. These words decide the random numbers of
# every run: who changes one changes the results of all that draw from it.
INITIALISATION = "initialisation"  # the outer parameters before the first step
FIRST_SAMPLE = "first sample"  # the data from which a method and a start begin
FIRST_EXTRAS = "first extra minibatches"  # the extra minibatches of the method, likewise
SAMPLING = "sampling"  # the data of outer steps
EXTRAS = "extra minibatches"  # the extra minibatches of the method, in outer steps
NOISE = "noise"  # what else a method draws in outer steps
INNER_STEPS = "inner steps"  # what the inner solver draws, likewise
DATA = "data"  # splits, label noise, and what else a task draws when it is built
FRESH_SOLVE = "re-training"  # the data of the fresh inner solve in evaluations
SELECTION = "selection"  # which real examples stand against a distilled set
RETRAINING = "retraining"  # the networks that are trained on both
TEACHER = "teacher"  # the network that labels them
PRUNING = "pruning"  # which images of a distilled set stay
STOPPED = "stopped early"  # the networks that a distilled set's are compared with

# The epochs drawn from a stream, by the examples that they visit.
INNER = "inner"  # of f
OUTER = "outer"  # of F
META = "meta"  # of the clean set, at inner steps
EXPERTS = "experts"  # of the training set, by the experts of distillation
ROWS = "rows"  # of a set on which a network is trained anew


class Stream(torch.Generator):
    """A source of random numbers that remembers what is left of each epoch drawn from it.

    Attributes:
        orders: For each epoch, by its name: the examples that it has yet to show, in their order.
    """

    orders: dict[str, Tensor]

    def order(self, name: str) -> Tensor | None:
        """What remains of the present epoch called `name`; None before the first."""
        return self.__dict__.setdefault("orders", {}).get(name)

    def state(self) -> dict[str, Any]:
        """What `restore` needs to continue: tensors and dicts of them."""
        return {"random": self.get_state(), "orders": dict(self.__dict__.get("orders", {}))}

    def restore(self, state: dict[str, Any]) -> None:
        self.set_state(state["random"])
        self.orders = {name: order.to(self.device) for name, order in state["orders"].items()}


class Epoch(NamedTuple):
    """What one call asks of a stream: the next `taken` of the numbers below `size`.

    Attributes:
        name: Of the sequence of epochs.
        size: Length of an epoch.
        taken: How many numbers.
    """

    name: str
    size: int
    taken: int


class Recorder:
    """In place of a stream: notes which epochs are asked of it, and hands out zeros.

    Whatever else draws from it fails, since it is no generator of torch's.

    Args:
        device: Of the numbers.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.asked: list[Epoch] = []

    def next(self, epoch: Epoch) -> Tensor:
        self.asked.append(epoch)
        return torch.zeros(epoch.taken, dtype=torch.int64, device=self.device)


class Replay:
    """In place of a stream: hands out numbers that were drawn from it before.

    Args:
        drawn: One tensor of numbers for each epoch that will be asked for, in this order.
        device: Of the numbers.
    """

    def __init__(self, drawn: Sequence[Tensor], device: torch.device) -> None:
        self.device = device
        self._drawn = iter(drawn)

    def next(self, epoch: Epoch) -> Tensor:
        del epoch
        return next(self._drawn)


def generator(seed: int, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """One of the independent sources of random numbers behind a seed.

    Streams are apart so that two methods with one seed see the same data, whatever each draws.

    Args:
        seed: The run's seed.
        stream: What the numbers are for: one of the words above.
        device: Where they are drawn.
    """
    return torch.Generator(device).manual_seed(stream_seed(seed, stream))


def stream_seed(seed: int, stream: str) -> int:
    """The seed of one of the streams behind a run's seed."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Streams:
    """The random numbers of a run, each kind apart.

    Args:
        seed: Of the run.
        device: Where they are drawn.

    Attributes:
        sampling: Of the data of outer steps.
        extras: Of the extra minibatches of a method.
        noise: Of the noise of a method.
        draws: Of the inner solver.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.sampling, self.extras = Stream(device), Stream(device)
        self.sampling.manual_seed(stream_seed(seed, SAMPLING))
        self.extras.manual_seed(stream_seed(seed, EXTRAS))
        self.noise = generator(seed, NOISE, device)
        self.draws = generator(seed, INNER_STEPS, device)

    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds of them."""
        return {
            "sampling": self.sampling.state(),
            "extras": self.extras.state(),
            "noise": self.noise.get_state(),
            "draws": self.draws.get_state(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.sampling.restore(saved["sampling"])
        self.extras.restore(saved["extras"])
        self.noise.set_state(saved["noise"])
        if "draws" in saved:  # not in a checkpoint from before version 0.7.0
            self.draws.set_state(saved["draws"])
