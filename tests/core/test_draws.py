"""One seed is one start: float32 and float64 runs begin with the same numbers, to rounding."""

from pathlib import Path
from typing import Any

import pytest
import torch
from configs import configured, options, small
from runners import runner_in

from bilevel_cli.core import draws
from bilevel_cli.core.trees import leaves
from bilevel_cli.errors import UsageError


def beginning(directory: Path, dtype: str, *overrides: str) -> Any:
    """What the first outer step of a run is given: outer parameters, data and memory."""
    config = configured("device=cpu", f"device.dtype={dtype}", "outer_steps=1", *overrides)
    run = runner_in(config, directory)
    outer, data, carry = next(run._advance())
    return outer, tuple(data), carry


def assert_alike(directory: Path, *overrides: str) -> None:
    single, double = (beginning(directory, f"float{n}", *overrides) for n in (32, 64))
    pairs = list(zip(leaves(single), leaves(double), strict=True))
    assert any(one.dtype == torch.float32 for one, _ in pairs)
    for one, other in pairs:
        if one.is_floating_point():
            assert (one.dtype, other.dtype) == (torch.float32, torch.float64)
            # Some roundings of numbers that were made of what was drawn.
            torch.testing.assert_close(one, other.float(), rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(one, other)


@pytest.mark.parametrize("task", options("task"))
def test_every_task_begins_alike_in_both_precisions(task: str, tmp_path: Path) -> None:
    assert_alike(tmp_path, f"task={task}", "inner_steps=2", *small(task))


@pytest.mark.parametrize("method", options("method"))
def test_every_method_draws_alike_in_both_precisions(method: str, tmp_path: Path) -> None:
    sizes = ["task.inner_samples=40", "task.outer_samples=30", "task.inner_dim=6"]
    for overrides in (
        ["task=quadratic"],
        [
            "task=simulated",
            *sizes,
            "task.outer_dim=3",
            "task.batch_size=7",
            "task.outer_batch_size=8",
        ],
    ):
        try:
            assert_alike(tmp_path, *overrides, f"method={method}", "inner_steps=2")
        except UsageError:
            continue
        return
    raise AssertionError("It serves neither task.")


@pytest.mark.parametrize("draw", [draws.normal, draws.uniform])
@pytest.mark.parametrize("drawn_in", [torch.float32, torch.float64])
def test_a_draw_is_cast_to_the_type_of_the_run(draw: Any, drawn_in: torch.dtype) -> None:
    def drawn(dtype: torch.dtype) -> torch.Tensor:
        torch.set_default_dtype(dtype)
        found: torch.Tensor = draw(
            3, 20, generator=torch.Generator().manual_seed(0), drawn_in=drawn_in
        )
        assert found.dtype == dtype
        return found

    single, double = drawn(torch.float32), drawn(torch.float64)
    assert torch.equal(single, double.float())
    assert torch.equal(single.double(), double) == (drawn_in == torch.float32)
