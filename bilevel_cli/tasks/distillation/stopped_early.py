"""Whether a distilled set teaches what a network learns first on real data."""

import functools
from collections.abc import Callable, Iterable, Sequence

import pandas as pd
import torch
from torch import Tensor

from bilevel_cli.core.random import RETRAINING, STOPPED, generator
from bilevel_cli.nn.functional import Functional
from bilevel_cli.tasks.distillation.contest import Contest, announced, summary
from bilevel_cli.tasks.distillation.retraining import TrainingSet, hard
from bilevel_cli.tasks.distillation.selection import RandomReal


def agree(contest: Contest, model: Functional) -> pd.DataFrame:
    """The share of test examples to which a network and one stopped early give the same answer.

    Yang et al., 2024, arXiv:2406.04284. The network stopped early learns from all real examples, up
    to the first step after which it is as accurate as the other one. That is one of three:

    * `distilled`: trained on the distilled set;
    * `random`: trained on random real images, so many of a class that it is about as accurate;
    * `early`: stopped early itself, from another start.

    All three agree on what they have right. So the first share is read beside the other two, and
    beside `expected`, that of networks of these accuracies whose answers are drawn by themselves,
    all wrong classes equally likely.

    Test examples decide when a network is stopped. That takes 2 * networks trainings up to this
    step, with a test after each step, and a few trainings on random sets to find their size.

    Args:
        contest: With the distilled set.
        model: The architecture.

    Returns:
        Columns set, agreement_early, std (over networks, not corrected), expected, accuracy,
        stopped (the accuracy of the network stopped early) and seeds.
    """
    how, test = contest.retraining, contest.test

    def answers(sets: list[TrainingSet]) -> list[Tensor]:
        networks = how.networks_of(model, sets, generator(contest.seed, RETRAINING))
        return [how.outputs(model, params, test.x).argmax(1) for params in networks]

    @functools.cache
    def of_random(per_class: int) -> list[Tensor]:
        return answers(contest.chosen(RandomReal(), per_class))

    def right(given: Sequence[Tensor]) -> list[float]:
        return [_share(one, test.y) for one in given]

    distilled = answers([contest.distilled] * how.networks)
    mean = sum(right(distilled)) / how.networks
    fewest = int(contest.train.y.bincount().min())
    size = _least(lambda each: sum(right(of_random(each))) / how.networks >= mean, fewest)
    random = of_random(size)
    full = contest.train.x, hard(contest.train.y, contest.classes)
    source = generator(contest.seed, STOPPED)

    def stopped(targets: list[float]) -> list[Tensor]:
        course = how.course(model, model.init(source), full, source)
        return _stopped(
            (how.outputs(model, params, test.x).argmax(1) for params in course), test.y, targets
        )

    compared: dict[str, list[tuple[Tensor, Tensor]]] = {"distilled": [], "random": [], "early": []}
    for one, other in announced(list(zip(distilled, random, strict=True))):
        targets = right([one, other])
        beside_one, beside_other = stopped(targets)
        (early,) = stopped(targets[:1])
        compared["distilled"].append((one, beside_one))
        compared["random"].append((other, beside_other))
        compared["early"].append((early, beside_one))
    return pd.DataFrame([_row(name, pairs, contest) for name, pairs in compared.items()])


def _row(name: str, pairs: Sequence[tuple[Tensor, Tensor]], contest: Contest) -> dict[str, object]:
    y, wrong = contest.test.y, contest.classes - 1
    found = summary(torch.tensor([_share(one, other) for one, other in pairs]))
    first, second = (
        torch.tensor([_share(given, y) for given in side]) for side in zip(*pairs, strict=True)
    )
    expected = first * second + (1 - first) * (1 - second) / wrong
    return {
        "set": name,
        "agreement_early": found["mean"],
        "std": found["std"],
        "expected": float(expected.mean()),
        "accuracy": float(first.mean()),
        "stopped": float(second.mean()),
        "seeds": found["seeds"],
    }


def _share(one: Tensor, other: Tensor) -> float:
    return float((one == other).double().mean())


def _least(holds: Callable[[int], bool], most: int) -> int:
    """The least number up to `most` of which it holds, if it holds of all larger ones; or `most`.

    It asks for small numbers first: large ones are dear.
    """
    below, found = 0, 1
    while found < most and not holds(found):
        below, found = found, min(2 * found, most)
    while found - below > 1:
        middle = (below + found) // 2
        below, found = (below, middle) if holds(middle) else (middle, found)
    return found


def _stopped(course: Iterable[Tensor], y: Tensor, targets: list[float]) -> list[Tensor]:
    """For each target the first answers that are as accurate; the last ones if none are."""
    found: dict[float, Tensor] = {}
    given = torch.empty(0)
    for given in course:
        accuracy = _share(given, y)
        found |= {one: given for one in targets if one not in found and accuracy >= one}
        if len(found) == len(set(targets)):
            break
    return [found.get(one, given) for one in targets]
