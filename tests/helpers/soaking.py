"""A run of many steps, and what it keeps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from configs import composed
from numpy.typing import NDArray
from runners import runner_in

STEPS, ROWS = 50_000, 500
TINY = [
    *("task=quadratic", "task.inner_dim=3", "task.outer_dim=2", "inner_steps=1", "device=cpu"),
    *(f"outer_steps={STEPS}", "log_every=100", "eval_every=1000", "save_every=1000"),
]


def soaked(
    method: str, tmp_path: Path, measure: Callable[[], float]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The steps of a run's rows, and what was measured at each of them."""
    config = composed(*TINY, f"method={method}")
    runner = runner_in(config, tmp_path)
    seen: list[tuple[int, float]] = []
    append = runner.rows.train.append

    def watched(row: dict[str, float | int]) -> None:
        append(row)
        seen.append((runner.step, measure()))

    runner.rows.train.append = watched  # type: ignore[method-assign]
    runner.run()
    steps, measured = map(np.array, zip(*seen, strict=True))
    return steps, measured
