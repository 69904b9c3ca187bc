"""SIGHUP, sent when a terminal or a session ends: once or twice, and beside other signals."""

import os
import signal
from collections.abc import Iterator

import pytest

from bilevel_cli.machine import signals
from bilevel_cli.machine.signals import Stopped, stop_requests, stops_at_once

HUP, TERM, INT = signal.SIGHUP, signal.SIGTERM, signal.SIGINT


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in signals.SIGNALS}
    yield
    for signum, handler in before.items():
        assert signal.getsignal(signum) == handler
        signal.signal(signum, handler)


def send(*signums: int) -> None:
    for signum in signums:
        os.kill(os.getpid(), signum)


@pytest.mark.parametrize("first", [HUP, TERM, INT])
@pytest.mark.parametrize("count", [1, 2])
def test_sighup_is_never_impatience(first: int, count: int) -> None:
    with stop_requests(quiet=True) as requests:
        send(first, *[HUP] * count)
    assert requests[0] == first


@pytest.mark.parametrize("first", [(HUP,), (HUP, HUP), ()])
def test_what_ends_a_session_waits_for_the_step_but_two_other_signals_do_not(
    first: tuple[int, ...],
) -> None:
    with stop_requests(quiet=True) as requests:
        send(*first, TERM)
        assert TERM in requests
        with pytest.raises(Stopped) as stopped:
            send(TERM)
    assert stopped.value.code == 143


def test_a_second_sighup_does_not_disturb_what_the_first_began() -> None:
    with stops_at_once():
        with stop_requests(quiet=True) as requests:
            send(HUP)
        send(HUP)  # while the end of the run is noted
    assert requests == [HUP]
    # The next run is stopped by the next one.
    with stops_at_once(), pytest.raises(Stopped) as stopped:
        send(HUP)
    assert stopped.value.code == 129


def test_under_nohup_sighup_stays_ignored() -> None:
    before = signal.signal(HUP, signal.SIG_IGN)
    try:
        with stops_at_once(), stop_requests(quiet=True) as requests:
            send(HUP)
            assert signal.getsignal(HUP) == signal.SIG_IGN
        assert requests == []
        assert signal.getsignal(HUP) == signal.SIG_IGN
    finally:
        signal.signal(HUP, before)
