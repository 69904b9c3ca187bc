"""Runs what is missing of an item, several runs at a time."""

import contextlib
import multiprocessing
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from bilevel_cli.config.options import CONF
from bilevel_cli.config.resolved import resolved
from bilevel_cli.core.dtypes import computing_in
from bilevel_cli.errors import Failed
from bilevel_cli.runs import entry
from reproductions.item import Item, Run, items
from reproductions.results import Results


def carry_out(chosen: dict[str, Item], outputs: Path, quick: bool, jobs: int) -> None:
    """Makes the runs and the numeric experiments that are missing.

    Args:
        chosen: Items by name.
        outputs: The folder with a folder for each item.
        quick: Whether to leave the long runs out.
        jobs: How many at a time, each in a process of its own; 1 for this one.
    """
    todo: list[tuple[str, Run | None]] = []
    for name, item in chosen.items():
        (outputs / name).mkdir(parents=True, exist_ok=True)
        todo += [(name, None)] if item.measure else []
        todo += [(name, run) for run in item.runs if run.quick or not quick]
    with contextlib.ExitStack() as stack:
        each = map if jobs == 1 else stack.enter_context(_processes(min(jobs, len(todo)))).map
        folders = [outputs / name for name, _ in todo]
        for (name, run), new in zip(todo, each(one, todo, folders), strict=True):
            if new:
                print(f"{name}: {run.name if run else 'numeric experiment'}", flush=True)


def _processes(count: int) -> ProcessPoolExecutor:
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes to come
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    return ProcessPoolExecutor(count, mp_context=spawn)


def one(what: tuple[str, Run | None], folder: Path) -> bool:
    """Makes a run of an item, or its numeric experiment. Returns whether it was missing."""
    name, run = what
    if run is not None:
        return complete(run.command, folder / run.name)
    measure = items()[name].measure  # by name: functions do not travel to other processes
    assert measure is not None
    with computing_in(torch.float64):
        measure(folder)  # seconds, and always anew
    return True


def complete(command: Sequence[str], folder: Path) -> bool:
    """Makes or continues a run. Returns whether there was something to do.

    A folder that holds another run, of settings that have changed since, is cleared.

    Args:
        command: Its overrides.
        folder: Where it goes.
    """
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=list(command))
    found = Results(folder.parent).manifest(folder.name)
    if found and found["settings"] != resolved(config):
        shutil.rmtree(folder)
    elif found.get("status") in ("completed", "diverged"):
        return False
    # The page tells of a run that failed, by its manifest, and of the others all the same.
    with contextlib.suppress(Failed):
        entry.run(config, folder, {})
    return True
