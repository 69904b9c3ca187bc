"""A run of fifty thousand outer steps: as light at its end as at its beginning.

That it is as fast, test_timing.py says.
"""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from configs import composed
from numpy.typing import NDArray

from bilevel_cli.runs import entry

STEPS, ROWS = 50_000, 500
PAGE = 4096
TINY = [
    *("task=quadratic", "task.inner_dim=3", "task.outer_dim=2", "inner_steps=1", "device=cpu"),
    *(f"outer_steps={STEPS}", "log_every=100", "eval_every=1000", "save_every=1000"),
]


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def soaked(
    method: str, tmp_path: Path, measure: Callable[[], float]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The steps of a run's rows, and what was measured at each of them."""
    config = composed(*TINY, f"method={method}")
    runner = entry.build(config, entry.resolved(config), tmp_path, {})
    seen: list[tuple[int, float]] = []
    append = runner.train.append

    def watched(row: dict[str, float | int]) -> None:
        append(row)
        seen.append((runner.step, measure()))

    runner.train.append = watched  # type: ignore[method-assign]
    runner.run()
    steps, measured = map(np.array, zip(*seen, strict=True))
    return steps, measured


@pytest.mark.faults
@pytest.mark.parametrize("method", ["iaptt", "soba"])
def test_fifty_thousand_outer_steps_take_no_more_memory(method: str, tmp_path: Path) -> None:
    steps, memory = soaked(method, tmp_path, resident)
    settled = steps >= STEPS // 10  # caches and arenas are filled once
    growth = (memory[settled].max() - memory[settled][0]) / 1e6
    assert growth < 5
    print(f"{method}: {growth:.2f} MB more")
    assert steps.tolist() == list(range(100, STEPS + 1, 100))
    for name, rows in (("train.csv", ROWS), ("eval.csv", STEPS // 1000 + 1)):
        with (tmp_path / name).open(newline="") as file:
            lengths = {len(row) for row in csv.reader(file)}
        table = pd.read_csv(tmp_path / name)
        assert len(lengths) == 1
        assert len(table) == rows
        assert table["step"].is_monotonic_increasing
        assert np.isfinite(table.to_numpy()).all()
