"""The default tests hold on every machine, however fast it is."""

import ast
import re
from pathlib import Path

import pytest

TESTS = sorted(Path(__file__).parents[1].rglob("test_*.py"))
BOUNDS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
CLOCKS = re.compile(r"seconds|process_time|perf_counter|elapsed|duration|os\.times|ru_[us]time")


def bounds_on_seconds(text: str) -> list[int]:
    """The lines that assert that a clock shows more or less than some number.

    That it shows more than 0 is true on every machine, and so is that a deadline of
    time.monotonic(), after which something is taken to wait for ever, has not passed.
    """
    found = []
    for statement in ast.walk(ast.parse(text)):
        if not isinstance(statement, ast.Assert):
            continue
        for node in ast.walk(statement.test):
            if isinstance(node, ast.Compare) and any(isinstance(op, BOUNDS) for op in node.ops):
                sides = [ast.unparse(side) for side in (node.left, *node.comparators)]
                if "0" not in sides and any(map(CLOCKS.search, sides)):
                    found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_seconds_are_bounded_in_the_tests_of_timing_alone(path: Path) -> None:
    lines = bounds_on_seconds(path.read_text())
    assert bool(lines) == (path.stem == "test_timing"), lines


def test_a_bound_on_seconds_is_seen() -> None:
    assert bounds_on_seconds("assert min(seconds) < 1.5") == [1]
    assert bounds_on_seconds("begin = 1\nassert time.process_time() - begin < 5") == [2]
    assert bounds_on_seconds('assert 1 < ended["killed"]["seconds"] < 60') == [1]
    assert bounds_on_seconds("assert rows.seconds.iloc[0] > 0") == []
    assert bounds_on_seconds("assert time.monotonic() < deadline") == []


def test_no_default_run_takes_the_tests_of_timing(pytestconfig: pytest.Config) -> None:
    chosen = pytestconfig.getini("addopts")
    assert "not timing" in chosen[chosen.index("-m") + 1]
