"""Dataset distillation: a few learned images that teach a network what all real ones do."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from bilevel_cli.core import draws, trees
from bilevel_cli.core.blocks import check_batch_size
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.simplex import onto_simplex
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params
from bilevel_cli.data.base import Examples
from bilevel_cli.nn.building import build
from bilevel_cli.nn.functional import Functional
from bilevel_cli.nn.linearised import Linearised
from bilevel_cli.nn.losses import cross_entropy
from bilevel_cli.tasks.distillation import refusals
from bilevel_cli.tasks.distillation.accumulated_error import Segments
from bilevel_cli.tasks.distillation.lessons.base import Lesson
from bilevel_cli.tasks.distillation.networks import Networks
from bilevel_cli.tasks.distillation.objectives.base import Objective
from bilevel_cli.tasks.distillation.parametrization import Parametrization
from bilevel_cli.tasks.distillation.real import RealExamples, grouped
from bilevel_cli.tasks.distillation.real_batches import RealBatch
from bilevel_cli.tasks.distillation.retraining import Retraining
from bilevel_cli.tasks.distillation.selection import Selection
from bilevel_cli.tasks.distillation.siamese import Siamese
from bilevel_cli.tasks.distillation.storage import columns_of, provenance, save_grid, save_npz
from bilevel_cli.vocabulary import MANIFEST

NUMBERS = "augment."  # before the names of what an augmentation draws, in a batch


class Distillation(Task):
    """Learns `per_class` images of every class (Wang et al., 2018, arXiv:1811.10959), or `count`.

        f(z, lambda) = the lesson, mostly a cross-entropy, + l2 |z|^2    on learned images
        F(z, lambda) = the objective                                     on real images

    where lambda are the images and, if they are learned too, their soft labels. z begins at one of
    the `networks`. The docstring of an objective says which methods suit it.

    Images are normalised: mean 0 and variance 1 over the training images, channel by channel. What
    is saved is in the units of the data again.

    Scores, on the test examples: retrained_accuracy, the mean over fresh networks that `retraining`
    trains on the learned images alone; retrained_std, the standard deviation over these networks;
    joint_test_accuracy, that of the last inner iterate; and what `segments` measures. At step 0 the
    first is the score of the images before they are learned.

    Args:
        per_class: Learned images of each class, of the size of real ones; null where there is a
            `count`.
        count: Learned images of no class, whose labels are learned too and begin uniform: one image
            can stand for ten classes (Vicol et al., 2022, arXiv:2212.14032). Else null.
        real_per_class: Real images of each class in the batch of an outer step.
        batch_size: Learned images of an inner step, drawn without replacement; null for all.
        learn_labels: Whether labels are outer parameters, kept on the simplex; else one-hot.
        adapt: "all", or the prefix of the names of the parameters that are trained; the others
            keep their values in the network of the outer step. "head" makes the inner problem
            convex (the simplest form of RCIG, Loo et al., 2023, arXiv:2302.06755).
        l2: Weight of the squared norm of the trained parameters, >= 0. Not halved.
        linearised: Whether both losses see the first-order expansion of the network around the one
            of `networks` that the outer step picks (RCIG). With start=cold the inner loop begins
            there.
        lesson: The inner loss, of the network on learned images.
        parametrization: How learned images are stored.
        objective: The outer loss, which may have outer parameters of its own.
        networks: Where inner solves begin.
        real_batch: Which real images those are.
        siamese: Augmentation of learned images in inner steps, and of both kinds alike in the
            objective; null for none.
        selection: The real images to start from; null for noise.
        segments: Adds the error that accumulates along the experts to the scores; null: does not.
        retraining: How the learned set is judged.
        data: Labelled examples; those for validation are not used.
        model: The network, as conf/model builds it.
        device: Where the examples live.
        generator: Draws the split and the networks.
    """

    needs = Examples

    def __init__(
        self,
        per_class: int | None,
        count: int | None,
        real_per_class: int,
        batch_size: int | None,
        learn_labels: bool,
        adapt: str,
        l2: float,
        linearised: bool,
        lesson: Lesson,
        parametrization: Parametrization,
        objective: Objective,
        networks: Networks,
        real_batch: RealBatch,
        siamese: Siamese | None,
        selection: Selection | None,
        segments: Segments | None,
        retraining: Retraining,
        data: Examples,
        model: Callable[..., nn.Module],
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        refusals.check_settings(per_class, count, real_per_class, learn_labels)
        refusals.check_losses(count, l2, objective, networks)
        refusals.check_real_batch(real_batch, objective)
        train, _, test = data.splits(generator)
        refusals.check_examples(train, test, siamese)
        self.real = RealExamples(train, test, data.num_classes, device)
        self.train, self.test = self.real.train, self.real.test
        self.class_names = data.class_names
        many = parametrization.images_of_one(tuple(train.x.shape[1:]))
        self.groups = grouped(self.real, _times(per_class, many), _times(count, many))
        self.labels = self.groups.labels
        check_batch_size("Distillation", "batch_size", batch_size, len(self.labels))
        self.real_per_class, self.batch_size = real_per_class, batch_size
        self.learn_labels, self.l2 = learn_labels, l2
        self.linearised, self.lesson = linearised, lesson
        self.parametrization, self.objective = parametrization, objective
        self.networks, self.real_batch, self.siamese = networks, real_batch, siamese
        self.selection, self.retraining = selection, retraining
        shape = tuple(train.x.shape[1:])
        self.model = build(model, shape, data.num_classes, device, generator, self.train.x)
        self.adapted = _adapted(self.model, adapt)
        self.own = tuple(objective.begin(self.model))  # names of outer parameters
        real_batch.check(self.model, self.real, real_per_class)
        self.embedded = real_batch.embedded(self.real)
        real = {"x": self.train.x, "y": self.train.y}
        self.bank = networks.bank(self.model.init, self._real_loss, real, generator)
        self.segments, self.course = segments, None
        if segments is not None:
            self.course = networks.course(self.bank, segments.count)
            segments.check(self.course)
        self.eval_seed = int(torch.randint(2**62, (1,), generator=generator))
        self.statement = (
            f"Examples: {len(train.y)} to distil into {len(self.labels)}, {len(test.y)} for test."
        )
        if self.embedded:
            self.statement += (
                f" Each outer step embeds {self.embedded} of them to choose its real batch."
            )

    def init_outer(self, generator: torch.Generator) -> Params:
        shape = len(self.labels), *self.train.x.shape[1:]
        if self.selection is None:
            images = draws.normal(*shape, generator=generator).to(self.train.x)
        else:
            images = self.train.x[
                self.selection.select(
                    self.train.x, self.groups.of_real, self.groups.each, generator
                )
            ]
        outer = self.parametrization.begin(images, generator)
        if self.learn_labels:
            outer["labels"] = self.labels
        return outer | self.objective.begin(self.model)

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        learned, device = len(self.labels), self.train.x.device
        index = torch.arange(learned, device=device).expand(num_steps, -1)
        if self.batch_size is not None:
            keys = draws.uniform(num_steps, learned, generator=generator)
            index = keys.topk(self.batch_size).indices
        outer = self.real_batch.draw(self.real, self.real_per_class, generator)
        begin, become = self.networks.pick(self.bank, generator)
        if become:
            outer |= trees.prefixed("origin.", begin) | trees.prefixed("target.", become)
        inner = {"index": index}
        if self.linearised:
            origin = trees.prefixed("origin.", begin)
            inner |= {name: z.expand(num_steps, *z.shape) for name, z in origin.items()}
            outer |= origin
        if self.siamese is not None:
            inner |= {n: v[:, None] for n, v in self._numbers(num_steps, generator).items()}
            outer |= self._numbers(1, generator)
        return StepData(begin, inner, outer)

    def project_outer(self, outer: Params) -> Params:
        return outer | {n: onto_simplex(outer[n]) for n in outer if n == "labels"}

    def deployed(self, outer: Params) -> Params:
        return self.parametrization.deployed(outer)

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        x, y = (part[batch["index"]] for part in self._learned(outer))
        inner = self._held(inner)
        loss = self.lesson(self._network(batch), inner, self._augmented(x, batch), y)
        if self.l2:
            loss = loss + self.l2 * sum(inner[name].square().sum() for name in self.adapted)
        return loss

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        images, labels = self._learned(outer)
        groups = self.groups.number, self.groups.each
        real = self.real_batch.chosen(self.model, inner, batch, self.real_per_class)
        learned = {
            "x": self._augmented(images, batch).reshape(*groups, *images.shape[1:]),
            "y": labels.reshape(*groups, -1),
            **{name: outer[name] for name in self.own},
        }
        x = self._augmented(real["x"].flatten(0, 1), batch).reshape(real["x"].shape)
        real = {"x": x, "y": real["y"]}
        loss = self.objective(self._network(batch), self._held(inner), learned, real, batch)
        return loss + self.parametrization.penalty(outer)

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.eval_seed)
        accuracies = self.retraining.accuracies(
            self.model, *self._learned(self.deployed(outer)), self.test.x, self.test.y, generator
        )
        scores = {
            "retrained_accuracy": accuracies.mean(),
            "retrained_std": accuracies.std(correction=0),
            "joint_test_accuracy": self.retraining.accuracy(
                self.model, inner, self.test.x, self.test.y
            ),
        }
        if self.segments is not None and self.course is not None:
            scores |= self.segments.errors(loop, outer, self.course, self.sample, self.eval_seed)
        return scores

    def spent(self, steps: int) -> dict[str, int]:
        return {"embedding_passes": steps * self.embedded} if self.embedded else {}

    def save_result(self, directory: Path, outer: Params, inner: Params) -> list[Path]:
        """Writes `distilled.npz`, and of grey or colour images `distilled.png`.

        Entries: images, in the units of the data; labels, soft; mean and std, with which they are
        normalised before training; bytes, the memory of what is stored at 8 bits a number, and what
        that is, if not the images; all else that was learned, such as `log_lr`; and the words
        class_names and provenance.
        """
        outer, in_units = self.deployed(outer), self.real.in_units_of_the_data
        images, labels = self._learned(outer)
        images = in_units(images)
        more = {n: v for n, v in outer.items() if n != "labels" and not n.startswith("images")}
        more |= self.parametrization.entries(outer, in_units)
        path, picture = directory / "distilled.npz", directory / "distilled.png"
        words = {
            "class_names": self.class_names,
            "provenance": provenance(directory / MANIFEST),
        }
        save_npz(path, images, labels, mean=self.real.mean, std=self.real.std, **more, **words)
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            return [path]
        save_grid(picture, images, columns_of(self.groups.each, len(images)))
        return [path, picture]

    def _learned(self, outer: Params) -> tuple[Tensor, Tensor]:
        return self.parametrization.images(outer), outer.get("labels", self.labels)

    def _network(self, batch: Batch) -> Functional:
        if not self.linearised:
            return self.model
        return Linearised.around(self.model, trees.under("origin.", batch))

    def _real_loss(self, params: Params, batch: Batch) -> Tensor:
        return cross_entropy(self.model.apply(params, batch["x"]), batch["y"])

    def _held(self, inner: Params) -> Params:
        """The same parameters, in which those that are not trained are constants."""
        return {n: z if n in self.adapted else z.detach() for n, z in inner.items()}

    def _numbers(self, count: int, generator: torch.Generator) -> Batch:
        assert self.siamese is not None
        return trees.prefixed(NUMBERS, self.siamese.draw(count, generator))

    def _augmented(self, x: Tensor, batch: Batch) -> Tensor:
        if self.siamese is None:
            return x
        return self.siamese(x, trees.under(NUMBERS, batch))


def _times(count: int | None, many: int) -> int | None:
    return None if count is None else count * many


def _adapted(model: Functional, adapt: str) -> list[str]:
    """The names of the parameters that are trained."""
    names = [name for name, _ in model.named_parameters()]
    found = [n for n in names if adapt == "all" or n.startswith(adapt + ".")]
    if not found:
        raise ValueError(
            f"Distillation needs adapt=all or the prefix of some parameters of the model, got "
            f"adapt={adapt}. The model has {', '.join(names)}."
        )
    return found
