"""The files of a run's folder, read within bounds: somebody else may have prepared them.

A file that is large, that is no file, or that would grow while it is read is not read. Nothing of
what is read is resolved, imported or built.
"""

import json
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any, ClassVar

import yaml

from bilevel_cli.records.folder import CAREFUL
from bilevel_cli.records.settings import leaves

MOST_BYTES = 1_000_000  # of a manifest or of what Hydra noted: a hundred times as much as one has
MOST_NODES = 50_000  # of YAML, each of which takes Python microseconds
DEEPEST = 50  # dicts and lists within each other
MOST_DIGITS = 300  # of a whole number: a float has no more, and Python prints none with 4300

TOO_DEEP = f"is nested more than {DEEPEST} deep, and is not read"


class Unread(Exception):
    """A file is not read. The message says why, and follows the name of the file."""


def content(path: Path | str, most: int, status: os.stat_result | None = None) -> bytes | None:
    """The bytes of a file; None where there is none.

    Args:
        path: The file. A link is none: it may lead to what the reader would not show.
        most: How many bytes it may have.
        status: What `os.lstat` said of it a moment ago; None to ask now.

    Raises:
        Unread: It is a link, a folder, a device or the like, is too large, or may not be read.
    """
    try:
        mode = (status or os.lstat(path)).st_mode
        if not stat.S_ISREG(mode):
            link = stat.S_ISLNK(mode)
            raise Unread("is a link, which is not followed" if link else "is no file")
        descriptor = os.open(path, os.O_RDONLY | CAREFUL)
        with open(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size
            if size > most:
                raise Unread(f"has more than {most // 10**6} MB, and is not read")
            return file.read(size)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unread(f"cannot be read ({error.strerror})") from error


def json_tree(path: Path) -> Any:
    """What a JSON file has; None where there is none. Numbers of too many digits stay text.

    Raises:
        Unread: As in `content`; or it is no JSON, or nested too deeply.
    """
    found = content(path, MOST_BYTES)
    return None if found is None else of_json(found)


def of_json(found: bytes) -> Any:
    """What the bytes of a JSON file have. Numbers of too many digits stay text.

    Raises:
        Unread: They are no JSON, or nested too deeply.
    """
    try:
        return _shallow(json.loads(found, parse_int=_whole))
    except RecursionError as error:
        raise Unread(TOO_DEEP) from error
    except ValueError as error:
        raise Unread(f"is no JSON ({error})") from error


def of_yaml(found: bytes) -> Any:
    """What the bytes of a YAML file have, interpolations as they stand.

    Raises:
        Unread: They are no YAML, are nested too deeply, or have aliases or tags, which no run
            writes: a few hundred aliases make a file of gigabytes.
    """
    try:
        depth = 0
        for number, event in enumerate(yaml.parse(found, _Loader)):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
                raise Unread("has aliases or tags, which no run writes, and is not read")
            if number > MOST_NODES:
                raise Unread(f"has more than {MOST_NODES} entries, and is not read")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise Unread(TOO_DEEP)
        return _shallow(yaml.load(found, _Loader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Unread("is no YAML that can be read") from error


def settings_of(tree: dict[str, Any]) -> dict[str, Any]:
    """The leaves of nested settings by dotted names.

    Raises:
        Unread: The names together would be longer than any file of settings.
    """
    found, letters = dict[str, Any](), 0
    for name, value in leaves(tree):
        letters += len(name)
        if letters > MOST_BYTES:  # a long name above many leaves is in the name of each
            raise Unread(f"has settings whose names have more than {MOST_BYTES} letters")
        found[sys.intern(name)] = shared(value)
    return found


def shared(tree: Any) -> Any:
    """A tree each of whose texts is in memory once: thousands of runs have much the same."""
    if type(tree) is str:
        return sys.intern(tree)
    if isinstance(tree, dict):
        return {sys.intern(key): shared(value) for key, value in tree.items()}
    return [shared(value) for value in tree] if isinstance(tree, list) else tree


def _shallow(tree: Any, depth: int = 0) -> Any:
    """A tree whose keys are text, if it is not too deep."""
    if depth > DEEPEST:
        raise Unread(TOO_DEEP)
    if isinstance(tree, dict):
        return {str(key): _shallow(value, depth + 1) for key, value in tree.items()}
    return [_shallow(value, depth + 1) for value in tree] if isinstance(tree, list) else tree


def _whole(digits: str) -> int | str:
    return int(digits) if len(digits) <= MOST_DIGITS else digits


# Both are safe; the one in C is ten times as fast, but PyYAML may have been built without it.
_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Safe):  # type: ignore[misc]  # one of two classes, as PyYAML was built
    """Text, truth values, null, and the numbers that OmegaConf writes.

    YAML 1.1 has other numbers too, such as 1:30:00, on which PyYAML takes minutes if they are long.
    Dates stay text, as with OmegaConf.
    """

    yaml_implicit_resolvers: ClassVar = {
        first: [pair for pair in pairs if pair[0].endswith((":bool", ":null"))]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(rf"[-+]?(?:0|[1-9][0-9]{{0,{MOST_DIGITS - 1}}})$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
        r"|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)
