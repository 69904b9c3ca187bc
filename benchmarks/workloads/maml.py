"""Few-shot MAML with Conv-4, one shot, five inner steps, on 28 x 28 images."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.case import Case, Forward, assemble
from benchmarks.workloads import Cases
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params
from bilevel_cli.models import Conv4

SIZES = {"full": (64, 15, 16), "quick": (32, 5, 8), "tiny": (4, 2, 3)}  # filters, queries, tasks


def cases(size: str, device: list[str]) -> Cases:
    width, queries, many = SIZES[size]
    few = min(4, many - 1)
    return {
        f"maml {ways}-way, {tasks} tasks": partial(build, ways, tasks, width, queries, device)
        for ways, tasks in ((5, few), (5, many), (20, few))
    }


def build(ways: int, tasks: int, width: int, queries: int, device: list[str]) -> Case:
    overrides = [
        *("task=meta", "model=conv4", "method=reverse", f"model.width={width}", *device),
        *(f"task.ways={ways}", f"task.queries={queries}", f"task.episodes={tasks}"),
        *("inner_steps=5", "suggest.inner_lr=0.1", "task.eval_episodes=2"),
    ]
    source = {"_target_": "benchmarks.data.Characters"}
    return assemble(
        overrides, source, lambda: Conv4(width, (1, 28, 28), ways), loss, loss, "unrolled"
    )


def loss(forward: Forward, z: Sequence[Tensor], outer: Params, batch: Batch) -> Tensor:
    return cross_entropy(forward(batch["x"]), batch["y"])
