"""What the author of a task has to write, and what he need not."""

import pytest
import torch
from problems import seeded
from torch import Tensor

from bilevel_cli import Batch, InnerLoop, Params, StepData, Task


class Least(Task):
    """As little as a task can be."""

    def init_outer(self, generator: torch.Generator) -> Params:
        return {"a": torch.ones(2)}

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        return StepData({"w": torch.full((2,), 3.0)}, {"unused": torch.zeros(num_steps)}, {})

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return (inner["w"] - outer["a"]).square().sum()

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return inner["w"].square().sum()

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        return {"loss": self.outer_loss(inner, outer, {})}


def test_inner_solves_begin_at_what_sample_returned() -> None:
    task = Least()
    data = task.sample(1, seeded())
    assert torch.equal(task.init_inner({}, data)["w"], torch.full((2,), 3.0))


@pytest.mark.parametrize("name", ["inner_loss", "outer_loss", "sample", "init_outer", "evaluate"])
def test_a_task_that_lacks_a_part_is_refused_by_the_name_of_the_part(name: str) -> None:
    lacking = type("Lacking", (Least,), {name: getattr(Task, name)})
    with pytest.raises(TypeError, match=f"Lacking.*{name}"):
        lacking()
