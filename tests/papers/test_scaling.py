"""The exponents of docs/scaling.md, their reasons, and the bounds of a point."""

import importlib
import math
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the benchmarks are no part of the package
fits, ladders, points = (
    importlib.import_module(f"benchmarks.scaling.{name}") for name in ("fits", "ladders", "points")
)


def ladder(
    along: str, time: float, held: float, called: float = 0.0, alone: float = 0.0
) -> list[dict[str, Any]]:
    """Points whose seconds and megabytes have these exponents, and what is declared of them."""
    return [
        {
            **{"of": "some", "along": along, "size": size, "outcome": "measured"},
            **{"cpu": 0.1 * size**time, "megabytes": 20.0 * size**held, "numbers": size**held},
            **{"calls": 5.0 * size**called, "what": "the Hessian"},
            "gradient": 0.01 * size**alone,
        }
        for size in (1, 4, 16)
    ]


def fit(folder: Path, rows: list[dict[str, Any]]) -> Any:
    pd.DataFrame(rows).to_csv(folder / "points.csv", index=False)
    (found,) = fits.read(folder)
    return found


def test_an_exponent_is_the_slope_of_the_two_largest_sizes(tmp_path: Path) -> None:
    rows = ladder("steps", 1.0, 0.5, 1.0)
    rows[0]["cpu"] = 7.0  # of a small size, where something else takes the time
    found = fit(tmp_path, rows)
    assert math.isclose(found.time, 1.0, rel_tol=1e-9)
    assert math.isclose(found.memory, 0.5, rel_tol=1e-9)
    assert not fits.missed(found)


def test_an_exponent_above_one_is_explained_by_what_is_declared_alone(tmp_path: Path) -> None:
    # Each of as many gradients as there are inner parameters reads all of them: n^2.
    explained = fit(tmp_path, ladder("inner", 2.0, 2.0, 1.0))
    assert explained.time_reason.startswith("80 gradients and products, 20 before")
    assert explained.memory_reason == "the Hessian"
    assert not fits.missed(explained)
    silent = fit(tmp_path, ladder("outer", 2.0, 1.0, 1.0))  # along outer parameters: 1, not 2
    assert silent.time_reason == ""
    assert fits.missed(silent)


def test_a_processor_that_slows_down_by_itself_is_a_reason(tmp_path: Path) -> None:
    found = fit(tmp_path, ladder("inner", 1.4, 1.0, 0.0, 1.3))
    assert found.time_reason.startswith("one gradient alone has 1.30")
    assert fits.missed(fit(tmp_path, ladder("inner", 1.4, 1.0, 0.0, 1.0)))


def test_a_ladder_says_what_ended_it(tmp_path: Path) -> None:
    last = {**ladder("rows", 1.0, 1.0)[-1], "size": 64, "outcome": "refused", "what": "too large"}
    found = fit(tmp_path, [*ladder("rows", 1.0, 1.0), last])
    assert (found.largest, found.ended) == (16, "refused at 64: too large")


def test_a_point_is_measured_refused_or_bounded() -> None:
    def sleeping() -> Any:
        return lambda: time.sleep(60)

    def refusing() -> Any:
        raise ValueError("too\nlarge")

    def hungry() -> Any:
        return lambda: torch.empty(2 * points.MEMORY, dtype=torch.uint8)

    def working() -> Any:
        return lambda: torch.ones(30_000_000, dtype=torch.float32).sum()

    assert points.measure(sleeping, 0.0, 0.2)[0] == "out of time"
    assert points.measure(refusing, 0.0, 60.0)[::5] == ("refused", "too large")
    assert points.measure(hungry, 0.0, 60.0).outcome == "out of memory"
    found = points.measure(working, 0.01, 60.0)
    assert found.outcome == "measured"
    assert 110 < found.megabytes < 150  # thirty million numbers of four bytes
    assert 0 < found.cpu < 5


@pytest.mark.slow
def test_the_whole_is_measured_for_one_method_and_every_command(tmp_path: Path) -> None:
    for only in ("exact", *ladders.AROUND):
        ladders.run(tmp_path / "points.csv", "tiny", only)
        found = fits.read(tmp_path)
        assert {one.along for one in found} == set(ladders.FIXED if only == "exact" else [only])
        assert all(one.time < 2 for one in found), found
