"""News: what processes know of one another where no exchange works."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]  # made in C++
from torch.distributed.distributed_c10d import Store

from bilevel_cli.machine import news
from bilevel_cli.machine.news import News, Watch, within

FOREVER = timedelta(hours=1)


@pytest.fixture
def store() -> Store:
    return HashStore()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "LOOK", 0.01)
    monkeypatch.setattr(news, "FIRST_SPEAKS", timedelta(seconds=0.2))


def test_a_process_that_fails_leaves_word_for_the_others(store: Store) -> None:
    one, two = (News(store, rank, 2) for rank in range(2))
    assert not one.lost()
    two.tell("Traceback\nValueError: x")
    assert one.told() == {1: "Traceback\nValueError: x"}
    assert one.lost()
    assert two.told() == {}


def test_the_first_process_says_whether_it_speaks(store: Store) -> None:
    one, two = (News(store, rank, 2) for rank in range(2))
    assert not two.first_speaks()
    one.speak()
    assert two.first_speaks()


def test_a_process_of_this_machine_that_is_gone_is_noticed(store: Store) -> None:
    code = "import os; print(os.getpid())"
    gone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    one, two = (News(store, rank, 2) for rank in range(2))
    assert not two.lost()
    here = store.get("process/0").decode().split()[0]
    store.set("process/1", f"{here} {gone.stdout.strip()}")
    assert News(store, 0, 2).lost()
    store.set("process/1", f"another-machine {gone.stdout.strip()}")
    assert not News(store, 0, 2).lost()
    assert not one.lost()


def test_processes_know_whether_all_have_come_to_the_same_point(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (News(store, rank, 2) for rank in range(2))
    with ThreadPoolExecutor() as threads:
        for _ in range(2):
            assert list(threads.map(News.meet, (one, two))) == [True, True]
    two.tell("Traceback\nValueError: x")
    assert not one.meet()  # at once, and not after a minute
    alone = News(HashStore(), 0, 2)
    monkeypatch.setattr(news, "SOON", timedelta(seconds=0.1))
    assert not alone.meet()


@pytest.mark.parametrize("reason", ["lost", "hangs"])
def test_exchanges_that_nobody_will_complete_are_given_up(reason: str) -> None:
    aborted: list[Any] = []
    patience = timedelta(seconds=0.05) if reason == "hangs" else FOREVER
    with Watch(lambda: reason == "lost", lambda: aborted.append(1), patience) as watch:
        watch.begin()
        _wait_for(watch)
    assert aborted == [1]


def test_what_is_no_exchange_may_take_as_long_as_it_likes() -> None:
    with Watch(lambda: False, lambda: pytest.fail("aborted"), timedelta(seconds=0.1)) as watch:
        watch.begin()
        watch.rest()
        time.sleep(0.3)
    assert not watch.lost


def test_what_may_never_end_is_waited_for_a_while() -> None:
    begun = time.monotonic()
    within(0.1, lambda: time.sleep(1))
    assert 0.1 <= time.monotonic() - begun < 0.9


def _wait_for(watch: Watch) -> None:
    end = time.monotonic() + 10
    while not watch.lost and time.monotonic() < end:
        time.sleep(0.005)
    assert watch.lost
