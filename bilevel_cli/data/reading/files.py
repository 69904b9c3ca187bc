"""Finds the files of a data set below a folder of the user, or downloads them."""

import bz2
import gzip
import io
import os
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilevel_cli.data.reading.downloads import downloaded
from bilevel_cli.records.user_cache import user_cache

RAISE = "Raise data.max_megabytes if the memory is there."


def find(
    name: str,
    *,
    who: str,
    root: str | None,
    folders: Sequence[str],
    url: str,
    md5: str,
    max_megabytes: float,
    download: bool,
) -> Path:
    """The path of file `name`, searched first and downloaded only if absent.

    A `.gz` or `.bz2` file is also found unpacked, without that suffix. Only a download is checked
    by `md5`.

    Args:
        name: File name on the server.
        who: The class that needs the file, for messages.
        root: `data.root`: one of `folders`, or the folder above them; None for the cache.
        folders: Sub-folders that may hold the file; a download goes to the first.
        url: The folder on the server (http or https).
        md5: Of the file on the server, in hexadecimal.
        max_megabytes: More than the file on the server has: a download is broken off there.
        download: Whether an absent file may be downloaded.

    Raises:
        ValueError: The file is absent, or the server does not deliver it whole.
    """
    base = cache_folder() if root is None else Path(str(root)).expanduser()
    # Sub-folders come first, and alone in the cache: MNIST and Fashion-MNIST share file names.
    places = [base / folder for folder in folders] + [base] * (root is not None)
    unpacked = name.removesuffix(".gz").removesuffix(".bz2")
    for place in places:
        for candidate in (place / name, place / unpacked):
            if os.path.isfile(candidate):
                return inside(candidate, base, who)
    if not download:
        raise ValueError(
            f"{who} needs the file {name}, found in none of {', '.join(map(str, places))}. "
            "Set data.root=... to the folder that holds it, or data.download=true."
        )
    return downloaded(f"{url.rstrip('/')}/{name}", places[0], name, md5, max_megabytes, who)


def cache_folder() -> Path:
    """Where downloads and decoded images are kept."""
    return user_cache()


def inside(path: Path, root: Path, who: str) -> Path:
    """`path`, unless it is a link that leads out of `root`. `root` may itself be a link.

    A link to elsewhere would make the data depend on what is not in the folder.

    Raises:
        ValueError: The link leads out.
    """
    found = path.resolve()
    if not found.is_relative_to(root.resolve()):
        raise ValueError(
            f"{who} needs files inside {root}, got {path}, a link to {found}. "
            "Copy the file, or set data.root to the folder of the other one."
        )
    return path


def own(path: str | None, who: str, setting: str) -> Path:
    """The user's file or folder at `path`.

    Raises:
        ValueError: There is none.
    """
    if path is None:
        raise ValueError(f"{who} needs {setting}=..., got null. Set {setting} to a path.")
    found = Path(path).expanduser()
    if not os.path.exists(found):
        raise ValueError(
            f"{who} needs {setting} to exist, got {found}, which does not. Set {setting}."
        )
    return found


def content(path: Path, who: str, max_megabytes: float, way_out: str = RAISE) -> bytes:
    """All bytes of a file, unpacked where it is packed; never more than `max_megabytes`.

    Args:
        path: The file.
        who: The class that reads it, for messages.
        max_megabytes: Its largest size, unpacked.
        way_out: What to do about a larger one.

    Raises:
        ValueError: It is larger, damaged, or no file.
    """
    require_file(path, who)
    limit = int(max_megabytes * 1e6)
    try:
        with path.open("rb") as raw:
            start = raw.read(10)
            size = raw.seek(0, os.SEEK_END)
            raw.seek(0)
            stream: io.BufferedIOBase = raw
            if start[:2] == b"\x1f\x8b":
                stream = gzip.GzipFile(fileobj=raw)
                size *= 1032  # the most that deflate packs
            elif start[:3] + start[4:] == b"BZh1AY&SY":
                stream, size = bz2.BZ2File(raw), limit
            # One byte more, to see that there is more: a bomb is not unpacked.
            found = stream.read(min(limit, size) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{who} cannot read {path}: {error}. Replace the file.") from error
    if len(found) > limit:
        raise too_large(who, str(path), max_megabytes, way_out)
    return found


def require_file(path: Path, who: str) -> None:
    """Raises ValueError for a folder, a device, or a pipe, which could be read without end."""
    if not os.path.isfile(path):  # Path.is_file raises where access is denied
        kind = "a folder" if path.is_dir() else "neither a file nor a folder"
        raise ValueError(f"{who} needs {path} to be a file, got {kind}. Name a file.")


MAX_DIRECTORY = 4_000_000  # bytes of a zip file that list its members; Omniglot's have 2 MB


def open_zip(file: Path | bytes) -> zipfile.ZipFile:
    """A zip file, at a path or in memory, with few members, which are stored or deflated.

    Python unpacks other members without a bound, however little of them is asked for.

    Raises:
        Exception: The file is no such zip file; `zipfile` documents no closed list of errors.
    """

    def raw() -> io.FileIO | io.BytesIO:
        return io.BytesIO(file) if isinstance(file, bytes) else io.FileIO(file)

    with _Directory(raw()) as bounded, zipfile.ZipFile(bounded) as archive:
        for member in archive.infolist():
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise zipfile.BadZipFile(f"{member.filename} is neither stored nor deflated")
    return zipfile.ZipFile(io.BytesIO(file) if isinstance(file, bytes) else file)


class _Directory(io.BufferedReader):
    """Reads the directory of a zip file, if its size is bounded, and no member."""

    def read(self, size: int | None = -1, /) -> bytes:
        most = MAX_DIRECTORY + 1
        found = super().read(most if size is None or size < 0 else min(size, most))
        if len(found) == most:
            raise zipfile.BadZipFile(f"its directory has more than {MAX_DIRECTORY} bytes")
        return found


def too_large(who: str, what: str, max_megabytes: float, way_out: str = RAISE) -> ValueError:
    """The error of data beyond the limit."""
    return ValueError(f"{who} reads at most {max_megabytes:g} MB, got more in {what}. {way_out}")


def load_array(cached: Path) -> NDArray[Any] | None:
    """What `store_array` wrote, or None where that is absent or damaged."""
    try:
        # Mapped, an array that promises more bytes than the file has is refused.
        found: NDArray[Any] = np.array(np.load(cached, mmap_mode="r", allow_pickle=False))
    except (OSError, EOFError, ValueError):
        return None
    return found


def store_array(cached: Path, array: NDArray[Any]) -> None:
    """Writes a whole file or none; a folder that cannot be written to only costs the time."""
    with suppress(OSError):
        cached.parent.mkdir(parents=True, exist_ok=True)
        # A folder for each writer: several runs may decode the same images at once.
        with tempfile.TemporaryDirectory(dir=cached.parent) as scratch:
            part = Path(scratch, "part.npy")
            np.save(part, array, allow_pickle=False)
            os.replace(part, cached)
