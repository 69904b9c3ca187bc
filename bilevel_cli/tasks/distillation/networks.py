"""The networks that a distilled set is trained on while it is learned: fresh ones, or experts."""

import abc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.blocks import epochs
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.random import EXPERTS
from bilevel_cli.core.trees import Params
from bilevel_cli.solvers.sharpness import Sharpness

Init = Callable[[torch.Generator], Params]
Loss = Callable[[Params, Batch], Tensor]


class Networks(abc.ABC):
    """A bank of networks, made once: an outer step picks one of them by its number.

    Because the networks exist before the first step, no outer step waits for the device to hand
    over a seed, and one seed gives the same networks on every device.

    Attributes:
        targets: Whether a network comes with the one that it should become.
    """

    targets: bool = False

    @abc.abstractmethod
    def bank(self, init: Init, loss: Loss, train: Batch, generator: torch.Generator) -> Params:
        """Parameters with leading dimensions [networks, ages].

        Args:
            init: Fresh parameters, from a generator on the CPU.
            loss: What training on real examples minimises, of parameters and a batch.
            train: All real training examples: entries of shape [n, ...].
            generator: On the CPU.
        """

    @abc.abstractmethod
    def pick(self, bank: Params, generator: torch.Generator) -> tuple[Params, Params]:
        """A network to begin at, and the one that it should become, or {}.

        Args:
            bank: What `bank` returned.
            generator: On the device of the bank.
        """

    def course(self, bank: Params, stretches: int) -> Params | None:
        """Every network at its start, and after each of several stretches of its training.

        Args:
            bank: What `bank` returned.
            stretches: How many, each as long as that from a network to what it should become.

        Returns:
            Parameters with leading dimensions [networks, stretches + 1], or fewer where the
            training was shorter; None where networks are not trained.
        """
        return None


@dataclass(frozen=True)
class Fresh(Networks):
    """Networks with the model's own random parameters.

    Args:
        count: How many. They take `count` times the memory of one.
    """

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"Fresh needs count >= 1, got count={self.count}.")

    def bank(self, init: Init, loss: Loss, train: Batch, generator: torch.Generator) -> Params:
        drawn = [init(generator) for _ in range(self.count)]
        return {name: torch.stack([one[name] for one in drawn])[:, None] for name in drawn[0]}

    def pick(self, bank: Params, generator: torch.Generator) -> tuple[Params, Params]:
        return _at(bank, _below(self.count, generator), _below(1, generator)), {}


@dataclass(frozen=True)
class Experts(Networks):
    """Networks along their training on real data (MTT, Cazenavette et al., 2022, arXiv:2203.11932).

    Each is trained by gradient descent with momentum on minibatches, and kept as it is after every
    epoch. That takes count * (epochs + 1) times the memory of one network.

    Args:
        count: How many.
        epochs: Epochs of each.
        batch_size: Examples of a step.
        lr: Step size.
        momentum: Decay of the velocity, in [0, 1).
        span: Epochs from where a network begins to what it should become.
        last_start: Latest epoch at which one begins.
        trainer: What a step takes for the gradient; null for the gradient itself. Sharpness makes
            flat trajectories (FTD, Du et al., 2023, arXiv:2211.11004), for twice the gradients.
    """

    count: int
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    span: int
    last_start: int
    trainer: Sharpness | None

    targets = True

    def __post_init__(self) -> None:
        for name in ("count", "batch_size", "span"):
            if getattr(self, name) < 1:
                raise ValueError(f"Experts needs {name} >= 1, got {name}={getattr(self, name)}.")
        if not 0 <= self.last_start <= self.epochs - self.span:
            raise ValueError(
                f"Experts needs last_start from 0 to epochs - span, got last_start="
                f"{self.last_start}, epochs={self.epochs}, span={self.span}. Raise epochs."
            )

    def bank(self, init: Init, loss: Loss, train: Batch, generator: torch.Generator) -> Params:
        trained = [self._train(init, loss, train, generator) for _ in range(self.count)]
        return {name: torch.stack([one[name] for one in trained]) for name in trained[0]}

    def pick(self, bank: Params, generator: torch.Generator) -> tuple[Params, Params]:
        network, age = _below(self.count, generator), _below(self.last_start + 1, generator)
        return _at(bank, network, age), _at(bank, network, age + self.span)

    def course(self, bank: Params, stretches: int) -> Params | None:
        return {
            name: value[:, : stretches * self.span + 1 : self.span] for name, value in bank.items()
        }

    @torch.no_grad()
    def _train(self, init: Init, loss: Loss, train: Batch, generator: torch.Generator) -> Params:
        slope = autodiff.grad(loss)
        z = init(generator)
        velocity, kept = trees.zeros_like(z), [z]
        entry = next(iter(train.values()))
        count = len(entry)
        orders = [epochs(EXPERTS, count, count, generator) for _ in range(self.epochs)]
        for order in torch.stack(orders).to(entry.device, non_blocking=True):
            for rows in torch.split(order, self.batch_size):
                batch = {name: part[rows] for name, part in train.items()}
                grad = self._gradient(slope, z, batch)
                velocity = trees.axpy(self.momentum, velocity, grad)
                z = trees.axpy(-self.lr, velocity, z)
            kept.append(z)
        return {name: torch.stack([one[name] for one in kept]) for name in z}

    def _gradient(
        self, slope: Callable[[Params, Batch], Params], z: Params, batch: Batch
    ) -> Params:
        if self.trainer is None:
            return slope(z, batch)
        return self.trainer.gradient(lambda there: slope(there, batch), z)


def _below(bound: int, generator: torch.Generator) -> Tensor:
    return torch.randint(bound, (1,), generator=generator, device=generator.device)


def _at(bank: Params, network: Tensor, age: Tensor) -> Params:
    return {
        n: value.index_select(0, network)[0].index_select(0, age)[0] for n, value in bank.items()
    }
