"""A distilled set beside real sets of as many bytes, on several architectures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from bilevel_cli.core.random import RETRAINING, SELECTION, TEACHER, generator
from bilevel_cli.data.base import Labelled
from bilevel_cli.nn.functional import Functional
from bilevel_cli.tasks.distillation import ranking
from bilevel_cli.tasks.distillation.retraining import Retraining, TrainingSet, hard
from bilevel_cli.tasks.distillation.selection import BASELINES, RandomReal, Selection
from bilevel_cli.tasks.distillation.storage import Distilled

Job = TypeVar("Job")


@dataclass(frozen=True)
class Contest:
    """What is compared, and how it is judged; all inputs as the networks see them.

    Args:
        distilled: Images [n, ...] and labels [n, classes]; n is a multiple of the classes.
        train: The real examples from which the baselines are chosen.
        test: The examples on which all are judged.
        retraining: How networks are trained and tested.
        seed: Of the starts, which all sets share, and of the random choices.
        bytes: What the distilled images take to store, without labels; a real image takes one byte
            for each of its values.
    """

    distilled: TrainingSet
    train: Labelled
    test: Labelled
    retraining: Retraining
    seed: int
    bytes: int

    def __post_init__(self) -> None:
        images, labels = self.distilled
        shape, classes = self.train.x.shape[1:], int(self.train.y.max()) + 1
        if images.shape[1:] != shape or labels.shape[1] < classes:
            raise ValueError(
                f"A comparison needs images of shape {list(shape)} and {classes} classes, as the "
                f"data have, got {list(images.shape[1:])} and {labels.shape[1]}. Choose the data "
                "that were distilled."
            )
        if len(images) % labels.shape[1]:
            raise ValueError(
                f"A comparison needs as many images for every class, got {len(images)} for "
                f"{labels.shape[1]} classes."
            )

    @property
    def classes(self) -> int:
        return self.distilled[1].shape[1]

    @property
    def bytes_of_one(self) -> int:
        """What one real image takes to store."""
        return self.train.x[0].numel()

    @property
    def affordable(self) -> int:
        """Real images of a class that the bytes of the distilled set pay for, but at least one."""
        return max(1, self.bytes // (self.classes * self.bytes_of_one))

    def chosen(self, selection: Selection, per_class: int) -> list[TrainingSet]:
        """Real sets, one for each network. Random smaller ones are parts of larger ones."""
        source, x, y = generator(self.seed, SELECTION), self.train.x, self.train.y
        rows = [selection.select(x, y, per_class, source) for _ in range(self.retraining.networks)]
        return [(x[chosen], hard(y[chosen], self.classes)) for chosen in rows]

    def accuracies(self, model: Functional, sets: list[TrainingSet], how: Retraining) -> Tensor:
        """The test accuracy of one network for each set."""
        source = generator(self.seed, RETRAINING)
        return how.accuracies_of(model, sets, self.test.x, self.test.y, source)


def summary(found: Tensor) -> dict[str, float]:
    """What tables say of one number for each network; the deviation is not corrected."""
    return {"mean": float(found.mean()), "std": float(found.std(correction=0)), "seeds": len(found)}


def announced(jobs: Sequence[Job]) -> "tqdm[Job]":
    """The jobs, with a bar of progress on a terminal."""
    return tqdm(jobs, unit="set", leave=False, disable=None)


def compare(contest: Contest, models: Mapping[str, Functional]) -> pd.DataFrame:
    """Test accuracies of networks trained on the distilled set and on real ones of as many bytes.

    Real sets are random ones and those of herding and of k-centre, which compare inputs. Every
    network of `random` has a set of its own, so that the deviation over networks counts the choice
    of the set too.

    Args:
        contest: What is compared.
        models: The architectures, by name.

    Returns:
        Columns set, model, mean, std (over networks, not corrected), seeds, their number, and bytes
        of the images of the set.
    """
    each = contest.affordable
    sets = {"distilled": [contest.distilled] * contest.retraining.networks}
    sets |= {name: contest.chosen(selection, each) for name, selection in BASELINES.items()}
    sizes = dict.fromkeys(sets, each * contest.classes * contest.bytes_of_one)
    sizes["distilled"] = contest.bytes
    rows = []
    for model, name in announced([(model, name) for model in models for name in sets]):
        found = summary(contest.accuracies(models[model], sets[name], contest.retraining))
        rows.append({"set": name, "model": model, **found, "bytes": sizes[name]})
    return pd.DataFrame(rows)


def rank(contest: Contest, model: Functional) -> pd.DataFrame:
    """Measures the scores of DD-Ranking, which `bilevel_cli.tasks.distillation.ranking` defines.

    Where the distilled labels are soft, random images get soft labels too, from a network that was
    trained on all real examples. Two things differ from the authors: `retraining` is one for all,
    where they search for a step size; and the last accuracy of a network counts, not its best. The
    augmentation-robust score needs a `retraining` that augments, and is left out otherwise.

    Args:
        contest: What is compared.
        model: The architecture.

    Returns:
        Columns score and value: mean accuracies, from 0 to 1, and what follows from them.
    """
    how, count = contest.retraining, contest.retraining.networks
    images, labels = contest.distilled
    onehot = hard(labels.argmax(1), contest.classes).to(labels)
    full = contest.train.x, hard(contest.train.y, contest.classes)
    random = contest.chosen(RandomReal(), contest.affordable)

    def accuracy(sets: list[TrainingSet], how: Retraining) -> float:
        return float(contest.accuracies(model, sets, how).mean())

    if not torch.equal(onehot, labels):
        (teacher,) = how.networks_of(model, [full], generator(contest.seed, TEACHER))
        random = [(x, how.outputs(model, teacher, x).softmax(1)) for x, _ in random]
    found = {
        "full_hard": accuracy([full] * count, how),
        "distilled_hard": accuracy([(images, onehot)] * count, how),
        "distilled_any": accuracy([contest.distilled] * count, how),
        "random_any": accuracy(random, how),
    }
    recovery = found["full_hard"] - found["distilled_hard"]
    improvement = found["distilled_any"] - found["random_any"]
    found |= {"hard_label_recovery": recovery, "improvement_over_random": improvement}
    found["label_robust_score"] = ranking.label_robust_score(recovery, improvement, ranking.WEIGHT)
    if how.augment is not None:
        plain = replace(how, augment=None)
        found["distilled_plain"] = accuracy([contest.distilled] * count, plain)
        found["random_plain"] = accuracy(random, plain)
        found["augmentation_robust_score"] = ranking.augmentation_robust_score(
            improvement, found["distilled_plain"] - found["random_plain"], ranking.WEIGHT
        )
    return pd.DataFrame({"score": list(found), "value": list(found.values())})


def prepared(
    distilled: Distilled,
    train: Labelled,
    test: Labelled,
    retraining: Retraining,
    seed: int,
    device: torch.device,
) -> Contest:
    """The contest on a device, of sets in the units of the data: `distilled` says how to normalise.

    Args: as `Contest`, and device.
    """
    mean, std = distilled.mean.to(device), distilled.std.to(device)

    def seen(x: Tensor) -> Tensor:
        return (x.to(device, torch.get_default_dtype()) - mean) / std

    train, test = (replace(part, x=seen(part.x), y=part.y.to(device)) for part in (train, test))
    learned = seen(distilled.images), distilled.labels.to(device)
    return Contest(learned, train, test, retraining, seed, distilled.bytes)
