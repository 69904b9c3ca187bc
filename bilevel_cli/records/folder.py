"""What stands in the way of a run's files, in a folder that somebody else may have prepared.

A symbolic link in place of a file would have the run write elsewhere, into whatever it leads to. A
FIFO would have it wait. So both are refused before any work, and so is a file with a second name,
where a run writes into the file itself: a copy made of hard links would change with it. The folder
itself may be a link, as `outputs` often is.
"""

import os
import re
import stat
from pathlib import Path

from bilevel_cli.errors import UsageError
from bilevel_cli.records.plain import plain
from bilevel_cli.vocabulary import (
    CHECKPOINT,
    EVAL,
    JOB,
    LOCK,
    LOG,
    MANIFEST,
    NOTES,
    PREVIOUS,
    TRACEBACK,
    TRAIN,
)

# Of a run, of its loggers, and of submitit in the folder of a sweep.
FOLDERS = (NOTES, "result.partial", "tensorboard", "wandb", ".submitit")
REPLICA = re.compile(r"seed=\d+")
SWEEP = ("multirun.yaml", "optimization_results.yaml")  # what Hydra's sweepers write
WRITTEN_INTO = (LOCK, TRAIN, EVAL, JOB, *SWEEP)  # other files are replaced whole
REPLACED = (MANIFEST, CHECKPOINT, PREVIOUS, TRACEBACK)
# Of results, whose names a task chooses. A link of such a name may be the user's data, and is
# looked at when the results are there: what is replaced is not followed.
RESULTS = (".csv", ".json", ".log", ".npz", ".pdf", ".png", ".pt", ".txt", ".yaml")
# To open a file with, in a folder that somebody else prepared: no link is followed, and no FIFO
# waited for, which may have taken the place of a file since it was looked at.
CAREFUL = os.O_NOFOLLOW | os.O_NONBLOCK
LONGEST = 100  # characters that a message shows of where a link leads


def check(
    folder: Path,
    log: str = LOG,
    configuration: str | None = NOTES,
    key: str = "hydra.run.dir",
) -> None:
    """Refuses a folder in which something is in the way of the files of a run or a sweep.

    One look at each of its entries; none where there is no such folder yet.

    Args:
        folder: Of the run or the sweep.
        log: The name of its log.
        configuration: The folder in it of the configuration, perhaps below another; None where
            that is not written.
        key: The setting that names the folder.

    Raises:
        UsageError: There is a link, a folder, a FIFO, a socket or a device in place of a file; a
            file or a link in place of a folder; or a file that has another name too.
    """
    into, folders = (*WRITTEN_INTO, log), (*FOLDERS, *Path(configuration or "").parts[:1])
    for entry in _entries(folder):
        name = entry.name
        if name in folders or REPLICA.fullmatch(name):
            if entry.is_symlink() or not entry.is_dir():
                raise _refusal(Path(entry.path), "folder", key)
        elif name in into:
            _check_file(entry, key, shared=False)
        elif name in REPLACED or name.endswith(".partial") or _result(entry):
            _check_file(entry, key)
    if configuration is not None:
        for entry in _entries(folder / configuration):
            _check_file(entry, key, shared=False)


def check_job(folder: Path, root: Path) -> None:
    """Refuses a job of a sweep whose folder is behind a link within that of the sweep.

    Raises:
        UsageError: It is.
    """
    for part in (folder, *folder.parents):
        if part == root or part == part.parent:
            break
        if part.is_symlink():
            raise _refusal(part, "folder", "hydra.sweep.dir")


def check_result(path: Path) -> None:
    """Refuses to put a result where something else than a file is.

    Raises:
        UsageError: There is something else.
    """
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise UsageError(
            f"A run needs {plain(str(path))} for a file of its own, got {_kind(path)}. "
            "Remove it, and the same command writes the file."
        )


def check_output(path: Path, option: str, whole: bool = False) -> None:
    """Refuses a file that a user names for an output, where something else than a file is.

    A FIFO would be waited for, and a link would have the command write into what it leads to. What
    is open already may be named: /dev/stdout, or the pipe that `>(gzip > a.gz)` stands for.

    Args:
        path: The file.
        option: Which names it.
        whole: Whether the file is replaced whole, which would take away /dev/null from everybody.

    Raises:
        UsageError: There is something else.
    """
    if not os.path.lexists(path) or stat.S_ISREG(path.lstat().st_mode):
        return
    if whole or not str(path.absolute()).startswith(("/dev/", "/proc/")):
        raise UsageError(
            f"{option} needs a file, got {plain(str(path), LONGEST)}, which is {_kind(path)}. "
            "Name another file, or remove it."
        )


def _check_file(entry: "os.DirEntry[str]", key: str, shared: bool = True) -> None:
    if not entry.is_file(follow_symlinks=False):
        raise _refusal(Path(entry.path), "file", key)
    if not shared and entry.stat(follow_symlinks=False).st_nlink > 1:
        raise _refusal(Path(entry.path), "file", key)


def _result(entry: "os.DirEntry[str]") -> bool:
    return not entry.is_symlink() and entry.name.endswith(RESULTS)


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:  # it is not there, or says why when it is written to
        return []


def _refusal(path: Path, wanted: str, key: str) -> UsageError:
    return UsageError(
        f"A run needs {plain(str(path))} for a {wanted} of its own, got {_kind(path)}. "
        f"Remove it, or use another {key}."
    )


def _kind(path: Path) -> str:
    """What an entry is, and where a link leads."""
    status = path.lstat()
    mode = status.st_mode
    if stat.S_ISLNK(mode):
        return f"a symbolic link to {plain(os.readlink(path), LONGEST)}"
    if stat.S_ISREG(mode) and status.st_nlink > 1:
        return f"a file with {status.st_nlink} names (hard links; cp -r makes a copy of its own)"
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISREG, "a file"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((name for is_kind, name in kinds if is_kind(mode)), "a device")
