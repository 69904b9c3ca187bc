"""A distilled set beside real sets of the same size, on several architectures."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class Contest:
    """What is compared, and how it is judged; all inputs as the networks see them.

    Args:
        distilled: Images [n, ...] and labels [n, classes]; n is a multiple of the classes.
        train: The real examples from which the baselines are chosen.
        test: The examples on which all are judged.
        retraining: How networks are trained and tested.
        seed: Of the starts, which all sets share, and of the random choices.
    """

    distilled: TrainingSet
    train: Labelled
    test: Labelled
    retraining: Retraining
    seed: int

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

    def chosen(self, selection: Selection) -> list[TrainingSet]:
        """Real sets of the size of the distilled one, one for each network."""
        source, x, y = generator(self.seed, SELECTION), self.train.x, self.train.y
        per_class = len(self.distilled[0]) // self.classes
        rows = [selection.select(x, y, per_class, source) for _ in range(self.retraining.networks)]
        return [(x[chosen], hard(y[chosen], self.classes)) for chosen in rows]

    def accuracies(self, model: Functional, sets: list[TrainingSet], how: Retraining) -> Tensor:
        """The test accuracy of one network for each set."""
        source = generator(self.seed, RETRAINING)
        return how.accuracies_of(model, sets, self.test.x, self.test.y, source)


def compare(contest: Contest, models: Mapping[str, Functional]) -> pd.DataFrame:
    """Test accuracies of networks trained on the distilled set and on real ones of its size.

    Real sets are random ones and those of herding and of k-centre, which compare inputs. Every
    network of `random` has a set of its own, so that the deviation over networks counts the choice
    of the set too.

    Args:
        contest: What is compared.
        models: The architectures, by name.

    Returns:
        Columns set, model, mean, std (over networks, not corrected) and seeds, their number.
    """
    count = contest.retraining.networks
    sets = {"distilled": [contest.distilled] * count}
    sets |= {name: contest.chosen(selection) for name, selection in BASELINES.items()}
    rows = []
    jobs = [(name, model) for model in models for name in sets]
    for name, model in tqdm(jobs, unit="set", leave=False, disable=None):
        found = contest.accuracies(models[model], sets[name], contest.retraining)
        mean, std = float(found.mean()), float(found.std(correction=0))
        rows.append({"set": name, "model": model, "mean": mean, "std": std, "seeds": count})
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
    random = contest.chosen(RandomReal())

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
    return Contest(learned, train, test, retraining, seed)
