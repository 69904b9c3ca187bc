"""When a compiled loop reads rows without a check of their numbers."""

import pytest
import torch
from torch import Tensor

from bilevel_cli.core.trees import Tree
from bilevel_cli.machine.looping import compiled

TABLE = torch.arange(6.0, dtype=torch.float64).reshape(3, 2)


def test_a_number_of_no_row_is_refused_before_the_first_step() -> None:
    def step(moving: Tree, given: Tree) -> tuple[Tree, Tree]:
        total: Tensor = moving["total"] + TABLE[given["rows"]].sum(0)
        return {"total": total}, {"last": total.sum()}

    moving = {"total": torch.zeros(2, dtype=torch.float64)}
    given = {"rows": torch.tensor([[0, 1], [2, 2], [1, 0]])}
    loop = compiled(step, moving, given)
    loop(moving, given, 3)
    assert torch.equal(moving["total"], TABLE[given["rows"]].sum((0, 1)))
    for wrong, steps in ((given["rows"] + 1, 3), (given["rows"] - 4, 3), (given["rows"], 4)):
        with pytest.raises(IndexError, match="number of none"):
            loop(moving, {"rows": wrong}, steps)
