"""Finds the files of a data set below a folder of the user, or downloads them."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pooch


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
