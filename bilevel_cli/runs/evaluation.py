"""What outer parameters teach by themselves, whatever the inner ones remember."""

import torch
from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.random import generator
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params


def check(task: Task) -> None:
    """Raises ValueError where nothing can be remembered."""
    if task.episodes is not None:
        raise ValueError(
            f"Re-training needs one inner problem that goes on from step to step, got "
            f"{type(task).__name__}, whose episodes are new at every evaluation. Set retrain=null."
        )


@torch.no_grad()
def retrained(
    task: Task,
    loop: InnerLoop,
    outer: Params,
    inner: Params,
    steps: int,
    seed: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """F and the scores of a fresh inner solve, beside F of the joint inner parameters.

    The gap between the two is the information that lives in the inner parameters alone (Vicol et
    al., 2022, arXiv:2212.14032). The solve begins where the task begins, whatever the start policy,
    and takes `steps` of the run's own solver. Both F are on the same outer minibatch, and every
    evaluation draws the same.

    Columns: joint_loss; retrained_loss; and each score of the task behind `retrained_`.

    Args:
        task: With one inner problem.
        loop: The inner loop of the run.
        outer: The outer parameters.
        inner: The joint inner parameters: the last iterate of the run.
        steps: Inner steps of the fresh solve.
        seed: Of the run.
        device: Where the task lives.
    """
    data = task.sample(steps, generator(seed, "re-training", device))
    fresh = loop.run(loop.fresh(outer, data), outer, data)["inner"]
    found = {
        "joint_loss": task.outer_loss(inner, outer, data.outer),
        "retrained_loss": task.outer_loss(fresh, outer, data.outer),
    }
    return found | {f"retrained_{n}": s for n, s in task.evaluate(loop, outer, fresh).items()}
