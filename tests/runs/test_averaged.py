"""The average of the outer parameters: what it is, and who sees it."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from configs import small
from runners import built

from bilevel_cli.errors import UsageError
from bilevel_cli.runs.averaged import Average
from bilevel_cli.runs.checkpoint import load

DIRECT = [*("task=quadratic", "task._target_=own_tasks.Direct", "method=reverse")]
DIRECT += ["outer_steps=7", "device.dtype=float64", "optimizer=sgd", "optimizer.lr=0.3"]


def test_the_average_of_a_known_trajectory_is_the_one_of_its_formula(tmp_path: Path) -> None:
    runner = built(tmp_path, *DIRECT, "average=0.6")
    torch.testing.assert_close(runner.state.learned, runner.state.outer)
    runner.run()
    # lambda_t = 3 - 3 * 0.7^t, and the weights of t = 1, ..., 7 are proportional to 0.6^(7 - t).
    ratio = (0.7**7 - 0.6**7) / (0.7 - 0.6) * 0.7 * (1 - 0.6) / (1 - 0.6**7)
    saved = load(tmp_path / "checkpoint.pt")
    expected = torch.full_like(saved["outer"]["lam"], 3 - 3 * ratio)
    torch.testing.assert_close(saved["average"]["lam"], expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(saved["outer"]["lam"], expected * 0 + 3 - 3 * 0.7**7)


def test_the_first_step_has_all_of_the_weight_and_late_ones_what_decay_leaves() -> None:
    average = Average(0.999, {})
    assert average.share(1) == 1.0
    assert average.share(100_000) == pytest.approx(0.001, rel=1e-12)
    shares = [average.share(step) for step in (1, 2, 3)]
    assert shares[1] == pytest.approx(1 / 1.999)
    assert shares[2] == pytest.approx(1 / (1 + 0.999 + 0.999**2))


def test_scores_and_results_are_those_of_the_average_and_steps_are_not(tmp_path: Path) -> None:
    words = ("task=quadratic", "device.dtype=float64", "outer_steps=6", "retrain=3")
    runs = {}
    for name, more in (("raw", ()), ("averaged", ("average=0.8", "test_steps=[2]"))):
        runs[name] = built(tmp_path / name, *words, *more)
        runs[name].run()
        runs[name].result()
    raw, averaged = (load(tmp_path / name / "checkpoint.pt") for name in runs)
    assert raw["outer"]["lam"].equal(averaged["outer"]["lam"])
    mean = averaged["average"]
    kept = torch.load(tmp_path / "averaged" / "outer.pt", weights_only=True)
    assert kept["lam"].equal(mean["lam"])
    assert not kept["lam"].equal(averaged["outer"]["lam"])
    state = runs["averaged"].state
    scores = state.experiment.task.evaluate(state.experiment.loop, mean, state.inner())
    row = pd.read_csv(tmp_path / "averaged" / "eval.csv").iloc[-1]
    assert row["value"] == float(scores["value"])
    assert row["retrained_value"] == row["test_steps_2_value"] == float(scores["value"])


def test_no_decay_is_no_average(tmp_path: Path) -> None:
    for name, more in (("null", "average=null"), ("zero", "average=0")):
        built(tmp_path / name, "task=quadratic", "outer_steps=3", more).run()
    one, other = (load(tmp_path / name / "checkpoint.pt") for name in ("null", "zero"))
    assert list(one) == list(other)
    assert "average" not in one
    assert one["outer"]["lam"].equal(other["outer"]["lam"])


def test_the_average_of_weights_on_a_simplex_is_on_it(tmp_path: Path) -> None:
    words = ("task=reweight", *small("reweight"), "task/weights=simplex", "outer_steps=4")
    runner = built(tmp_path, *words, "average=0.7", "optimizer.lr=1", "device.dtype=float64")
    runner.run()
    (weights,) = runner.state.average.params.values()
    assert (weights >= 0).all()
    (start,) = built(tmp_path / "start", *words).state.outer.values()
    assert float(weights.sum()) == pytest.approx(float(start.sum()))
    torch.testing.assert_close(runner.state.learned, runner.state.average.params)


def test_an_average_that_is_asked_for_later_is_another_setting(tmp_path: Path) -> None:
    words = ("task=quadratic", "outer_steps=4", "save_every=2")
    built(tmp_path, *words).run()
    with pytest.raises(UsageError, match=r"other settings: average=None there and 0\.9 here"):
        built(tmp_path, *words, "average=0.9")
    forced = built(tmp_path, *words, "average=0.9", "resume=force", "outer_steps=6")
    assert forced.state.average.params["lam"].equal(forced.state.outer["lam"])
    forced.run()
    assert not forced.state.average.params["lam"].equal(forced.state.outer["lam"])
