"""What is special to jobs in the queue of submitit."""

from pathlib import Path
from typing import Any

from hydra.plugins.launcher import Launcher


def submitted(launcher: Launcher) -> set[str]:
    """The numbers of the jobs that a launcher of submitit has given to its queue."""
    folder = getattr(launcher, "params", {}).get("submitit_folder")
    if folder is None:
        return set()
    return {path.parent.name for path in Path(folder).parent.glob("*/*_submitted.pkl")}


def wait_for_submitted(launcher: Launcher, earlier: set[str]) -> bool:
    """Waits for the jobs that are still in the queue, after the death of one ended the launcher.

    Args:
        launcher: Of Hydra or a plugin of it.
        earlier: The numbers of the jobs that were in the queue before.

    Returns:
        Whether there were any.
    """
    numbers = submitted(launcher) - earlier
    if not numbers:
        return False
    from submitit import AutoExecutor

    made: Any = launcher
    folder = made.params["submitit_folder"]
    executor: Any = AutoExecutor(folder=folder, cluster=made._EXECUTOR)._executor
    for number in sorted(numbers):
        executor.job_class(folder=folder, job_id=number, tasks=[0]).wait()
    return True
