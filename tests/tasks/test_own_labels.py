"""Labels of one's own: none is made wrong unless that is asked for."""

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

from bilevel_cli.config.options import CONF
from bilevel_cli.config.resolved import resolved
from bilevel_cli.data.base import Labelled
from bilevel_cli.tasks.reweighting.noise import Corruption, LongTail, NoNoise, Pair, Symmetric

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
