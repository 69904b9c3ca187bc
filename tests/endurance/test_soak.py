"""A run of fifty thousand outer steps: as light at its end as at its beginning.

That it is as fast, test_timing.py says.
"""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from soaking import ROWS, STEPS, soaked

PAGE = 4096


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


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
