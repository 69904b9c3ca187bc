"""A run of fifty thousand outer steps: as light and as fast at its end as at its beginning."""

import csv
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from configs import composed

from bilevel_cli import experiment

STEPS, ROWS = 50_000, 500
PAGE = 4096
TINY = [
    *("task=quadratic", "task.inner_dim=3", "task.outer_dim=2", "inner_steps=1", "device=cpu"),
    *(f"outer_steps={STEPS}", "log_every=100", "eval_every=1000", "save_every=1000"),
]


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@pytest.mark.faults
@pytest.mark.parametrize("method", ["iaptt", "soba"])
def test_fifty_thousand_outer_steps_take_no_more_memory_and_no_more_time_each(
    method: str, tmp_path: Path
) -> None:
    config = composed(*TINY, f"method={method}")
    runner = experiment.build(config, experiment.resolved(config), tmp_path, {})
    seen: list[tuple[int, float, int]] = []
    append = runner.train.append

    def watched(row: dict[str, float | int]) -> None:
        append(row)
        seen.append((runner.step, time.process_time(), resident()))

    runner.train.append = watched  # type: ignore[method-assign]
    runner.run()
    steps, seconds, memory = map(np.array, zip(*seen, strict=True))
    settled = steps >= STEPS // 10  # caches and arenas are filled once
    growth = (memory[settled].max() - memory[settled][0]) / 1e6
    assert growth < 5
    taken = np.diff(seconds)
    early, late = np.median(taken[ROWS // 10 : ROWS // 2]), np.median(taken[ROWS // 2 :])
    print(f"{method}: {growth:.2f} MB more; {early * 10:.3f} and {late * 10:.3f} ms a step")
    assert late < 1.15 * early
    assert steps.tolist() == list(range(100, STEPS + 1, 100))
    for name, rows in (("train.csv", ROWS), ("eval.csv", STEPS // 1000 + 1)):
        with (tmp_path / name).open(newline="") as file:
            lengths = {len(row) for row in csv.reader(file)}
        table = pd.read_csv(tmp_path / name)
        assert len(lengths) == 1
        assert len(table) == rows
        assert table["step"].is_monotonic_increasing
        assert np.isfinite(table.to_numpy()).all()
