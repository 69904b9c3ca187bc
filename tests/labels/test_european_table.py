"""A table from a European spreadsheet gives the wrong labels that its plain twin gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from commands import bilevel_run, exit_code
from omegaconf import DictConfig
from own_tables import proposed
from sklearn.metrics import average_precision_score

from bilevel_cli.commands import labels
from bilevel_cli.labels import forests
from bilevel_cli.runs import entry

WRONG = 0.1  # share of the labels


def european(number: float) -> str:
    return f"{number:_.2f}".replace(".", ",").replace("_", ".")


def write_twins(folder: Path, count: int) -> np.ndarray:
    """Writes plain.csv and kunden.csv, the same table twice, and returns which labels are wrong.

    kunden.csv is as Windows writes it in German: semicolons, decimal commas, thousands points, a
    currency and a per-cent sign, days first, umlauts of latin-1 (the currency is of cp1252).
    """
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"Kunde": [f"K{row:05}" for row in range(count)]})
    frame["Umsatz"] = random.gamma(2, 2500, count).round(2)
    frame["Rabatt"] = random.uniform(0, 30, count).round(1)
    frame["Größe"] = random.normal(1.7, 0.2, count).round(3)
    frame["Stadt"] = random.choice(["Köln", "München", "Zürich", "Bern"], count)
    since = pd.Timestamp("2015-01-01") + pd.to_timedelta(random.integers(0, 3000, count), "D")
    frame["seit"] = since.strftime("%Y-%m-%d")
    leaves = frame.Umsatz / 2500 + frame.Rabatt / 10 + (frame.Stadt == "Köln") > 3.5
    wrong = np.zeros(count, dtype=bool)
    wrong[random.choice(count, int(WRONG * count), replace=False)] = True
    frame["kündigt"] = np.where(leaves ^ wrong, "ja", "nein")
    frame.to_csv(folder / "plain.csv", index=False)
    frame["Umsatz"] = frame.Umsatz.map(european) + " €"
    frame["Rabatt"] = frame.Rabatt.astype(str).str.replace(".", ",") + " %"
    frame["Größe"] = frame["Größe"].astype(str).str.replace(".", ",")
    frame["seit"] = since.strftime("%d.%m.%Y")
    frame.to_csv(folder / "kunden.csv", index=False, sep=";", encoding="cp1252")
    return wrong


def following(run: Callable[..., int], error: Callable[[], str], *words: str) -> list[str]:
    """Runs a command, and again with what its message says should be added; at most two times."""
    if run(*words) == 0:
        return []
    message = error().splitlines()[-1]  # behind what the run before it has said
    assert len(message) <= 400
    added = proposed(message)
    assert run(*words, *added) == 0
    return added


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps and one small forest."""
    quick = {"trees": lambda seed: forests.random_forest(seed).set_params(n_estimators=20)}
    monkeypatch.setattr(forests, "KINDS", quick)
    whole = entry.run

    def run(config: DictConfig, *given: Any) -> float | None:
        config.outer_steps, config.inner_steps = 3, 20
        return whole(config, *given)

    monkeypatch.setattr(entry, "run", run)


@pytest.fixture
def labels_run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(*words: str) -> int:
        torch.set_default_dtype(torch.float32)
        with torch.enable_grad():
            return exit_code("bilevel-labels", labels.main, monkeypatch, *words)

    return run


def score_of_labels(name: str, run: Callable[..., int], error: Callable[[], str]) -> np.ndarray:
    """The confidence of bilevel-labels in each label being wrong, once messages are followed."""
    words = [f"{name}.csv", "--target", "kündigt", "--id", "Kunde", "--out", f"{name}.out"]
    added = following(run, error, *words)
    assert bool(added) == (name == "kunden")
    sheet = {"sep": ";", "decimal": ",", "encoding": "cp1252"} if added else {}
    checked = pd.read_csv(f"{name}.out", **sheet)  # type: ignore[call-overload]
    given = pd.read_csv(f"{name}.csv", **sheet)  # type: ignore[call-overload]
    pd.testing.assert_frame_equal(checked[given.columns], given)
    return checked["confidence"].to_numpy()


def score_of_run(name: str, run: Callable[..., int], error: Callable[[], str]) -> np.ndarray:
    """How low experiment=label_errors weighs each row, once messages are followed."""
    words = ["experiment=label_errors", "data=table", f"data.path={name}.csv"]
    words += ["data.target='kündigt'", "data.drop=[Kunde]", "device=cpu", f"hydra.run.dir={name}"]
    added = following(run, error, *words)
    assert bool(added) == (name == "kunden")
    return -pd.read_csv(Path(name, "weights.csv")).sort_values("index")["weight"].to_numpy()


@pytest.mark.usefixtures("short")
def test_following_the_messages_finds_the_wrong_labels_of_the_plain_twin(
    tmp_path: Path,
    labels_run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = write_twins(tmp_path, 120)
    plain, found = (
        score_of_labels(name, labels_run, lambda: capsys.readouterr().err)
        for name in ("plain", "kunden")
    )
    np.testing.assert_array_equal(found, plain)  # equal features are equal numbers
    assert average_precision_score(wrong, found) > 3 * WRONG


@pytest.mark.slow
def test_following_the_messages_finds_the_wrong_labels_among_2000_rows(
    tmp_path: Path,
    labels_run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = write_twins(tmp_path, 2000)

    def error() -> str:
        return capsys.readouterr().err

    def run(*words: str) -> int:
        capsys.readouterr()
        return bilevel_run(monkeypatch, *words)

    scores = [score_of_labels(name, labels_run, error) for name in ("plain", "kunden")]
    weights = [score_of_run(name, run, error) for name in ("plain", "kunden")]
    for plain, found in (scores, weights):
        np.testing.assert_array_equal(found, plain)
        precision = average_precision_score(wrong, found)
        print(
            f"average precision {precision:.4f}, plain {average_precision_score(wrong, plain):.4f}"
        )
        assert precision > 5 * WRONG
