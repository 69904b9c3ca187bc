"""The folder of a run, before Hydra writes its log and its configuration there."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra._internal import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bilevel_cli.records import folder

application: Any = hydra  # mypy hides from others what it imports itself


@contextlib.contextmanager
def looked_at() -> Iterator[None]:
    """Has Hydra refuse the folder of a single run in which a link, say, is in the way.

    Raises:
        UsageError: There is one; as `records.folder.check`.
    """
    theirs = application.run_job

    def run_job(*, config: DictConfig, **given: Any) -> Any:
        _check(config)
        return theirs(config=config, **given)

    # Hydra writes before it calls anybody, and only warns of what a callback raises.
    application.run_job = run_job
    try:
        yield
    finally:
        application.run_job = theirs


def check_sweep(config: DictConfig) -> None:
    """Refuses the folder of a sweep in which something is in the way of Hydra's own files.

    Raises:
        UsageError: There is something; as `records.folder.check`.
    """
    with contextlib.suppress(OmegaConfBaseException):  # the sweeper says what is wrong with it
        folder.check(Path(str(config.hydra.sweep.dir)), key="hydra.sweep.dir")


def _check(config: DictConfig) -> None:
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)  # the folder may be named by Hydra's own settings
    try:
        directory, log = Path(str(config.hydra.run.dir)), f"{config.hydra.job.name}.log"
        below = config.hydra.output_subdir
    except OmegaConfBaseException:  # of a wrong interpolation, which Hydra then finds itself
        return
    finally:
        HydraConfig.instance().cfg = before
    folder.check(directory, log, below)
