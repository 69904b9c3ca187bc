"""Which real images an outer step compares with the learned ones."""

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.nn.functional import Functional
from bilevel_cli.tasks.distillation.clusters import nearest_to_centres
from bilevel_cli.tasks.distillation.real import RealExamples


class RealBatch(abc.ABC):
    """A rule for the real batch of an outer step, of two parts.

    What is random is drawn before the step. What depends on the network is a pure function within
    the outer loss. So a rule remembers nothing, and always sees the present network, whatever the
    start of the inner loop.

    Attributes:
        chooses: Whether images are embedded to choose among them.
    """

    chooses: bool = False

    def check(self, model: Functional, real: RealExamples, per_class: int) -> None:
        """Raises ValueError where the rule cannot serve.

        Args:
            model: The architecture.
            real: The real examples.
            per_class: Images of each class in the real batch.
        """
        del model, real, per_class

    @abc.abstractmethod
    def draw(self, real: RealExamples, per_class: int, generator: torch.Generator) -> Batch:
        """Real images "x" and their labels "y", as `RealExamples.draw` shapes them.

        Args:
            real: The real examples.
            per_class: Images of each class in the real batch. More may be drawn, to choose from.
            generator: On the device of the examples.
        """

    def chosen(self, model: Functional, params: Params, drawn: Batch, per_class: int) -> Batch:
        """The real batch: "x" and "y", of shape [classes, per_class, ...].

        Args:
            model: The architecture.
            params: Its present parameters, at which the outer loss is taken.
            drawn: What `draw` returned, among other entries.
            per_class: Images of each class in the real batch.
        """
        del model, params, per_class
        return {name: drawn[name] for name in ("x", "y")}

    def embedded(self, real: RealExamples) -> int:
        """Real images that pass through the network, for one outer loss, to choose the batch."""
        del real
        return 0


@dataclass(frozen=True)
class RandomBatch(RealBatch):
    """Images of each class, drawn with replacement."""

    def draw(self, real: RealExamples, per_class: int, generator: torch.Generator) -> Batch:
        return real.draw(per_class, generator)


@dataclass(frozen=True)
class Representative(RealBatch):
    """The images nearest to the centres of clusters in feature space (DREAM, Liu et al., 2023,
    arXiv:2302.14416).

    Of each class, candidates are drawn without replacement. The present network embeds them; their
    features, which its last layer is given, are clustered by k-means, with as many clusters as the
    batch has images; and the candidate nearest to each centre is taken. k-means begins at the first
    candidates, which are random.

    The authors embed all images of a class every few iterations, and use what they chose until the
    next time. Here a random part of the class is embedded at each step: no memory goes from one
    step to the next, batches vary, and the network is always the present one. A tenth of a class at
    each step costs as much as all of it at every tenth. Augmentation comes after the choice. In
    derivatives the choice is a constant, since it is piecewise constant.

    Needs a model with a last layer called `head`. Costs a forward pass of `candidates` images of
    each class for each evaluation of the outer loss, and `rounds + 1` times candidates * clusters
    distances of each class. Methods evaluate the outer loss once in an outer step, but for those
    that compare several, such as evolution strategies.

    Args:
        candidates: Images of each class that are embedded; where the rarest class has fewer, as
            many as it has, a number that the seed decides: replicas are then not mapped. At least
            as many as the batch has of a class.
        rounds: Of Lloyd's algorithm, >= 0.
    """

    candidates: int
    rounds: int

    chooses = True

    def __post_init__(self) -> None:
        for name, least in (("candidates", 1), ("rounds", 0)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"Representative needs {name} >= {least}, got {name}={getattr(self, name)}. "
                    f"Set task.real_batch.{name}."
                )

    def check(self, model: Functional, real: RealExamples, per_class: int) -> None:
        if per_class > self._each(real):
            raise ValueError(
                f"Representative needs real_per_class <= {self._each(real)}, the images of a class "
                f"that it clusters, got real_per_class={per_class}. Lower task.real_per_class, or "
                "raise task.real_batch.candidates and data.train."
            )
        model.features(dict(model.named_parameters()), real.train.x[:1])  # says what it lacks

    def draw(self, real: RealExamples, per_class: int, generator: torch.Generator) -> Batch:
        return real.draw_distinct(self._each(real), generator)

    def chosen(self, model: Functional, params: Params, drawn: Batch, per_class: int) -> Batch:
        x, fixed = drawn["x"], {name: value.detach() for name, value in params.items()}
        features = model.features(fixed, x.flatten(0, 1)).reshape(*x.shape[:2], -1)
        rows = nearest_to_centres(features, per_class, self.rounds)
        return {name: _taken(drawn[name], rows) for name in ("x", "y")}

    def embedded(self, real: RealExamples) -> int:
        return len(real.counts) * self._each(real)

    def _each(self, real: RealExamples) -> int:
        return min(self.candidates, real.rarest)


def _taken(x: Tensor, rows: Tensor) -> Tensor:
    """The rows [classes, n] of x [classes, m, ...], each of its class."""
    return x[torch.arange(len(x), device=x.device)[:, None], rows]
