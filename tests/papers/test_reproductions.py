"""What the README promises, at full length: minutes each, on 2 cores."""

from pathlib import Path

import pandas as pd
import pytest
from configs import SHARED_DATA, composed

from bilevel_cli.runs import entry

pytestmark = pytest.mark.slow
needs_data = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason=f"needs the benchmark data in {SHARED_DATA.name}"
)


def scores(directory: Path, *overrides: str) -> pd.DataFrame:
    entry.run(composed("device=cpu", *overrides), directory, {})
    return pd.read_csv(directory / "eval.csv")


def test_iaptt_classifies_unseen_digits(tmp_path: Path) -> None:
    final = scores(tmp_path, "task=meta", "method=iaptt", "outer_steps=300").iloc[-1]
    assert final["test_accuracy"] - final["test_ci95"] > 0.65


@needs_data
def test_iaptt_classifies_unseen_characters(tmp_path: Path) -> None:
    data = ["data=omniglot", f"data.root={SHARED_DATA}"]
    final = scores(tmp_path, "task=meta", "method=iaptt", *data).iloc[-1]
    assert final["test_accuracy"] > 0.92


@needs_data
def test_cleaning_beats_training_on_noisy_labels(tmp_path: Path) -> None:
    mnist = ["task=reweight", "data=mnist", f"data.root={SHARED_DATA}"]
    noisy = scores(tmp_path / "none", *mnist, "method=none", "outer_steps=1").iloc[-1]
    clean = scores(tmp_path / "reverse", *mnist).iloc[-1]
    assert noisy["f1"] == pytest.approx(2 / 3)
    assert clean["f1"] >= 0.91
    assert clean["test_accuracy"] >= noisy["test_accuracy"] + 0.04
