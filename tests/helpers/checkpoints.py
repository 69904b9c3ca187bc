"""Checkpoints that were tampered with."""

import copy
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bilevel_cli.runs import checkpoint


def seal(path: Path) -> None:
    """Gives a file the last line of a checkpoint, as one may who means harm."""
    body = path.read_bytes()
    path.write_bytes(body + checkpoint.LABEL + hashlib.sha256(body).hexdigest().encode() + b"\n")


def refused(path: Path) -> str:
    with pytest.raises(
        ValueError, match="A run that continues needs a whole checkpoint"
    ) as refusal:
        checkpoint.load(path)
    assert str(path) in str(refusal.value)
    assert "Remove checkpoint*.pt to start over" in str(refusal.value)
    return str(refusal.value)


class Large:
    """What a pickle of it allocates when it is loaded."""

    def __reduce__(self) -> Any:
        return bytearray, (10**11,)


def laugh() -> Any:
    tree: Any = [0]
    for _ in range(60):
        tree = [tree, tree]
    return tree


def repacked(path: Path, method: int, pickled: Callable[[bytes], bytes]) -> None:
    """The archive again, its entries packed by a method and its pickle changed."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, pickled(content) if name.endswith(".pkl") else content)


def packed(path: Path) -> None:
    torch.save({"x": torch.zeros(12_000_000)}, path)
    repacked(path, zipfile.ZIP_DEFLATED, lambda content: content)


def overlapping(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/0.pkl", bytes(1 << 20))
        for number in range(1, 1000):
            entry = copy.copy(archive.filelist[0])
            entry.filename = f"a/{number}.pkl"
            archive.filelist.append(entry)


def overstated(path: Path) -> None:
    # A tensor of 10 numbers, said to be of 10 000: behind its bytes there are others, or none.
    torch.save({"x": torch.arange(10.0)}, path)
    repacked(path, zipfile.ZIP_STORED, lambda content: content.replace(b"K\n", b"M\x10\x27"))


BOMBS: dict[str, tuple[Callable[[Path], object], str]] = {
    "packed": (packed, "it would unpack to more than its size"),
    "overlapping": (overlapping, "it would unpack to more than its size"),
    "expanded": (
        lambda path: torch.save({"x": torch.zeros(1).expand(10**12)}, path),
        "it would unpack to more than its size",
    ),
    "shared": (
        lambda path: torch.save({"x": laugh()}, path),
        "it would unpack to more than its size",
    ),
    "allocating": (lambda path: torch.save({"x": Large()}, path), "it holds __builtin__.bytearray"),
    "overstated": (overstated, "not resizable"),
    "not a dict": (lambda path: torch.save([1], path), "it holds a list"),
    "not an archive": (lambda path: path.write_bytes(bytes(100_000)), "File is not a zip file"),
}
