"""Finds the files of a data set below a folder of the user, or downloads them."""

import gzip
import logging
import os
import tempfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pooch
from numpy.typing import NDArray


def find(
    name: str,
    *,
    who: str,
    root: str | None,
    folders: Sequence[str],
    url: str,
    md5: str,
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
                return candidate
    if not download:
        raise ValueError(
            f"{who} needs the file {name}, found in none of {', '.join(map(str, places))}. "
            "Set data.root=... to the folder that holds it, or data.download=true."
        )
    return _downloaded(f"{url.rstrip('/')}/{name}", places[0], name, md5, who)


def cache_folder() -> Path:
    """Where downloads and decoded images are kept; below XDG_CACHE_HOME on Linux."""
    return Path(pooch.os_cache("bilevel-cli"))


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


def content(path: Path, who: str, max_megabytes: float) -> bytes:
    """All bytes of a file, unpacked where it is gzipped; never more than `max_megabytes`.

    Raises:
        ValueError: It is larger, damaged, or no file.
    """
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "neither a file nor a folder"
        raise ValueError(f"{who} needs {path} to be a file, got {kind}. Name a file.")
    limit = int(max_megabytes * 1e6)
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            size = raw.seek(0, os.SEEK_END) * (1032 if packed else 1)  # the most that deflate packs
            raw.seek(0)
            # One byte more, to see that there is more: a gzip bomb is not unpacked.
            stream = gzip.GzipFile(fileobj=raw) if packed else raw
            found = stream.read(min(limit, size) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{who} cannot read {path}: {error}. Replace the file.") from error
    if len(found) > limit:
        raise too_large(who, str(path), max_megabytes)
    return found


def too_large(who: str, what: str, max_megabytes: float) -> ValueError:
    """The error of data beyond the limit."""
    return ValueError(
        f"{who} reads at most {max_megabytes:g} MB, got more in {what}. Raise data.max_megabytes "
        "if the memory is there."
    )


def load_array(cached: Path) -> NDArray[Any] | None:
    """What `store_array` wrote, or None where that is absent or damaged."""
    try:
        with cached.open("rb") as file:
            found: NDArray[Any] = np.load(file, allow_pickle=False)
    except (OSError, EOFError, ValueError):
        return None
    return found


def store_array(cached: Path, array: NDArray[Any]) -> None:
    """Writes a whole file or none; a folder that cannot be written to only costs the time."""
    with suppress(OSError):
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent) as scratch:
            part = Path(scratch, "part.npy")
            np.save(part, array, allow_pickle=False)
            os.replace(part, cached)


def _downloaded(url: str, folder: Path, name: str, md5: str, who: str) -> Path:
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        # Writes a temporary file beside the target and renames it once the checksum is right.
        found = pooch.retrieve(
            url,
            known_hash=f"md5:{md5}",
            fname=name,
            path=folder,
            # Not streamed: requests leaves the socket of a streamed answer open after a 404.
            downloader=pooch.HTTPDownloader(stream=False),
        )
    except OSError as error:  # of the server (every error of requests is one) and of the disk
        raise ValueError(
            f"{who} could not download {url} to {folder}: {error}. "
            "Check the network, data.url and data.root, or fetch the file yourself and set "
            "data.root=... to the folder that holds it."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{who} needs {name} with md5 {md5}, got another file from {url}; it was not kept. "
            "Try again, or set data.url=... to another mirror."
        ) from error
    return Path(found)
