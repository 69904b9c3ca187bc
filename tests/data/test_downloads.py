"""A download takes no more than the file can have, of memory, of disk or of time."""

import gzip
import hashlib
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from configs import settings_of
from data_files import bounded, built, message

from bilevel_cli.config import options
from bilevel_cli.data.mnist import Mnist
from bilevel_cli.data.reading import downloads

pytestmark = pytest.mark.usefixtures("data_cache")
MEGABYTE = 10**6
Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """The address of a server on this machine that answers so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):  # of who no longer listens
                answer(self)

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def fetch(url: str, folder: Path, content: bytes = b"", megabytes: float = 1.0) -> Path:
    md5 = hashlib.md5(content).hexdigest()
    return downloads.downloaded(f"{url}a.gz", folder, "a.gz", md5, megabytes, "Mnist")


def head(handler: BaseHTTPRequestHandler, status: int = 200, /, **headers: object) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()


@pytest.mark.parametrize("promise", [{}, {"Content_Length": "many"}, {"Content_Length": 1000}])
def test_an_answer_without_end_is_broken_off_at_the_limit_and_leaves_nothing(
    tmp_path: Path, promise: dict[str, object]
) -> None:
    sent = 0

    def answer(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        head(handler, **promise)
        for _ in range(400):
            sent += handler.wfile.write(bytes(MEGABYTE))

    with answering(answer) as url:
        text = message(bounded(lambda: fetch(url, tmp_path), megabytes=5))
    if promise == {"Content_Length": 1000}:  # no more than was promised is taken
        assert text.startswith("Mnist needs a.gz with md5")
    else:
        assert text.startswith(f"Mnist could not download {url}a.gz to {tmp_path}: ")
        assert "it has more than the 1 MB that are read" in text
    assert len(text.replace(str(tmp_path), "")) <= 400
    assert sent < 50 * MEGABYTE  # the limit, and what sockets hold
    assert os.listdir(tmp_path) == []


def test_a_length_beyond_the_limit_is_refused_before_the_content_is_asked_for(
    tmp_path: Path,
) -> None:
    waiting = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        head(handler, Content_Length=400 * MEGABYTE)
        waiting.wait(30)

    with answering(answer) as url:
        begun = time.monotonic()
        text = message(lambda: fetch(url, tmp_path))
        assert time.monotonic() - begun < 20
        waiting.set()
    assert "it has 400 MB, at most 1 are read" in text
    assert os.listdir(tmp_path) == []


def test_a_file_is_streamed_in_pieces_and_kept_as_it_lies_on_the_server(tmp_path: Path) -> None:
    content = gzip.compress(bytes(20 * MEGABYTE), 0)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        assert handler.headers["Accept-Encoding"] == "identity"
        # Some servers say so of every file with this suffix; a browser would unpack it.
        head(handler, Content_Length=len(content), Content_Encoding="gzip")
        for start in range(0, len(content), MEGABYTE):
            handler.wfile.write(content[start : start + MEGABYTE])

    with answering(answer) as url:
        bounded(lambda: fetch(url, tmp_path, content, 21.0), megabytes=5)()
    assert (tmp_path / "a.gz").read_bytes() == content


def test_redirects_are_followed_without_reading_what_comes_with_them(tmp_path: Path) -> None:
    sent = 0

    def answer(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        if handler.path == "/a.gz":
            head(handler, 302, Location="/moved.gz")
            for _ in range(100):
                sent += handler.wfile.write(bytes(MEGABYTE))
        else:
            head(handler, Content_Length=5)
            handler.wfile.write(b"right")

    with answering(answer) as url:
        bounded(lambda: fetch(url, tmp_path, b"right"), megabytes=5)()
    assert (tmp_path / "a.gz").read_bytes() == b"right"
    assert sent < 50 * MEGABYTE


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("file:///etc/passwd", "No connection adapters were found"),
        ("ftp://127.0.0.1/a.gz", "No connection adapters were found"),
        ("/a.gz", "Exceeded 5 redirects"),
    ],
)
def test_a_redirect_to_another_protocol_or_in_circles_is_refused(
    tmp_path: Path, target: str, reason: str
) -> None:
    with answering(lambda handler: head(handler, 302, Location=target)) as url:
        assert reason in message(lambda: fetch(url, tmp_path))
    assert os.listdir(tmp_path) == []


def test_an_https_server_cannot_send_on_to_plain_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def send(self: Any, request: requests.PreparedRequest, **_: Any) -> requests.Response:
        asked.append(request.url)
        found = requests.Response()
        found.request, found.url, found.status_code = request, str(request.url), 302
        found.headers["Location"] = "http://plain.example/a.gz"
        found.raw = io.BytesIO()
        return found

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    text = message(lambda: fetch("https://safe.example/", tmp_path))
    assert "it is sent on to http://plain.example/a.gz, which is not https" in text
    assert asked == ["https://safe.example/a.gz"]


def test_a_server_that_falls_silent_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "TIMEOUT", (0.2, 0.2))
    waiting = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/late/a.gz":
            head(handler, Content_Length=1000)
            handler.wfile.write(b"half")
            handler.wfile.flush()
        waiting.wait(30)

    with answering(answer) as url:
        for folder in ("", "late/"):
            text = message(lambda folder=folder: fetch(f"{url}{folder}", tmp_path))  # type: ignore[misc]
            assert "timed out" in text
        waiting.set()
    assert os.listdir(tmp_path) == []


def test_a_data_set_knows_what_its_files_have_at_most(tmp_path: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        head(handler, Content_Length=51 * MEGABYTE)

    with answering(answer) as url:
        data = built(Mnist, "mnist", root=str(tmp_path), download=True, url=url)
        assert "it has 51 MB, at most 50 are read" in message(data.read)
    assert os.listdir(tmp_path / "MNIST" / "raw") == []


@pytest.mark.parametrize(
    "name", [n for n in options.names("data") if "url" in settings_of("data", n)]
)
def test_published_files_are_asked_for_over_https(name: str) -> None:
    assert settings_of("data", name)["url"].startswith("https://")
