"""The names under which a run writes, seen from the system calls of the run itself."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_watched: list[tuple[str, set[str]]] = []
_hooked: list[bool] = []  # a hook is for the life of a process


@contextmanager
def written(folder: Path) -> Iterator[set[str]]:
    """Yields the names, relative to a folder, of the files that are opened in it for writing."""
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(_hear)
    names: set[str] = set()
    _watched.append((f"{folder.resolve()}{os.sep}", names))
    try:
        yield names
    finally:
        _watched.pop()


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watched or event not in ("open", "os.rename", "os.mkdir"):
        return
    path = arguments[1] if event == "os.rename" else arguments[0]
    if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return
    if isinstance(path, str | bytes | os.PathLike):
        whole = os.path.abspath(os.fsdecode(path))
        for root, names in _watched:
            if whole.startswith(root):
                names.add(whole.removeprefix(root))
