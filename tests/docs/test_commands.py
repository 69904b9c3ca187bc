"""Every bilevel-run of the pages names options and settings that there are."""

import re
import shlex
from pathlib import Path

import pytest
from configs import composed
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [
    path
    for path in sorted(DOCS.rglob("*.md"))
    if "generated" not in path.parts and "bilevel-run" in path.read_text(encoding="utf-8")
]
ELSEWHERE = {"hydra", "hydra/launcher", "hydra/sweeper"}  # plugins that may not be installed


def commands(page: Path) -> list[list[str]]:
    """The arguments of each bilevel-run in a block of commands."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [shlex.split(line, comments=True) for line in lines if "bilevel-run " in line]
    return [words[1:] for words in found if words and words[0] == "bilevel-run"]


def overrides(words: list[str]) -> list[str]:
    """Its settings without plugins, and of each list the first value."""
    kept = []
    for word in words:
        if word.startswith("-") or word == "..." or word.endswith("?"):
            continue
        parsed = OverridesParser.create().parse_override(word)
        if parsed.key_or_group in ELSEWHERE or parsed.key_or_group.startswith("hydra."):
            continue
        value = parsed.value()
        if isinstance(value, ChoiceSweep):
            first = value.list[0]
            if isinstance(first, list):  # a list of lists, such as of starts
                continue
            word = f"{parsed.key_or_group}={first}"
        elif parsed.is_sweep_override():  # glob(*)
            continue
        kept.append(word)
    return kept


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_the_commands_of_a_page_compose(page: Path) -> None:
    for words in commands(page):
        if "--config-dir" not in words:  # options of the reader's own
            composed(*overrides(words))
