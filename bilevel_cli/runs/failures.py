"""What a run says that could not write its files, or did not fit into memory."""

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bilevel_cli.config.resolved import resolved
from bilevel_cli.core import trees
from bilevel_cli.core.growth import Parts
from bilevel_cli.core.host import is_host
from bilevel_cli.errors import NO_SPACE, Unwritten, UsageError
from bilevel_cli.machine.memory import peak_memory_mb
from bilevel_cli.runs.runner import Runner
from bilevel_cli.vocabulary import FAILED

# Settings that make a gradient and an evaluation need more memory, whatever the method.
SIZES = (
    "task.batch_size",
    "task.outer_batch_size",
    "task.episodes",
    "task.folds",
    "data.train",
    "data.validation",
    "data.test",
)
SMALL = 0.1  # a part that is smaller beside another one is not worth a word


def unwritable(error: OSError, directory: Path) -> UsageError | Unwritten:
    if error.errno in NO_SPACE:
        return unwritten(error, directory)
    return UsageError(
        f"A run needs a folder that it can write, got {directory}: {error.strerror}. "
        "Set hydra.run.dir."
    )


def unwritten(error: OSError, directory: Path) -> Unwritten:
    way_out = "Free some" if error.errno in NO_SPACE else "Once it can"
    return Unwritten(
        f"A run needs to write its files in {directory}, got: {error.strerror}. {way_out}, and "
        f"it continues with hydra.run.dir={directory}.",
        FAILED,
    )


def too_large(
    error: BaseException, runner: Runner | None, config: DictConfig, replicas: int
) -> str:
    """What did not fit into memory, and the settings that need less.

    Args:
        error: As torch or Python raised it.
        runner: That of the run; None if it was not built yet.
        config: The composed configuration.
        replicas: How many runs the command has.
    """
    device = resolved(config).get("device") or {}
    found = re.search(r"allocate ([\d.]+ ?\w+)", str(error))
    needed = f"Out of memory, asked for {found[1]}" if found else "Out of memory"
    ways = [f"replicas < {replicas}"] if replicas > 1 else []
    parts: Parts = ()
    if runner is not None:
        state, where = runner.state, runner.machine.device
        needed += (
            f" after {peak_memory_mb(where):.0f} MB on {where}, by "
            f"{runner.plan.schedule.inner_steps} inner steps on {_size(state.carry)} numbers "
            f"and {_size(state.outer)} outer parameters"
        )
        parts = state.held()
        if runner.experiment.task.episodes and not is_host(where):
            ways.append("device.episodes_chunk=1")
    ways += smaller(parts)
    if any(part.within for part in parts):
        ways.append(f"another device.memory_budget than {device['memory_budget']}")
    if device.get("capture") == "cuda_graph":  # which keeps the memory of a whole step
        ways.append("device.capture=null")
    if device.get("dtype") == "float64":
        ways.append("device.dtype=float32")
    sizes = [name for name in SIZES if OmegaConf.select(config, name) is not None]
    known = ", ".join([*ways, *sizes])
    return f"{needed}. Less is needed with {known}." if known else f"{needed}."


def smaller(parts: Parts) -> list[str]:
    """What makes the largest parts of what an estimate holds smaller, the largest first."""
    largest = max((part.numbers for part in parts), default=0)
    worth = [part for part in parts if part.numbers >= SMALL * largest]
    worth.sort(key=lambda part: -part.numbers)
    return list(dict.fromkeys(way for part in worth for way in part.less))


def _size(tree: Any) -> int:
    return sum(leaf.numel() for leaf in trees.leaves(tree))
