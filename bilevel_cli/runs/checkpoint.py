"""Checkpoints: one file of plain tensors and numbers, replaced whole, and the one before it.

A file is what `torch.save` writes, so `torch.load` reads it, and then a line with its SHA-256.
"""

import errno
import hashlib
import logging
import os
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from bilevel_cli.core.host import on_host
from bilevel_cli.errors import out_of_memory
from bilevel_cli.records.atomic import replaced

log = logging.getLogger(__name__)

LABEL = b"bilevel-cli checkpoint 1 sha256 "
LINE = len(LABEL) + 64 + 1  # bytes: the label, the checksum in hexadecimal, a newline
# What a pickle of tensors, numbers, strings and None calls. Others can allocate or run anything.
CALLED = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2"}


def previous(path: Path) -> Path:
    """Where the checkpoint before that at `path` is kept."""
    return path.with_suffix(f".previous{path.suffix}")


def exists(path: Path) -> bool:
    """Whether a run has left a checkpoint, whole or not."""
    return path.exists() or previous(path).exists()


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes `state`. Killed at any moment, it leaves the newest checkpoint that was whole.

    Takes the disk of three checkpoints while it writes and of two afterwards.

    Args:
        path: The file.
        state: Nested dicts, lists and tuples of tensors, numbers, strings and None.

    Raises:
        ValueError: `state` holds something else, which `load` would refuse.
        OSError: The disk is full, say. The newest checkpoint that was whole stays.
    """
    with replaced(path) as partial:
        with partial.open("w+b") as file:
            _write(state, file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.replace(path, previous(path))
    _sync(path.parent)


def resume(path: Path) -> dict[str, Any] | None:
    """What a run continues from: the newest whole checkpoint, or None where there is none at all.

    Removes what a killed `save` left, so no other run may be in the folder. A damaged file gives
    its place to the one before it, which the next `save` would otherwise overwrite.

    Raises:
        ValueError: There are checkpoints and none is whole.
    """
    path.with_suffix(".partial").unlink(missing_ok=True)
    if not exists(path):
        return None
    newest = _newest(path)
    state = _read(newest)
    if newest != path:
        os.replace(newest, path)
    return state


def load(path: Path) -> dict[str, Any]:
    """Reads the newest whole checkpoint, its tensors to the CPU, and changes no file.

    Executes nothing that it reads, and takes no more memory than a few times the file's size.

    Raises:
        ValueError: There are checkpoints and none is whole.
        FileNotFoundError: There is none.
    """
    return _read(_newest(path))


def to_device(tree: Any, device: torch.device) -> Any:
    """`tree` with its tensors on `device`."""
    return _each(lambda x: x.to(device), tree)


def _write(state: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(_compact(state), file)
    except RuntimeError as error:
        # torch complains of its own position in a file that could not be written.
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None
    with zipfile.ZipFile(file) as archive:
        if foreign := _foreign(archive):
            raise ValueError(
                "A checkpoint needs tensors, numbers, strings and None, and dicts, lists and "
                f"tuples of them, got {foreign}. Convert it where the state is made."
            )
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    line = _line(file, size)
    file.seek(size)
    file.write(line)


def _line(file: BinaryIO, size: int) -> bytes:
    """The last line of a checkpoint of which `size` bytes follow in `file`."""
    digest = hashlib.sha256()
    while size and (part := file.read(min(size, 1 << 20))):
        digest.update(part)
        size -= len(part)
    return LABEL + digest.hexdigest().encode() + b"\n"


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have no such thing
            raise
    finally:
        os.close(descriptor)


def _newest(path: Path) -> Path:
    files = [file for file in (path, previous(path)) if file.exists()]
    if not files:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    damages: list[str] = []
    for file in files:
        damage = _damage(file)
        if damage is None:
            if file != path:
                log.warning(
                    f"{damages[0] if damages else f'{path} is not there.'} The run continues from "
                    f"{file.name}, the checkpoint before it."
                )
            return file
        damages.append(f"{file}, which cannot be read: {damage}")
    raise _refusal(" and ".join(damages))


def _damage(path: Path) -> str | None:
    """What is wrong with the bytes of a file, if anything."""
    if not path.is_file():
        return "it is not a file."
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size - LINE
            line = _line(file, max(size, 0))
            found = file.read(LINE + 1)
    except OSError as error:
        return f"{error.strerror}."
    if not found.startswith(LABEL):
        return "it ends without a checksum, so it was cut short or is of version 0.1.0."
    return None if found == line else "its checksum is that of other bytes."


def _read(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            _check_entries(archive, size)
            if foreign := _foreign(archive):
                raise ValueError(f"it holds {foreign}.")
        # Mapped, a tensor that claims more bytes than the file has finds none behind its end.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}.")
        _check_nodes(state, size)
    except Exception as error:  # torch documents no closed list
        if out_of_memory(error):  # which says nothing of the file
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise _refusal(f"{path}, which cannot be read: {reason}") from error
    return _compact(state)


def _refusal(damage: str) -> ValueError:
    return ValueError(
        f"A run that continues needs a whole checkpoint, got {damage} "
        "Remove checkpoint*.pt to start over, or use another hydra.run.dir."
    )


def _check_entries(archive: zipfile.ZipFile, size: int) -> None:
    """Raises ValueError where the entries of an archive, together, are more than its bytes."""
    entries = archive.infolist()
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > size:
        raise ValueError("it would unpack to more than its size.")


def _foreign(archive: zipfile.ZipFile) -> str:
    """What the pickles of an archive call that tensors, numbers, strings and None don't need."""
    pickles = [archive.read(name) for name in archive.namelist() if name.endswith(".pkl")]
    called = {
        str(argument or operation.name)
        for content in pickles
        for operation, argument, _ in pickletools.genops(content)
        if operation.name in ("GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4")
    }
    storages = {name for name in called if name.startswith("torch ") and name.endswith("Storage")}
    return ", ".join(sorted(called - storages - CALLED)).replace(" ", ".").replace(",.", ", ")


def _check_nodes(state: Any, size: int) -> None:
    """Raises ValueError where what is read refers to the same bytes again and again."""
    for node in _nodes(state):
        size -= node.nbytes if isinstance(node, Tensor) else 1
        if size < 0:
            raise ValueError("it would unpack to more than its size.")


def _nodes(tree: Any) -> Iterator[Any]:
    yield tree
    if isinstance(tree, dict | list | tuple):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _nodes(value)


def _compact(tree: Any) -> Any:
    # torch.save writes the whole storage behind a view; a copy has only what it shows.
    tensors: list[Tensor] = []

    def noted(x: Tensor) -> Tensor:
        tensors.append(x)
        return x

    _each(noted, tree)
    copies = iter(on_host(tensors))
    return _each(lambda x: next(copies), tree)


def _each(fn: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """`tree` with `fn` of every tensor in its place."""
    if isinstance(tree, Tensor):
        return fn(tree)
    if isinstance(tree, dict):
        return {key: _each(fn, value) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(_each(fn, value) for value in tree)
    return tree
