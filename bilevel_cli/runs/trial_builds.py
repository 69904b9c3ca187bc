"""Whether a combination of options can work, judged by building it, without a step."""

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, open_dict

from bilevel_cli.config import objects
from bilevel_cli.config.objects import Posed
from bilevel_cli.config.resolved import resolved
from bilevel_cli.errors import UsageError
from bilevel_cli.machine.device import settings_restored
from bilevel_cli.runs import build

Trial = Callable[[DictConfig, dict[str, str]], str | None]

_OF_A_TASK = ("device", "data", "model", "task")
# Where jobs run elsewhere, this machine says nothing of their devices and memory.
_ANYWHERE = {"name": "cpu", "capture": None, "memory_budget": "1000 TB"}


@contextlib.contextmanager
def trying(process: bool, machine: bool) -> Iterator[Trial]:
    """Yields what says why a configuration, with these options, cannot work; None where it may.

    Successive combinations on one task share it. Nothing is written into the folder of a job, and
    what a job will warn of is left to it. An error that is no refusal is left to the job too, which
    keeps its traceback.

    Args:
        process: Whether jobs run in this process.
        machine: Whether they run on this machine. The memory of its GPUs is left to the jobs, which
            may have them for themselves alone.
    """
    shared: dict[str, Posed] = {}
    here = process or (machine and not torch.cuda.is_available())
    before = logging.root.manager.disable
    with settings_restored(), tempfile.TemporaryDirectory() as scratch:

        def tried(config: DictConfig, options: dict[str, str]) -> str | None:
            if not here:
                _move_anywhere(config)
            logging.disable(logging.WARNING)
            try:
                settings = resolved(config)
                try:
                    known = _posed(config, options, settings, shared)
                except (UsageError, ValueError):
                    if not here:  # its data may be where the jobs run
                        return None
                    raise
                build.build(config, settings, Path(scratch), options, known=known)
            except (UsageError, ValueError) as error:
                return str(error)
            except Exception:
                return None
            finally:
                logging.disable(before)
            return None

        yield tried


def _posed(
    config: DictConfig, options: dict[str, str], settings: dict[str, Any], shared: dict[str, Posed]
) -> Posed:
    """The task of a configuration: the last one, where it is the same."""
    key = json.dumps([settings.get(part) for part in _OF_A_TASK], sort_keys=True, default=str)
    if key not in shared:
        shared.clear()  # before the next one is made: each holds its data
        shared[key] = objects.posed(config, options)
    return shared[key]


def _move_anywhere(config: DictConfig) -> None:
    with open_dict(config):
        device = config.get("device")
        for name, value in _ANYWHERE.items():
            if isinstance(device, DictConfig) and name in device:
                device[name] = value
