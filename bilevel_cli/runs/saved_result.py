"""The files in which a task writes what it learned."""

import shutil
from pathlib import Path

import torch

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params
from bilevel_cli.records.folder import check_result
from bilevel_cli.vocabulary import EVAL, MANIFEST


@torch.no_grad()
def save_result(
    task: Task, loop: InnerLoop, outer: Params, inner: Params, folder: Path
) -> list[Path]:
    """Writes what a task learned into the folder of a run, each file in whole or not.

    Args:
        task: The task.
        loop: The inner loop of the run.
        outer: The outer parameters.
        inner: The last inner iterate, with a leading dimension where there are episodes.
        folder: Of the run, whose table of scores and manifest the task may read.

    Returns:
        The files.

    Raises:
        UsageError: Something else than a file has the name of one.
        OSError: A file cannot be written.
    """
    partial = folder / "result.partial"
    read = [folder / name for name in (EVAL, MANIFEST) if (folder / name).exists()]
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        for path in read:
            shutil.copy(path, partial)
        written = task.write_results(partial, loop, outer, inner)
        for path in read:
            (partial / path.name).unlink(missing_ok=True)
        for path in partial.iterdir():
            check_result(folder / path.name)
        for path in partial.iterdir():
            path.replace(folder / path.name)
        return [folder / path.relative_to(partial) for path in written]
    finally:
        shutil.rmtree(partial, ignore_errors=True)
