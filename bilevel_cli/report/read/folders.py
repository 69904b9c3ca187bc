"""The folders of runs in and below those that a user names, and nowhere else."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from bilevel_cli.errors import UsageError
from bilevel_cli.records.plain import plain_name
from bilevel_cli.vocabulary import EVAL, LOCK, MANIFEST, NOTES, TRAIN


class NoRuns(UsageError):
    """No run is there. One may come, where a sweep has just begun."""


def found(roots: Sequence[Path], warnings: list[str]) -> list[tuple[Path, str]]:
    """The folders of the runs in some folders and in all below them, each once, with their names.

    A link is followed where it leads into a folder that was named. Another may lead to runs that
    their owner would not show to whoever reads the report, or to the whole disk.

    Args:
        roots: Folders of runs or of sweeps, or folders above them; links to such, too.
        warnings: A line is added for folders that were not searched.

    Raises:
        UsageError: A root is no folder.
        NoRuns: A root has no run in it.
    """
    every: dict[Path, tuple[Path, str]] = {}
    for root in roots:
        if not root.is_dir():
            raise UsageError(
                f"A report needs folders of runs, got {root}: there is no such folder."
            )
        skipped: list[str] = []
        folders = [folder for folder in _below(root, roots, skipped) if _is_run(folder)]
        if skipped:
            count = f", and {len(skipped) - 1} more," if len(skipped) > 1 else ""
            skipped = [f"{skipped[0]}{count} not searched. Name a folder itself to search it"]
        if not folders:
            raise NoRuns(
                f"A report needs a folder with runs in it, got {root}: neither it nor a folder "
                f"below it has a {MANIFEST}, {TRAIN} or {EVAL}. "
                f"{'. '.join([*skipped, 'Name a hydra.run.dir or hydra.sweep.dir'])}."
            )
        warnings += [f"{line}." for line in skipped]
        for folder in folders:
            name = _name(folder, root, len(roots) > 1, len(folders) > 1)
            every.setdefault(folder.resolve(), (folder, name))
    return list(every.values())


def _below(root: Path, roots: Sequence[Path], skipped: list[str]) -> Iterator[Path]:
    """A folder and all folders below it but hidden ones, none twice, as `found` follows links."""
    named = [one.resolve() for one in roots]
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            place = folder.stat()
            if (place.st_dev, place.st_ino) in seen:
                continue
            seen.add((place.st_dev, place.st_ino))
            names = sorted(entry.name for entry in os.scandir(folder) if _is_folder(entry))
        except FileNotFoundError:  # it was deleted meanwhile
            continue
        except OSError as error:
            skipped.append(f"{folder} ({error.strerror})")
            continue
        yield folder
        inside = [folder / name for name in names if not name.startswith(".")]
        kept = [path for path in inside if not path.is_symlink() or _is_in(path.resolve(), named)]
        skipped += [f"{path} (a link that leads out)" for path in sorted({*inside} - {*kept})]
        waiting += reversed(kept)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    with contextlib.suppress(OSError):  # a link to itself
        return entry.is_dir()
    return False


def _is_in(target: Path, folders: Sequence[Path]) -> bool:
    return any(target.is_relative_to(folder) for folder in folders)


def _is_run(folder: Path) -> bool:
    # Also where such a name is a link or no file: the run is told then, and not left out.
    if any(os.path.lexists(folder / name) for name in (MANIFEST, TRAIN, EVAL)):
        return True
    # A run takes its lock before anything else, and writes the other files once it is built.
    return os.path.lexists(folder / LOCK) and (folder / NOTES).is_dir()


def _name(folder: Path, root: Path, several_roots: bool, several_runs: bool) -> str:
    if several_roots:
        return plain_name(str(folder))
    alone = folder == root and not several_runs
    return plain_name(folder.resolve().name if alone else str(folder.relative_to(root)))
