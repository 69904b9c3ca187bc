"""Command lines that nobody would think of: exit code 0 or 2, and nothing written elsewhere."""

import functools
import re
import string
import sys
from pathlib import Path

import pytest
from configs import composed, small
from fuzzing import complaint, every_line, home
from hypothesis import strategies as st
from omegaconf import OmegaConf

from bilevel_cli.commands import run as cli
from bilevel_cli.config import options
from bilevel_cli.config.options import CONF

# Of all tasks, those that need no file and take milliseconds.
TASKS = [name for name in options.names("task") if name != "distill"]
# A sweep ends with 1 where one of its jobs is refused; a compiler takes longer than it is given.
LEFT_OUT = {
    path.stem
    for path in (CONF / "experiment").glob("*")
    if re.search("MULTIRUN|capture: compile|- benchmark_", path.read_text())
}
OPTIONS = {g: sorted({*options.names(g)} - LEFT_OUT) for g in options.groups() if g != "task"}


@functools.cache
def keys(task: str) -> list[str]:
    config = OmegaConf.to_container(composed(f"task={task}", *small(task)), resolve=False)
    return options.keys(config)


usual = st.sampled_from(["1", "2", "3", "5", "0.1", "0.5", "0.9", "1.0", "1e-3", "0", "true"])
numbers = st.one_of(
    st.integers(-3, 5).map(str),
    st.sampled_from(["1e30", "-1e30", "1e-30", "1e400", "0.5", "-0.0", "0x10", "1_0", ".5"]),
    st.sampled_from(["nan", "inf", "-inf", "NaN", "null", "true", "false", "???", "-", ""]),
    st.integers(31, 70).map(lambda power: str(2**power + 1)),
    st.floats(width=32).map(str),
)
letters = st.text(
    st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])
    | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF),  # bytes that are no UTF-8
    max_size=12,
)
texts = st.one_of(
    letters,
    st.text(string.ascii_letters + "./\\:~$%{}[](),'\" =", max_size=15),
    st.sampled_from(["x" * 300, "é" * 300, "../../up", "/", "/etc/passwd", "a/b", ".", "..", "~"]),
)
interpolations = st.one_of(
    st.sampled_from(
        [
            "${seed}",
            "${no.such.key}",
            "${outer_steps}",
            "${suggest.inner_lr}",
            "${oc.env:HOME}",
            "${oc.env:NO_SUCH_VARIABLE}",
            "${oc.env:NO_SUCH_VARIABLE,3}",
            "${oc.decode:'{a: 1}'}",
            "${oc.decode:'['}",
            "${now:%Y}",
            "${hydra:runtime.cwd}",
            "${hydra:no.such}",
            "${slug:a/b}",
            "${nobody:1}",
            "${",
            "${}",
            "${..x}",
            "${.}",
            "$",
        ]
    ),
    letters.map(lambda text: f"${{{text}}}"),
)
structures = st.sampled_from(
    [
        "[]",
        "{}",
        "[1,2]",
        "{a: 1}",
        "[[1],2]",
        "{a: {b: c}}",
        "[null]",
        "1,2",
        "range(3)",
        "choice(1,2)",
        "glob(*)",
        "sort(2,1)",
        "interval(0,1)",
        "{_target_: os.system, command: 'touch evil'}",
        "{_target_: builtins.eval}",
        "'a: b'",
        '"quoted"',
        "'open",
        "\\",
        "a,,b",
    ]
)
values = st.one_of(numbers, numbers, texts, interpolations, structures)


def changed(word: str) -> st.SearchStrategy[str]:
    """A word with a character too many, too few, or another."""
    place = st.integers(0, max(len(word) - 1, 0))
    return st.builds(
        lambda i, new, cut: word[:i] + new + word[i + cut :],
        place,
        st.sampled_from(["", "_", ".", "/", "x", "@", "é", " "]),
        st.integers(0, 1),
    )


def assignments(known: list[str]) -> st.SearchStrategy[str]:
    key = st.sampled_from(known)
    named = st.one_of(key, key, key, key.flatmap(changed), texts)
    prefix = st.sampled_from(["", "", "", "", "", "", "+", "++", "~"])
    return st.builds(lambda p, k, v: f"{p}{k}={v}", prefix, named, values)


def choices() -> st.SearchStrategy[str]:
    def chosen(group: str) -> st.SearchStrategy[str]:
        option = st.sampled_from(OPTIONS[group])
        return st.builds(
            lambda p, g, o: f"{p}{g}={o}",
            st.sampled_from(["", "", "", "", "+", "~"]),
            st.just(group) | changed(group),
            st.one_of(option, option, option, option.flatmap(changed), values),
        )

    return st.sampled_from(sorted(OPTIONS)).flatmap(chosen)


loose = st.one_of(
    texts.filter(lambda text: not text.startswith("-")),
    st.sampled_from(
        ["=", "=1", "~", "~model", "+", "@", "a@b=c", "--nothing", "-x", "--config-dir"]
    ),
)


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A task and one to four arguments, half of the lines without any that cannot be parsed."""
    task = draw(st.sampled_from(TASKS))
    known = [name for name in keys(task) if not name.endswith("_target_")]
    plain = st.builds("{}={}".format, st.sampled_from(known), st.one_of(usual, usual, numbers))
    option = st.sampled_from(sorted(OPTIONS)).flatmap(
        lambda group: st.builds(f"{group}={{}}".format, st.sampled_from(OPTIONS[group]))
    )
    sane = st.one_of(plain, plain, option)
    wild = st.one_of(sane, assignments(keys(task)), assignments(keys(task)), choices(), loose)
    found = draw(st.lists(sane, min_size=1, max_size=2) | st.lists(wild, min_size=1, max_size=4))
    return [f"task={task}", "budget=100", *small(task), *found]


__all__ = ["home"]  # a fixture

# A signal may come while hypothesis listens to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def check_lines(count: int, home: Path, number: int = 0) -> None:
    def check(arguments: list[str]) -> None:
        assert complaint(arguments, home) is None, arguments

    every_line(lines(), check, count, number)


def test_any_command_line_ends_well_or_in_one_message(home: Path) -> None:
    check_lines(25, home)


@pytest.mark.faults
@pytest.mark.parametrize("number", range(1, 9))
def test_two_thousand_command_lines_end_well_or_in_one_message(number: int, home: Path) -> None:
    check_lines(250, home, number)


def test_a_line_of_the_fuzz_is_watched(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stray() -> None:
        Path("stray").touch()

    def broken() -> None:
        print("Traceback (most recent call last):", file=sys.stderr)

    def silent() -> None:
        sys.exit(2)

    for main, expected in ((stray, "files elsewhere"), (broken, "a traceback"), (silent, "exit")):
        monkeypatch.setattr(cli, "main", main)
        assert str(complaint(["task=quadratic"], home)).startswith(expected)
    monkeypatch.undo()
    assert complaint(["task=quadratic", "outer_steps=2"], home) is None
    assert complaint(["task=quadratic", "+="], home) is None  # Hydra says nothing at all
