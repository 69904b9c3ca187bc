"""Python's search for garbage while libraries are imported."""

import gc
from types import SimpleNamespace

import pytest

from bilevel_cli.machine import collecting


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the search was off, each time that what is there was spared for good."""
    found: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: found.append(not gc.isenabled()))
    monkeypatch.setattr(collecting, "sys", SimpleNamespace(modules={}))  # without torch
    return found


def test_nothing_is_searched_during_an_import_and_what_it_made_never_is(frozen: list[bool]) -> None:
    with collecting.paused():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert frozen == [True]


def test_a_program_that_has_switched_the_search_off_finds_it_so(frozen: list[bool]) -> None:
    gc.disable()
    try:
        with collecting.paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert frozen == []


def test_the_search_goes_on_where_torch_is_there_already() -> None:
    with collecting.paused():
        assert gc.isenabled()
