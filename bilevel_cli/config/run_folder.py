"""The folder of a run, before Hydra writes its log and its configuration there."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra._internal import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bilevel_cli.config.application import composed, option_folders
from bilevel_cli.config.options import CONF
from bilevel_cli.config.refused import ELSEWHERE
from bilevel_cli.errors import Removed, UsageError, refusal
from bilevel_cli.records import folder
from bilevel_cli.records.plain import plain
from bilevel_cli.vocabulary import FAILED

# Names of what Hydra writes, and the folders in which these are to stay.
INSIDE = {
    "hydra.job.name": "of the run",
    "hydra.output_subdir": "of the run",
    "hydra.sweep.subdir": "of the sweep",
}
LINES = ("hydra.run.dir", "hydra.sweep.dir")  # which batch scripts have in a line of theirs

application: Any = hydra  # mypy hides from others what it imports itself


@contextlib.contextmanager
def looked_at() -> Iterator[None]:
    """Has Hydra refuse the folder of a single run in which a link, say, is in the way.

    Raises:
        UsageError: There is one; as `records.folder.check`. Or as `check_names`.
    """
    theirs = application.run_job

    def run_job(*, config: DictConfig, **given: Any) -> Any:
        directory = _check(config)
        try:
            return theirs(config=config, **given)
        except (OSError, ValueError) as error:  # the other one of logging, with its cause
            gone = refusal(error, (errno.ENOENT,)) and directory and not os.path.lexists(directory)
            # It was made, and went away before Hydra had written its log and configuration there.
            if not gone:
                raise
            raise Removed(str(directory), FAILED) from error

    # Hydra writes before it calls anybody, and only warns of what a callback raises.
    application.run_job = run_job
    try:
        yield
    finally:
        application.run_job = theirs


def check_sweep(config: DictConfig) -> None:
    """Refuses the folder of a sweep in which something is in the way of Hydra's own files.

    Raises:
        UsageError: There is something; as `records.folder.check`. Or as `check_names`.
    """
    check_names(config, "hydra.sweep.subdir")
    with contextlib.suppress(OmegaConfBaseException):  # the sweeper says what is wrong with it
        folder.check(Path(str(config.hydra.sweep.dir)), key="hydra.sweep.dir")


def check_names(config: DictConfig, *besides: str) -> None:
    """Refuses names that lead out of the folder which they are for, or end a line.

    What an argument says itself is looked at before (`refused`). Here is what it comes to:
    `+x=../y hydra.job.name='${x}'` says neither.

    Args:
        config: The whole configuration, with Hydra's own, to which `HydraConfig` is set. One that
            files of a user are part of may lead where it likes.
        besides: Names that are not looked at, since a single run has no such folder, say.

    Raises:
        UsageError: There is one.
    """
    if option_folders(config) != (CONF,):
        return
    for key in (*INSIDE, *LINES):
        try:
            name = None if key in besides else OmegaConf.select(config, key)
        except OmegaConfBaseException:  # of a wrong interpolation, which Hydra then finds itself
            continue
        wrong = ""
        if isinstance(name, str) and re.search(r"[\r\n]", name):
            wrong = f"put a line break into {key}"
        elif isinstance(name, str) and key in INSIDE and _leads_out(name):
            wrong = f"lead {key} out of the folder {INSIDE[key]}"
        if wrong:
            shown = plain(str(name), folder.LONGEST)
            raise UsageError(f"A command line cannot {wrong}, got {shown!r}. {ELSEWHERE}")


def _leads_out(name: str) -> bool:
    path = os.path.normpath(name)
    return os.path.isabs(path) or path.split(os.sep)[0] == os.pardir


def _check(config: DictConfig) -> Path | None:
    """Looks at the folder of a run, and returns it; None if its name cannot be resolved."""
    try:
        with composed(config):  # the folder may be named by Hydra's own settings
            check_names(config, "hydra.sweep.subdir")
            directory, log = Path(str(config.hydra.run.dir)), f"{config.hydra.job.name}.log"
            below = config.hydra.output_subdir
    except OmegaConfBaseException:  # of a wrong interpolation, which Hydra then finds itself
        return None
    folder.check(directory, log, below)
    return directory
