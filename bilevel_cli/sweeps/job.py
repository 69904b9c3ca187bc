"""A job of a sweep."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from bilevel_cli.config import sources
from bilevel_cli.errors import Failed, UsageError
from bilevel_cli.sweeps import outcome
from bilevel_cli.sweeps.outcome import Outcome
from bilevel_cli.vocabulary import COMPLETED, MISSING, REFUSED, WAITING

_LONGEST = 200  # file systems take 255 bytes


def slug(overrides: str) -> str:
    """A folder name for a job's overrides: one folder, whatever slashes their values have.

    Of a single job, which may have none that a name holds, "job".
    """
    overrides = overrides or "job"
    name = re.sub(r"[/\\\x00]+", "_", overrides).strip(". ")
    if name and name == overrides and len(name.encode()) <= _LONGEST:
        return name
    # Two jobs whose names become alike must not share a folder.
    digest = hashlib.sha256(overrides.encode()).hexdigest()[:12]
    return name.encode()[: _LONGEST - 13].decode(errors="ignore") + "_" + digest


@dataclass(frozen=True)
class Job:
    """A job of a sweep.

    Args:
        overrides: The settings of the job, as a command line has them.
        config: The configuration that Hydra composes of them.
        folder: Where the job runs.
        name: The name of that folder within the folder of the sweep.
        settings: What `outcome.digest` says of `config`.
    """

    overrides: list[str]
    config: DictConfig
    folder: Path
    name: str
    settings: str

    def reserve(self) -> bool:
        """Notes that the job waits to be launched, unless it is completed or running.

        Returns:
            Whether the job is to be launched.
        """
        with outcome.noting(self.folder) as note:
            if note is None:
                return False
            before = note.read()
            if before and (before.status, before.settings) == (COMPLETED, self.settings):
                return False
            note.sources = before.sources if before else None
            note.write(Outcome(WAITING, self.settings))
            return True

    def refuse(self, reason: str) -> None:
        """Notes that the job cannot work, unless another process runs it all the same."""
        with outcome.noting(self.folder) as note:
            if note is not None:
                note.write(Outcome(REFUSED, self.settings, reason, UsageError.code))

    def changed(self, before: sources.Digests) -> list[str]:
        """The modules behind its classes that are not as they were.

        Args:
            before: As noted when the job ran.
        """
        return sources.changed(before, sources.digests(self.config))

    def outcome(self) -> Outcome:
        """How the job stands, as far as its folder tells: missing, if it never began."""
        found = outcome.read(self.folder)
        if found is None or found.status == WAITING:
            reason = "It did not begin. The same command runs it."
            return Outcome(MISSING, "", reason, Failed.code)
        return found

    def returned(self) -> JobReturn:
        """What Hydra's sweepers are told."""
        found = JobReturn(overrides=self.overrides, cfg=self.config, status=JobStatus.COMPLETED)
        found.return_value = self.outcome().returned
        return found
