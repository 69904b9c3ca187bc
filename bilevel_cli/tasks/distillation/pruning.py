"""A distilled set made smaller without distilling again: which of its images stay."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from bilevel_cli.core.random import PRUNING, generator
from bilevel_cli.nn.functional import Functional
from bilevel_cli.tasks.distillation.contest import Contest, announced, summary
from bilevel_cli.tasks.distillation.retraining import Retraining, TrainingSet, hard
from bilevel_cli.tasks.distillation.selection import Selection


class Pruning(abc.ABC):
    """A rule that orders the images of every class; a smaller set keeps the first of each."""

    @abc.abstractmethod
    def order(
        self,
        some: TrainingSet,
        per_class: int,
        model: Functional,
        how: Retraining,
        source: torch.Generator,
    ) -> Tensor:
        """The rows of the images that stay longest, of shape [classes, per_class].

        Args:
            some: Images [n, ...] and labels [n, classes]. An image is of the class of its largest
                label, and every class has at least `per_class`.
            per_class: How many images of each class to order.
            model: The architecture, for rules that train a network.
            how: How they train it.
            source: On the CPU.
        """


@dataclass(frozen=True)
class Selected(Pruning):
    """The images that a selection picks, in its order. It sees pixels, and trains nothing.

    Args:
        selection: Herding, say.
    """

    selection: Selection

    def order(
        self,
        some: TrainingSet,
        per_class: int,
        model: Functional,
        how: Retraining,
        source: torch.Generator,
    ) -> Tensor:
        images, labels = some
        rows = self.selection.select(images, labels.argmax(1), per_class, source)
        return rows.reshape(-1, per_class)


@dataclass(frozen=True)
class Lbpe(Pruning):
    """The images that a network predicts best in its best epochs (YOCO, He et al., 2023).

        score_i = mean_k | onehot_i - p_ik |_2

    arXiv:2310.14019. p_ik are the probabilities that a network, trained on the whole distilled set,
    gives to image i after epoch k. The mean is over the `best` epochs with the highest accuracy on
    the distilled images, the earlier one where two have the same. The lowest scores stay, as many
    of every class. The step size of `how` is held: the published epochs come before it falls.
    Predictions are made after each epoch, on images that are not augmented; the authors' are made
    along the epoch, on augmented ones.

    It costs `epochs` of training, and as many predictions of all images.

    Args:
        epochs: E, epochs that are looked at.
        best: K, epochs that are averaged, from 1 to `epochs`.
    """

    epochs: int
    best: int

    def __post_init__(self) -> None:
        if not 1 <= self.best <= self.epochs:
            raise ValueError(
                f"Lbpe needs best from 1 to epochs, got best={self.best}, epochs={self.epochs}."
            )

    def order(
        self,
        some: TrainingSet,
        per_class: int,
        model: Functional,
        how: Retraining,
        source: torch.Generator,
    ) -> Tensor:
        images, labels = some
        classes = labels.argmax(1)
        in_epoch = -(-len(images) // min(how.batch_size or len(images), len(images)))  # steps
        long = replace(how, steps=self.epochs * in_epoch, decay=1.0)
        found = [
            how.outputs(model, params, images).softmax(1)
            for step, params in enumerate(long.course(model, model.init(source), some, source), 1)
            if step % in_epoch == 0
        ]
        score = lbpe(torch.stack(found), classes, self.best)
        groups = [(classes == label).nonzero()[:, 0] for label in range(labels.shape[1])]
        return torch.stack([rows[score[rows].argsort(stable=True)][:per_class] for rows in groups])


def lbpe(probabilities: Tensor, classes: Tensor, best: int) -> Tensor:
    """The score of each image, of shape [n], by the formula of `Lbpe`.

    Args:
        probabilities: After each epoch, of shape [epochs, n, classes].
        classes: The class of each image, of shape [n].
        best: Epochs to average.
    """
    accuracy = (probabilities.argmax(2) == classes).double().mean(1)
    chosen = accuracy.argsort(descending=True, stable=True)[:best]
    onehot = hard(classes, probabilities.shape[2]).to(probabilities)
    return (onehot - probabilities[chosen]).norm(dim=2).mean(0)


def check_sizes(contest: Contest, sizes: Sequence[int]) -> None:
    """Refuses sizes that a set cannot be pruned to.

    Raises:
        ValueError: There are fewer images of some class.
    """
    _, labels = contest.distilled
    fewest = int(labels.argmax(1).bincount(minlength=contest.classes).min())
    if not 1 <= min(sizes) <= max(sizes) <= fewest:
        raise ValueError(
            f"Pruning needs sizes from 1 to {fewest}, the fewest distilled images of a class, got "
            f"{','.join(map(str, sizes))}. Distil with a larger task.per_class, or lower --sizes."
        )


def prune(
    contest: Contest,
    models: Mapping[str, Functional],
    rules: Mapping[str, Pruning],
    sizes: Sequence[int],
) -> pd.DataFrame:
    """Test accuracies of networks trained on a part of the distilled set, by rule and by size.

    A rule orders the images anew for every network, so that the deviation over networks counts what
    the rule draws. Starts are shared by all rules and sizes.

    Args:
        contest: With the distilled set.
        models: The architectures, by name; a rule that trains uses the same one.
        rules: By name.
        sizes: Images of a class, as `check_sizes` takes them.

    Returns:
        Columns set (the rule), size, model, mean, std (over networks, not corrected) and seeds.
    """
    images, labels = contest.distilled
    rows = []
    for name, rule in announced([(name, rule) for name in models for rule in rules]):
        model, how = models[name], contest.retraining
        source = generator(contest.seed, PRUNING)
        orders = [
            rules[rule].order(contest.distilled, max(sizes), model, how, source)
            for _ in range(how.networks)
        ]
        for size in sizes:
            kept = [order[:, :size].flatten() for order in orders]
            sets = [(images[chosen], labels[chosen]) for chosen in kept]
            found = summary(contest.accuracies(model, sets, how))
            rows.append({"set": rule, "size": size, "model": name, **found})
    return pd.DataFrame(rows)
