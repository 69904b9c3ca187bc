"""Labels of one's own: none is made wrong unasked, and none is judged by who cannot know it."""

import importlib
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from configs import composed, options
from problems import seeded
from runners import built
from sklearn.metrics import average_precision_score
from torch import Tensor

from bilevel_cli.config.options import CONF
from bilevel_cli.config.resolved import resolved
from bilevel_cli.data.base import Examples, Labelled
from bilevel_cli.models import Linear
from bilevel_cli.tasks.reweighting import rare_classes
from bilevel_cli.tasks.reweighting.hyper_cleaning import HyperCleaning
from bilevel_cli.tasks.reweighting.noise import Corruption, LongTail, NoNoise, Pair, Symmetric
from bilevel_cli.tasks.reweighting.weights import Sigmoid

OWN = ("table", "npz", "image_folder")
UNTOUCHED = "No label was changed."
SHORT = ("outer_steps=1", "inner_steps=2", "solver.lr=0.1")


def noise_of(*overrides: str) -> dict[str, Any]:
    found: dict[str, Any] = resolved(composed(*overrides))["task"]["noise"]
    return found


def bringing_noise() -> list[str]:
    """The tasks and experiments whose files choose a noise, by a look at their text."""
    return [
        f"{group}={name}"
        for group in ("task", "experiment")
        for name in options(group)
        if "task" in (text := (CONF / group / f"{name}.yaml").read_text())
        and re.search(r"noise@task|/task/noise|noise_share", text)
    ]


def test_no_task_and_no_experiment_brings_noise_to_own_data() -> None:
    """Whatever is under conf/: what is found on a benchmark set is null on own data."""
    found = bringing_noise()
    assert len(found) >= 6
    for one, data in zip(found, itertools.cycle(OWN), strict=False):
        (kind, *amounts), (own_kind, *own) = (
            list(noise_of(one, *more).values()) for more in ([], [f"data={data}"])
        )
        if kind.endswith("NoNoise"):
            continue
        assert (own_kind, own) == (kind, [None]), (one, data)
        assert all(amounts)


@pytest.mark.parametrize(
    ("asked", "kind", "share"),
    [
        (["task.noise.share=0.3"], "Symmetric", 0.3),
        (["task/noise=symmetric"], "Symmetric", 0.5),
        (["task/noise=pair"], "Pair", 0.4),
        (["experiment=benchmark_mnist", "task/noise=symmetric"], "Symmetric", 0.5),
        (["experiment=benchmark_mnist", "task.noise.share=0.2"], "Uniform", 0.2),
    ],
)
def test_noise_that_is_asked_for_is_given_to_own_data(
    asked: list[str], kind: str, share: float
) -> None:
    found = noise_of(*asked, "data=npz")
    assert found == {"_target_": f"bilevel_cli.tasks.reweighting.noise.{kind}", "share": share}


def customers(path: Path) -> None:
    frame = pd.DataFrame({"age": np.arange(60) ** 2, "churn": np.arange(60) % 2})
    frame.to_csv(path, index=False)


@pytest.mark.parametrize("task", ["reweight", "meta_weight_net", "learning_to_reweight"])
def test_a_task_leaves_the_labels_of_a_table_and_says_so(tmp_path: Path, task: str) -> None:
    customers(tmp_path / "my.csv")
    data = ["data=table", f"data.path={tmp_path}/my.csv", "data.target=churn"]
    sizes = [] if task == "reweight" else ["task.batch_size=4", "task.outer_batch_size=4"]
    run = built(tmp_path / "run", f"task={task}", *data, *sizes, *SHORT)
    posed: Any = run.experiment.task
    assert torch.equal(posed.train.y, posed.train.index % 2)
    assert UNTOUCHED in posed.statement
    assert list(run.run()) == ["test_accuracy"]  # nobody knows which labels are wrong
    assert "flag" not in pd.read_csv(run.result()[0])


def test_noise_that_was_asked_for_is_told_in_words_that_cannot_be_misread(tmp_path: Path) -> None:
    customers(tmp_path / "my.csv")
    data = ["data=table", f"data.path={tmp_path}/my.csv", "data.target=churn"]
    run = built(tmp_path / "run", "task=reweight", "task.noise.share=0.25", *data, *SHORT)
    posed: Any = run.experiment.task
    assert int((posed.train.y != posed.train.index % 2).sum()) == 9
    assert (
        "Your own data were changed, since this run asks for it: 9 of the 36 training labels were "
        "made wrong on purpose (task/noise=symmetric)."
    ) in posed.statement
    assert "f1" in run.run()
    digits = built(tmp_path / "digits", "task=reweight", *SHORT).experiment.task.statement
    assert digits == (
        "Examples: 600 for training; 600 for validation; 597 for test. 300 of the 600 training "
        "labels were made wrong on purpose (task/noise=symmetric)."
    )


def test_a_long_tail_is_told_as_examples_that_were_left_out() -> None:
    examples = Labelled(torch.zeros(40, 1), torch.arange(40) % 2, torch.arange(40))
    noise = LongTail(10.0)
    kept, _ = noise(examples, 2, seeded())
    said = "18 of the 40 training examples were left out on purpose (task/noise=long_tail)."
    assert noise.statement(examples, kept, own=False) == said
    assert said in noise.statement(examples, kept, own=True)
    for nothing in (LongTail(None), Pair(None), Symmetric(None), NoNoise()):
        same, flag = nothing(examples, 2, seeded())
        assert flag is None
        assert nothing.statement(examples, same, own=True) == UNTOUCHED


def test_each_noise_says_by_which_option_it_is_asked_for() -> None:
    for name in options("task/noise"):
        node = noise_of("task=reweight", f"task/noise={name}")
        module, _, title = node["_target_"].rpartition(".")
        kind: type[Corruption] = getattr(importlib.import_module(module), title)
        assert kind.option == name.removeprefix("suggested_").replace("suggested", "symmetric")


# --- rare classes ---------------------------------------------------------------------------------


def graded(path: Path, rare: dict[str, int], seed: int = 0) -> set[int]:
    """Writes 300 rows of two classes, 30 of them flipped, and some of rare classes; the flipped."""
    random = np.random.default_rng(seed)
    y = np.arange(300) % 2
    x = random.normal(size=(300, 4)) + 1.5 * (2 * y[:, None] - 1)
    flipped = random.permutation(300)[:30]
    y[flipped] = 1 - y[flipped]
    names = [
        *np.array(["A", "B"])[y],
        *(name for name, count in rare.items() for _ in range(count)),
    ]
    x = np.concatenate([x, random.normal(size=(len(names) - 300, 4))])
    pd.DataFrame(x, columns=list("abcd")).assign(grade=names).to_csv(path, index=False)
    return set(flipped.tolist())


def label_errors(folder: Path) -> tuple[str, pd.DataFrame]:
    """The statement of `experiment=label_errors` on the table of that folder, and its weights."""
    data = ["data=table", f"data.path={folder}/my.csv", "data.target=grade"]
    name = str(sum(1 for _ in folder.iterdir()))
    run = built(folder / name, "experiment=label_errors", *data, "outer_steps=3", "inner_steps=30")
    run.run()
    return run.experiment.task.statement, pd.read_csv(run.result()[0])


@pytest.mark.parametrize("rare", [{"C": 2}, {"C": 2, "D": 3, "E": 4}])
def test_rare_classes_are_named_and_last_and_wrong_labels_found_as_without_them(
    tmp_path: Path, rare: dict[str, int]
) -> None:
    flipped = graded(tmp_path / "my.csv", rare)
    statement, weights = label_errors(tmp_path)
    listed = ", ".join(f"{name!r} ({count})" for name, count in rare.items())
    assert f"Rare classes, with their numbers of examples: {listed}. They have" in statement
    last = weights.tail(sum(rare.values()))
    assert set(last.label) == set(rare)
    assert last[["weight", "suggested"]].isna().all(axis=None)
    judged = weights.head(300)
    assert set(judged.label) == {"A", "B"}
    assert judged.weight.is_monotonic_increasing

    graded(tmp_path / "my.csv", {})
    alone_said, alone = label_errors(tmp_path)
    assert "Rare" not in alone_said
    found, without = (
        average_precision_score(one["index"].isin(flipped), -one.weight) for one in (judged, alone)
    )
    # Two seeds of one method differ by more: 0.01.
    assert abs(found - without) < 0.02
    assert found > 0.9


class Graded(Examples):
    """Five clusters: three of 20 examples, one of four, and one of a single example."""

    num_classes = 5

    def read(self) -> tuple[Labelled, None]:
        y = torch.tensor([c for c, count in enumerate((20, 20, 20, 4, 1)) for _ in range(count)])
        x = 3 * torch.eye(5)[y] + torch.randn(65, 5, generator=seeded())
        return Labelled(x, y, torch.arange(65)), None


def cleaning(folds: int | None, noise: Corruption, **sizes: int | None) -> HyperCleaning:
    parts = {"train": None, "validation": None, "test": None} | sizes
    return HyperCleaning(
        *(noise, Sigmoid(0.0), folds, None, None, 0.0),
        *(Graded(**parts), Linear, torch.device("cpu"), seeded()),
    )


def test_rare_classes_count_as_clean_in_scores_and_rank_last() -> None:
    task = cleaning(5, NoNoise())
    assert task.unjudged.tolist() == (task.train.y >= 3).tolist()
    # As if the noise had flagged every label of the rare classes and one other.
    flag: Tensor = task.unjudged.clone()
    flag[(task.train.y == 0).nonzero()[0]] = True
    task.flag = flag
    outer = {"weight_logits": torch.where(flag, -9.0, 9.0)}
    inner = task.sample(1, seeded()).init
    scores = task.evaluate(None, outer, inner)  # type: ignore[arg-type]  # the loop is not asked
    # Of six flagged ones, five are not judged: called clean, and the last five of 65.
    assert float(scores["precision"]) == pytest.approx(59 / 64)
    ranks = [1, *range(61, 66)]
    expected = sum((found + 1) / rank for found, rank in enumerate(ranks)) / 6
    assert float(scores["average_precision"]) == pytest.approx(expected)


def test_a_class_without_a_validation_example_is_not_judged_either() -> None:
    task = cleaning(None, NoNoise(), validation=4)
    assert task.validation.y.bincount(minlength=5).tolist() == [1, 1, 1, 1, 0]
    assert task.unjudged.tolist() == (task.train.y == 4).tolist()
    assert "'4' (1). None of these is for validation" in task.statement


def test_more_than_ten_folds_ask_for_ten_examples_of_a_class() -> None:
    labels = torch.arange(3).repeat_interleave(torch.tensor([40, 12, 9]))
    rare = rare_classes.of_folds(labels, 3, 61)
    assert rare.rare.tolist() == [False, False, True]
    with pytest.raises(ValueError, match=r"two classes of at least 5 examples to cross-fit folds="):
        rare_classes.of_folds(torch.tensor([0] * 40 + [1] * 4), 2, 5)
    many = rare_classes.of_folds(torch.arange(60) % 2 * (torch.arange(60) < 40) + 0, 2, 5)
    assert many.statement(["a", "b"]) == ""
    crowd = rare_classes.RareClasses(torch.ones(12) > 0, torch.ones(12).long(), "Why.")
    assert "'9' (1) and 2 more. Why." in crowd.statement([str(number) for number in range(12)])
