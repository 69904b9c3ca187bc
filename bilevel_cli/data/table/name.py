"""What messages call a table and its settings, and how they begin where it cannot be read."""

import importlib.util
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from hydra.core.override_parser.types import Quote, QuotedString

from bilevel_cli.errors import out_of_memory

Value = str | bool | tuple[str, ...] | None  # of a setting


def override(setting: str, value: Value) -> str:
    """A setting as a shell passes it on to Hydra: `data.text=[price]`, `"data.decimal=','"`."""
    if value == "\t":
        return f"\"data.{setting}='\\t'\""  # a tab itself would not survive being copied
    # Within the double quotes of a shell, these would mean something.
    quote = Quote.double if re.search(r"[$`\\]", str(value)) else Quote.single
    match value:
        case bool() | None:
            text = "null" if value is None else str(value).lower()
        case str():
            text = _quoted(value, quote)
        case _:
            text = f"[{','.join(_quoted(one, quote) for one in value)}]"
    word = f"data.{setting}={text}"
    if re.fullmatch(r"[\w.=-]+", word, re.ASCII):
        return word
    return shlex.quote(word) if quote is Quote.double else _doubly(word)


def _doubly(word: str) -> str:
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _quoted(text: str, quote: Quote) -> str:
    if re.fullmatch(r"[A-Za-z_][\w-]*", text, re.ASCII) and text.lower() not in WORDS:
        return text
    return QuotedString(text, quote).with_quotes()


WORDS = ("null", "true", "false", "nan", "inf")  # what Hydra takes for something else than a text


class Name(NamedTuple):
    """What messages call a table.

    Attributes:
        who: The class that reads it.
        path: Its file, as the user wrote it.
        spell: How the command that runs takes a setting, by the setting's name and value.
    """

    who: str
    path: str
    spell: Callable[[str, Value], str] = override


def unreadable(name: Name, reason: str | Exception) -> ValueError:
    """The error of a file that is damaged, or in another format than it should be.

    Args:
        name: Of the table.
        reason: Why it cannot be read; or what the library raised that reads it.

    Raises:
        Exception: `reason`, where it is of memory and says nothing of the file.
    """
    if isinstance(reason, Exception):
        if out_of_memory(reason):
            raise reason
        reason = " ".join(str(reason).split())[:200]
    return ValueError(f"{name.who} cannot read {name.path}: {reason}. Correct the file.")


def require(package: str, kind: str, name: Name) -> None:
    """Raises ValueError where the package that reads a kind of file is not installed."""
    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"{name.who} needs {package} to read the {kind} {name.path}, got none. "
            f"Install it by pip install {package}, or save the table as CSV."
        )


def twice(titles: Iterable[str]) -> str:
    """Why columns cannot be told apart; empty where each has a name of its own."""
    counts = Counter(titles)
    found = next((title for title in counts if counts[title] > 1), None)
    return "" if found is None else f"two columns are called {found!r}; rename one"
