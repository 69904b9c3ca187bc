import functools
import gc
import threading
from collections.abc import Callable, Generator, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from bilevel_cli.data import digits
from bilevel_cli.data.reading import files
from bilevel_cli.machine import memory
from bilevel_cli.nn import choosing
from bilevel_cli.records.user_cache import NOWHERE
from bilevel_cli.report.read import contents
from bilevel_cli.runs import build
from bilevel_cli.runs.runner import Runner


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spares Python's garbage collector what lasts as long as the tests: libraries and tests.

    It would look through them again and again, for a fifth of the seconds that collecting takes.
    """
    usual = gc.get_threshold()
    gc.set_threshold(100_000)
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.set_threshold(*usual)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests marked gpu where torch sees no GPU, real or simulated."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip("needs a CUDA device"))


@pytest.fixture(autouse=True)
def double_precision_without_grad() -> Iterator[None]:
    """Tests compare derivatives to 1e-9, in the mode in which the runner works."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    with torch.no_grad():
        yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def tests_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache_of_their_own(tests_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the user's cache out of the tests, and what tests measure and decode out of it."""
    monkeypatch.setattr(choosing, "user_cache", lambda: tests_cache)
    monkeypatch.setattr(files, "user_cache", lambda: tests_cache)


@pytest.fixture(autouse=True)
def reports_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the user's cache out of the tests. What it does, its own tests show."""
    monkeypatch.setattr(contents, "user_cache", lambda: NOWHERE)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Runner], None]], None]:
    """Has something done to each runner that is built."""
    built = build.build

    def change(how: Callable[[Runner], None]) -> None:
        def changed(*given: Any) -> Runner:
            runner = built(*given)
            how(runner)
            return runner

        monkeypatch.setattr(build, "build", changed)

    return change


_load = functools.cache(digits._load)


@pytest.fixture
def digits_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "_load", _load)


@pytest.fixture
def data_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of downloads, in place of the user's, and no proxy before this machine."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(files, "cache_folder", lambda: folder)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server on this machine, and the folder that it serves."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    folder = tmp_path / "server"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/", folder
        running.shutdown()
        thread.join()


@pytest.fixture
def budget_of_this_process() -> Iterator[None]:
    """The budget may be set in a test: behind it, it is again what it was."""
    before = memory._budget, memory._threads
    yield
    memory._budget, memory._threads = before
