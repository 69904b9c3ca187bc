"""manifest.json: what a run was, where it ran, and how it ended."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

from bilevel_cli.records.atomic import replaced
from bilevel_cli.vocabulary import MANIFEST, RUNNING


class Doubt(TypedDict):
    """Why the numbers of a run may not be what they seem.

    Attributes:
        step: The outer step of the first row that showed it.
        sentence: What was seen, and what to do.
    """

    step: int
    sentence: str


class Manifest:
    """The file is written when a run begins, when its numbers are in doubt, and when it ends.

    Args:
        directory: The folder of the run.
        settings: The resolved configuration.
        choices: The option chosen from each config group, by which people call the parts of a run.
        process: The command, versions and commit of the process that runs it.
    """

    def __init__(
        self,
        directory: Path,
        settings: dict[str, Any],
        choices: dict[str, str],
        process: dict[str, Any],
    ) -> None:
        self._path = directory / MANIFEST
        self._identity: tuple[int, int, int] | None = None
        self._entries: dict[str, Any] = {
            "status": RUNNING,
            "error": None,
            "doubts": {},
            "started": _now(),
            "ended": None,
            **process,
            "settings_sha256": hashlib.sha256(
                json.dumps(settings, sort_keys=True).encode()
            ).hexdigest(),
            "settings": settings,
            "choices": choices,
        }

    def begin(
        self,
        hardware: dict[str, Any],
        data: str,
        checksum: str | None,
        first_step: int,
        higher_is_better: tuple[str, ...],
        doubts: dict[str, Doubt],
    ) -> None:
        """Notes what is known once the run is built.

        Args:
            hardware: On what the run computes.
            data: What a reader of the scores must know of the data.
            checksum: That of the data.
            first_step: The outer steps that were taken before, where this run continues another.
            higher_is_better: Patterns of the names of scores that are better when they are higher.
            doubts: Those that the continued run noted.
        """
        self._entries |= {
            "doubts": doubts,
            "data": data,
            "data_sha256": checksum,
            "first_step": first_step,
            "higher_is_better": higher_is_better,
            **hardware,
        }
        self._write()

    def doubt(self, doubts: dict[str, Doubt]) -> None:
        """Notes why the numbers of the run may not be what they seem.

        Args:
            doubts: All doubts so far, by kind.
        """
        self._entries["doubts"] = doubts
        self._write()

    def end(self, status: str, error: str | None = None, **more: object) -> None:
        """Notes the end.

        Args:
            status: COMPLETED, FAILED, DIVERGED, OOM or INTERRUPTED of `vocabulary`.
            error: What went wrong, in one line.
            more: Other things to note.
        """
        self._entries |= {"status": status, "error": error, "ended": _now(), **more}
        self._write()

    @property
    def ours(self) -> bool:
        """Whether the file is the one that was written last here, and not one of another run."""
        return self._identity is not None and self._identity == _identity(self._path)

    def _write(self) -> None:
        with replaced(self._path) as partial:
            partial.write_text(json.dumps(self._entries, indent=2) + "\n")
            self._identity = _identity(partial)


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
