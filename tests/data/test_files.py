"""Files are found, downloaded and read, or refused by name: absent, damaged or too large."""

import gzip
import hashlib
import os
import socket
import struct
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest
import torch
from data_files import NOWHERE, bounded, message, packed

from bilevel_cli.data.reading import files, idx

pytestmark = pytest.mark.usefixtures("data_cache")


# ---- files


def find(
    root: Path | None,
    *,
    url: str = NOWHERE,
    md5: str = "0" * 32,
    download: bool = False,
    max_megabytes: float = 1.0,
) -> Path:
    return files.find(
        "a.gz",
        who="Mnist",
        root=None if root is None else str(root),
        folders=("MNIST/raw", "MNIST"),
        url=url,
        md5=md5,
        max_megabytes=max_megabytes,
        download=download,
    )


@pytest.mark.parametrize("folder", ["MNIST/raw", "MNIST", "."])
@pytest.mark.parametrize("name", ["a.gz", "a"])
def test_a_file_is_found_in_root_and_in_the_known_folders_below_it_packed_or_not(
    tmp_path: Path, folder: str, name: str
) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / name).touch()
    assert find(tmp_path).samefile(tmp_path / folder / name)


def test_the_folder_of_the_data_set_is_preferred_to_root(tmp_path: Path) -> None:
    (tmp_path / "MNIST").mkdir()
    (tmp_path / "a.gz").touch()
    (tmp_path / "MNIST" / "a.gz").touch()
    assert find(tmp_path) == tmp_path / "MNIST" / "a.gz"


def test_the_cache_answers_when_root_is_null_but_not_for_another_data_set(data_cache: Path) -> None:
    data_cache.mkdir()
    (data_cache / "a.gz").touch()
    assert "MNIST/raw" in message(lambda: find(None))
    (data_cache / "MNIST").mkdir()
    (data_cache / "MNIST" / "a.gz").touch()
    assert find(None) == data_cache / "MNIST" / "a.gz"


def test_an_absent_file_is_named_with_the_places_searched_and_the_remedies(tmp_path: Path) -> None:
    places = ", ".join(str(tmp_path / folder) for folder in ("MNIST/raw", "MNIST", ""))
    assert message(lambda: find(tmp_path)) == (
        f"Mnist needs the file a.gz, found in none of {places}. "
        "Set data.root=... to the folder that holds it, or data.download=true."
    )


@pytest.mark.parametrize("root", ["cache", "root"])
def test_a_download_is_checked_kept_below_root_or_in_the_cache_and_silent(
    tmp_path: Path,
    server: tuple[str, Path],
    root: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    url, folder = server
    (folder / "a.gz").write_bytes(b"content")
    md5 = hashlib.md5(b"content").hexdigest()
    given = None if root == "cache" else tmp_path / root
    kept = tmp_path / root / "MNIST" / "raw"
    assert find(given, url=url, md5=md5, download=True) == kept / "a.gz"
    assert os.listdir(kept) == ["a.gz"]
    assert (kept / "a.gz").read_bytes() == b"content"
    assert capfd.readouterr() == ("", "")
    # Found again without the server, and without asking for a download.
    assert find(given) == kept / "a.gz"


def test_a_download_with_a_wrong_checksum_is_refused_and_leaves_nothing(
    server: tuple[str, Path], data_cache: Path
) -> None:
    url, folder = server
    (folder / "a.gz").write_bytes(b"changed")
    text = message(lambda: find(None, url=url, download=True))
    assert text.startswith(f"Mnist needs a.gz with md5 {'0' * 32}, got another file from {url}a.gz")
    assert os.listdir(data_cache / "MNIST" / "raw") == []


def test_a_download_that_breaks_off_leaves_nothing(
    server: tuple[str, Path], data_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    (folder / "a.gz").write_bytes(b"half")

    def promise_more(self: SimpleHTTPRequestHandler, keyword: str, value: str) -> None:
        header(self, keyword, "1000" if keyword == "Content-Length" else value)

    header = SimpleHTTPRequestHandler.send_header
    monkeypatch.setattr(SimpleHTTPRequestHandler, "send_header", promise_more)
    md5 = hashlib.md5(b"half").hexdigest()
    text = message(lambda: find(None, url=url, md5=md5, download=True))
    assert text.startswith(f"Mnist could not download {url}a.gz")
    assert os.listdir(data_cache / "MNIST" / "raw") == []


def test_a_file_that_the_server_lacks_is_reported(server: tuple[str, Path]) -> None:
    assert "404" in message(lambda: find(None, url=server[0], download=True))


def test_a_server_that_does_not_answer_is_reported() -> None:
    with socket.socket() as held:  # bound but not listening: connections are refused
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        text = message(lambda: find(None, url=url, download=True))
    assert text.startswith(f"Mnist could not download {url}/a.gz")
    assert "Check the network, data.url and data.root" in text


@pytest.mark.parametrize("url", ["", "no-scheme/", "file:///etc/"])
def test_a_url_that_is_none_is_reported(url: str) -> None:
    assert "could not download" in message(lambda: find(None, url=url, download=True))


def test_a_root_that_cannot_hold_the_download_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    text = message(lambda: find(tmp_path / "file", download=True))
    assert text.startswith("Mnist could not download")


# ---- IDX

IMAGES = torch.arange(3 * 28 * 28).reshape(3, 28, 28) % 256


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_an_idx_file_is_read_plain_or_gzipped(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(compress(packed(IMAGES)))
    assert torch.equal(idx.read(path, (28, 28)), IMAGES.to(torch.uint8))


WHOLE = packed(IMAGES)
HUGE = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 28, 28)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "should begin with the IDX magic number 00000803, got nothing"),
        (b"PK\x03\x04" + WHOLE, "should begin with the IDX magic number 00000803, got 504b0304"),
        (packed(torch.zeros(3)), "should begin with the IDX magic number 00000803, got 00000801"),
        (b"\0\0\x0d\x03" + WHOLE[4:], "got 00000d03"),
        (WHOLE[:10], "ends within its IDX header"),
        (packed(torch.zeros(3, 32, 32)), "promises shape [3, 32, 32]"),
        (packed(torch.zeros(0, 28, 28)), "promises shape [0, 28, 28]"),
        (HUGE, "promises shape [2147483648, 28, 28]"),
        (WHOLE[:-1], "should hold 2352 bytes after its header, got only 2351"),
        (WHOLE + b"\0", "should hold 2352 bytes after its header, got more"),
        (gzip.compress(WHOLE, mtime=0)[:-20], "cannot be read: Compressed file ended"),
        (gzip.compress(WHOLE, mtime=0)[:-8] + bytes(8), "cannot be read: CRC check failed"),
        (b"\x1f\x8b" + bytes(100), "cannot be read: Unknown compression method"),
        (gzip.compress(WHOLE, mtime=0)[:10] + b"\xff" * 50, "cannot be read: Error -3"),
        (gzip.compress(WHOLE + b"\0", mtime=0), "got more"),
    ],
)
def test_a_damaged_idx_file_is_named_with_its_damage(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    text = message(lambda: idx.read(path, (28, 28)))
    assert text.startswith(str(path))
    assert reason in text
    assert text.endswith(idx.AGAIN)


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(WHOLE + bytes(10**8), 1))
    assert "got more" in message(bounded(lambda: idx.read(path, (28, 28))))
