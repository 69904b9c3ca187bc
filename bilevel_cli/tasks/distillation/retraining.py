"""What a small set teaches: the accuracy of fresh networks that are trained on it alone."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.blocks import epochs
from bilevel_cli.core.host import is_host
from bilevel_cli.core.random import ROWS
from bilevel_cli.core.threads import on_cores
from bilevel_cli.core.trees import Params
from bilevel_cli.nn.functional import Functional
from bilevel_cli.nn.losses import cross_entropy

TrainingSet = tuple[Tensor, Tensor]  # images [n, ...] and labels [n, classes]
Loss = Callable[[Tensor, Tensor], Tensor]  # of outputs and labels of the images of a step
Result = TypeVar("Result")


class Augmentation(Protocol):
    """A random transformation of images, whose random numbers are drawn apart from it."""

    def draw(self, count: int, generator: torch.Generator) -> Params:
        """The random numbers for `count` images."""
        ...

    def __call__(self, images: Tensor, numbers: Params) -> Tensor:
        """The images transformed, of the same shape."""
        ...


@dataclass(frozen=True)
class Retraining:
    """Trains fresh networks on a set of images with soft labels, and tests them.

        z_{t+1} = z_t - lr_t * v_{t+1},  v_{t+1} = momentum * v_t + grad l(z_t) + weight_decay * z_t
        l(z)    = - mean_i sum_c labels_ic log softmax(z(images_i))_c

    with lr_t = lr in the first half of the steps and decay * lr in the second: the evaluation of
    gradient matching (Zhao et al., 2021, arXiv:2006.05929) and of the works after it. Ordinary
    training, of which no derivative is taken. On a CPU each network has a thread of its own; the
    numbers depend on the generator alone.

    Args:
        networks: How many networks, each from a start of its own.
        steps: Steps of each. One step is one epoch where the batch is the whole set.
        lr: Step size of the first half.
        decay: Factor of the step size in the second half, > 0.
        momentum: Decay of the velocity, in [0, 1).
        weight_decay: Of all parameters, >= 0.
        batch_size: Images of a step; null, or more than there are, for all of them.
        test_batch_size: Images that are tested at once, which bounds the memory.
        augment: What is done to the images of every step, with fresh random numbers; null: nothing.
    """

    networks: int
    steps: int
    lr: float
    decay: float
    momentum: float
    weight_decay: float
    batch_size: int | None
    test_batch_size: int
    augment: Augmentation | None

    def __post_init__(self) -> None:
        for name in ("networks", "steps", "batch_size", "test_batch_size"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ValueError(f"Retraining needs {name} >= 1, got {name}={count}. Set {name}.")
        for name in ("lr", "decay"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"Retraining needs a finite {name} > 0, got {name}={value}.")
        if not 0 <= self.momentum < 1:
            raise ValueError(
                f"Retraining needs momentum in [0, 1), got momentum={self.momentum}. "
                "Use 0 for plain gradient descent."
            )
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(
                "Retraining needs a finite weight_decay >= 0, got "
                f"weight_decay={self.weight_decay}."
            )

    def accuracies(
        self,
        model: Functional,
        images: Tensor,
        labels: Tensor,
        test_x: Tensor,
        test_y: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """The test accuracy of each network, of shape [networks].

        Args:
            model: The architecture.
            images: Of shape [n, ...], on the device of the model.
            labels: Of shape [n, classes], >= 0; rows need not sum to one.
            test_x: Test images.
            test_y: Their labels, of shape [m].
            generator: On the CPU. Draws the starts, the batches and what augments them.
        """
        sets = [(images, labels)] * self.networks
        return self.accuracies_of(model, sets, test_x, test_y, generator)

    def accuracies_of(
        self,
        model: Functional,
        sets: Sequence[TrainingSet],
        test_x: Tensor,
        test_y: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """As `accuracies`, with one network for each (images, labels) in `sets`."""

        def tested(params: Params) -> Tensor:
            return self.accuracy(model, params, test_x, test_y)

        return torch.stack(self._each(model, sets, generator, tested, cross_entropy))

    def networks_of(
        self,
        model: Functional,
        sets: Sequence[TrainingSet],
        generator: torch.Generator,
        loss: Loss = cross_entropy,
    ) -> list[Params]:
        """The parameters of one trained network for each (images, labels) in `sets`.

        Args: as of `accuracies`, and
            loss: What training minimises in place of l.
        """
        return self._each(model, sets, generator, lambda params: params, loss)

    @torch.no_grad()
    def outputs(self, model: Functional, params: Params, x: Tensor) -> Tensor:
        """The logits, of shape [len(x), classes]."""
        return torch.cat(
            [model.apply(params, part) for part in torch.split(x, self.test_batch_size)]
        )

    def accuracy(self, model: Functional, params: Params, x: Tensor, y: Tensor) -> Tensor:
        """The share of right answers, 0-dim."""
        right = self.outputs(model, params, x).argmax(1) == y
        return right.to(x.dtype).mean()

    def _each(
        self,
        model: Functional,
        sets: Sequence[TrainingSet],
        generator: torch.Generator,
        use: Callable[[Params], Result],
        loss: Loss,
    ) -> list[Result]:
        """What `use` makes of a network trained on each of the sets."""
        seeds = torch.randint(2**62, (len(sets),), generator=generator).tolist()
        sources = [torch.Generator().manual_seed(seed) for seed in seeds]
        # Before the threads: modules draw their starts from the one global generator.
        starts = [model.init(source) for source in sources]
        on_cpu = all(is_host(value.device) for value in starts[0].values())
        workers = min(torch.get_num_threads(), len(sets)) if on_cpu else 1

        def run(start: Params, some: TrainingSet, source: torch.Generator) -> Result:
            *_, last = self.course(model, start, some, source, loss)
            return use(last)

        return on_cores(run, starts, sets, sources, workers=workers)

    @torch.no_grad()
    def course(
        self,
        model: Functional,
        start: Params,
        some: TrainingSet,
        source: torch.Generator,
        loss: Loss = cross_entropy,
    ) -> Iterator[Params]:
        """The parameters of a network after each step; the next step writes into the same tensors.

        Args:
            model: The architecture.
            start: Parameters before the first step.
            some: On what it is trained.
            source: On the CPU. Draws the batches and what augments them.
            loss: Of the outputs and the labels.
        """
        images, labels = some

        def whole(params: Params, x: Tensor, y: Tensor) -> Tensor:
            return loss(model.apply(params, x), y)

        gradient = autodiff.grad(whole)
        params = {name: value.clone() for name, value in start.items()}
        velocity = trees.zeros_like(params)
        size = min(self.batch_size or len(images), len(images))
        rows = epochs(ROWS, len(images), self.steps * size, source)
        rows = rows.to(images.device, non_blocking=True)
        # Of all steps at once: copied in each, a GPU would be waited for in each.
        numbers: Params = {}
        if self.augment is not None:
            drawn = [self.augment.draw(size, source) for _ in range(self.steps)]
            for name in drawn[0]:
                stacked = torch.stack([one[name] for one in drawn])
                numbers[name] = stacked.to(images.device, non_blocking=True)
        for step, batch in enumerate(torch.split(rows, size)):
            x, y = images[batch], labels[batch]
            if self.augment is not None:
                x = self.augment(x, {name: value[step] for name, value in numbers.items()})
            lr = self.lr if 2 * step < self.steps else self.decay * self.lr
            for name, grad in gradient(params, x, y).items():
                direction = grad.add(params[name], alpha=self.weight_decay)
                velocity[name].mul_(self.momentum).add_(direction)
                params[name].sub_(velocity[name], alpha=lr)
            yield params


def hard(classes: Tensor, num_classes: int) -> Tensor:
    """One-hot labels, of shape [n, num_classes]."""
    return one_hot(classes, num_classes).to(torch.get_default_dtype())
