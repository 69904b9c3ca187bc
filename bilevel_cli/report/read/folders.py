"""The folders of runs in and below those that a user names, and nowhere else."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bilevel_cli.errors import UsageError
from bilevel_cli.records.plain import plain_name
from bilevel_cli.vocabulary import EVAL, LOCK, MANIFEST, NOTES, TRAIN

MARKS = (MANIFEST, TRAIN, EVAL)  # of which any run has one, once it is built
FILES = (*MARKS, LOCK, NOTES)


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
    every: dict[tuple[int, int], tuple[Path, str]] = {}
    named = [root.resolve() for root in roots]
    for root in roots:
        if not root.is_dir():
            raise UsageError(
                f"A report needs folders of runs, got {root}: there is no such folder."
            )
        skipped: list[str] = []
        folders = list(_runs_below(root, named, skipped))
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
        for folder, place in folders:
            name = _name(folder, root, len(roots) > 1, len(folders) > 1)
            every.setdefault(place, (folder, name))
    return list(every.values())


def _runs_below(
    root: Path, named: Sequence[Path], skipped: list[str]
) -> Iterator[tuple[Path, tuple[int, int]]]:
    """The runs in a folder and in all folders below it but hidden ones, none twice.

    Each folder is listed once, and its files are not looked at: on the disk of a network, every
    question takes a while.

    Args:
        root: The folder.
        named: The folders that links may lead into.
        skipped: A line is added for each folder that is not searched.

    Returns:
        Each folder of a run with its device and inode, by which it is known under any name.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            status = folder.stat()
            place = (status.st_dev, status.st_ino)
            if place in seen:
                continue
            seen.add(place)
            with os.scandir(folder) as entries:
                found = {entry.name: entry for entry in entries if _is_wanted(entry)}
        except FileNotFoundError:  # it was deleted meanwhile
            continue
        except OSError as error:
            skipped.append(f"{folder} ({error.strerror})")
            continue
        if _is_run(found):
            yield folder, place
        inside = []
        for name in sorted(found):
            if not name.startswith(".") and _is_folder(found[name]):
                path = folder / name
                if found[name].is_symlink() and not _is_in(path.resolve(), named):
                    skipped.append(f"{path} (a link that leads out)")
                else:
                    inside.append(path)
        waiting += reversed(inside)


def _is_wanted(entry: "os.DirEntry[str]") -> bool:
    # Of a folder with a million pictures, no list of a million names is kept.
    return entry.name in FILES or (not entry.name.startswith(".") and _is_folder(entry))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    with contextlib.suppress(OSError):  # a link to itself
        return entry.is_dir()
    return False


def _is_in(target: Path, folders: Sequence[Path]) -> bool:
    return any(target.is_relative_to(folder) for folder in folders)


def _is_run(entries: Mapping[str, "os.DirEntry[str]"]) -> bool:
    # Also where such a name is a link or no file: the run is told then, and not left out.
    if any(name in entries for name in MARKS):
        return True
    # A run takes its lock before anything else, and writes the other files once it is built.
    return LOCK in entries and NOTES in entries and _is_folder(entries[NOTES])


def _name(folder: Path, root: Path, several_roots: bool, several_runs: bool) -> str:
    if several_roots:
        return plain_name(str(folder))
    alone = folder == root and not several_runs
    return plain_name(folder.resolve().name if alone else str(folder.relative_to(root)))
