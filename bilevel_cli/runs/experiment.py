"""What a run is given: what to compute, where, and what tells it from other runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bilevel_cli.core import episodes
from bilevel_cli.core.episodes import OuterStep
from bilevel_cli.core.host import is_host
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Tree
from bilevel_cli.machine.capture import captured, cuda_graph
from bilevel_cli.machine.looping import Loop, Step, compiled
from bilevel_cli.machine.ranks import Ranks
from bilevel_cli.machine.recording import recorded
from bilevel_cli.metrics.base import Metric
from bilevel_cli.nn.autocasting import used
from bilevel_cli.runs.plan import Schedule


@dataclass(frozen=True)
class Experiment:
    """What is computed: a product of choices, none of which knows another.

    Args:
        task: The task.
        loop: The inner loop on that task: solver and start.
        method: The hypergradient method.
        optimizer: Makes a torch optimizer of a list of tensors, or of groups of them.
        scheduler: Makes a torch scheduler of that optimizer's step size.
        metrics: Probes, by the names of their yaml options.
    """

    task: Task
    loop: InnerLoop
    method: Hypergradient[Any]
    optimizer: Callable[[list[Any]], Optimizer]
    scheduler: Callable[[Optimizer], LRScheduler]
    metrics: dict[str, Metric]

    def check(self, schedule: Schedule, ranks: Ranks) -> None:
        """Raises ValueError, before any work, where the choices do not go together."""
        episodes.refuse_memory(self.task, self.loop, self.method)
        if schedule.retrain is not None and self.task.episodes is not None:
            raise ValueError(
                "Re-training needs one inner problem that goes on from step to step, got "
                f"{type(self.task).__name__}, whose episodes are new at every evaluation. "
                "Set retrain=null."
            )
        ranks.check(self.task)


@dataclass(frozen=True)
class Machine:
    """Where it is computed.

    Args:
        device: Where the task's data live.
        episodes_chunk: Episodes that a GPU holds in memory at once; None for all.
        capture: How to capture the outer step, as in `Device`.
        ranks: The processes that share the outer steps.
    """

    device: torch.device
    episodes_chunk: int | None
    capture: str | None
    ranks: Ranks

    def outer_step(self, experiment: Experiment) -> OuterStep:
        """The outer step over all episodes of this process."""
        return episodes.outer_step(
            experiment.method, experiment.loop, self.episodes_chunk, total=self.ranks.count > 1
        )

    @property
    def fuses(self) -> bool:
        """Whether outer steps are to be compiled or recorded many at a time."""
        host = is_host(self.device) and used() is None
        able = {"compile": host, "cuda_graph": True}
        return self.ranks.count == 1 and able.get(self.capture or "", False)

    def looped(self, step: Step, moving: Tree, given: Tree) -> Loop:
        """A loop over `step`, captured as the device is asked to; else as `looping.compiled`."""
        if self.capture == "compile":
            return compiled(step, moving, given)
        return recorded(step, moving, given, lambda fn, calls: cuda_graph(fn, self.device, calls))

    def captured(self, step: OuterStep) -> OuterStep:
        """`step`, captured as the device is asked to.

        Raises:
            ValueError: Processes exchange in the midst of it.
        """
        if self.capture is not None and self.ranks.exchanges_within:
            raise ValueError(
                "Several processes exchange in the midst of an outer step where they share "
                f"minibatches, got device.capture={self.capture}. Use device.capture=null, or one "
                "process."
            )
        return captured(step, self.capture, self.device)


@dataclass(frozen=True)
class Identity:
    """What tells a run from another one when it is to go on from a checkpoint.

    Args:
        settings: The resolved configuration; a checkpoint of another one is refused.
        origin: What the numbers of a run depend on besides its settings, such as versions, "device"
            and "data": of a checkpoint with other ones a run warns, and refuses other values of
            these two.
    """

    settings: dict[str, Any]
    origin: dict[str, Any]
