"""Downloads a published file: piece by piece, no more than it can have, and checked."""

import logging
import textwrap
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pooch

TIMEOUT = (30, 30)  # seconds until a server answers, and between two pieces
PIECE = 2**16  # bytes that are held at a time
REDIRECTS = 5


def downloaded(url: str, folder: Path, name: str, md5: str, max_megabytes: float, who: str) -> Path:
    """The path of a file in `folder`, fetched from `url` and checked by `md5`.

    Args:
        url: Of the file, http or https. An https server may not send on to another protocol.
        folder: Made where there is none.
        name: Of the file in the folder.
        md5: In hexadecimal.
        max_megabytes: More than the published file has. A longer answer is broken off there.
        who: The class that needs the file, for messages.

    Raises:
        ValueError: The server does not deliver the file, or the disk does not take it. Nothing is
            left in the folder.
    """
    pooch.get_logger().setLevel(logging.WARNING)

    def fetch(url: str, output_file: str, pooch: Any) -> None:
        _stream(url, output_file, max_megabytes)

    try:
        # Writes a temporary file beside the target and renames it once the checksum is right.
        found = pooch.retrieve(
            url, known_hash=f"md5:{md5}", fname=name, path=folder, downloader=fetch
        )
    except OSError as error:  # of the server (every error of requests is one) and of the disk
        raise ValueError(
            f"{who} could not download {url} to {folder}: {_reason(error)}. Check the network, "
            "data.url and data.root, or fetch the file yourself and set data.root=... to the "
            "folder that holds it."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{who} needs {name} with md5 {md5}, got another file from {url}; it was not kept. "
            "Try again, or set data.url=... to another mirror."
        ) from error
    return Path(found)


def _stream(url: str, path: str, max_megabytes: float) -> None:
    """Writes the answer of a server to a file. pooch's own downloader takes what comes.

    Raises:
        OSError: The server does not answer, or with more than `max_megabytes`.
    """
    import requests  # here: few runs download, and it takes a tenth of a second to import

    limit = int(max_megabytes * 1e6)
    with requests.Session() as session, open(path, "wb") as file:
        session.max_redirects = REDIRECTS
        session.hooks["response"].append(_check_redirect)
        with session.get(
            url, stream=True, timeout=TIMEOUT, headers={"Accept-Encoding": "identity"}
        ) as response:
            response.raise_for_status()
            promised = response.headers.get("Content-Length", "")
            if promised.isdecimal() and int(promised) > limit:
                raise OSError(
                    f"it has {int(promised) / 1e6:.0f} MB, at most {limit / 1e6:g} are read"
                )
            # Some servers say that a .gz file is packed on the way. Unpacked here, it would have
            # another checksum, and any size.
            response.raw.headers.discard("Content-Encoding")
            received = 0
            for piece in response.iter_content(PIECE):
                received += len(piece)
                if received > limit:
                    raise OSError(f"it has more than the {limit / 1e6:g} MB that are read")
                file.write(piece)


def _check_redirect(response: Any, **_: Any) -> None:
    """Refuses to go on from https to anything else."""
    if response.is_redirect:
        response.close()  # requests would read all of an answer that only sends on
        there = urljoin(response.url, response.headers["Location"])
        if urlsplit(response.url).scheme == "https" and urlsplit(there).scheme != "https":
            raise OSError(f"it is sent on to {there}, which is not https")


def _reason(error: BaseException) -> str:
    """What the system said at first, without what each library said after it."""
    reason, cause = str(error), error.__context__
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
            reason = cause.strerror
        cause = cause.__context__
    return textwrap.shorten(reason, 200, placeholder=" ...")
