"""One yaml file of an option: what it chooses, what it sets, and the comments beside both."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bilevel_cli.config import constructors


class Setting(NamedTuple):
    """A setting as it is typed, with its default and what it is for.

    Args:
        key: Such as `solver.lr`; or `task/noise`, for a choice among options.
        default: As the yaml has it. Where it follows another setting: `${suggest.inner_lr}`.
        comment: What it is for, in a line of plain text.
    """

    key: str
    default: str
    comment: str


class OptionFile:
    """The file of an option.

    Args:
        group: Of the option; "" for conf/config.yaml.
        path: Of the file.
    """

    def __init__(self, group: str, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        self.group, self.lines = group, text.splitlines()
        self.root = yaml.compose(text)
        everywhere = re.search(r"^# @package _global_", text, re.MULTILINE)
        self.package = "" if everywhere or not group else f"{group.replace('/', '.')}."

    def choices(self) -> Iterator[Setting]:
        """The options that the defaults list chooses. The key of an extended one is the group."""
        for entry in self._defaults():
            if isinstance(entry, yaml.MappingNode):
                key, option = entry.value[0]
                yield Setting(self._group(key.value), self._plain(option), self._beside(option))
            elif entry.value != "_self_":
                yield Setting(self.group, entry.value, "")

    def settings(self) -> list[Setting]:
        """What the file gives a value."""
        return list(self._leaves(self.root, self.package, {}))

    def arguments(self) -> dict[str, str]:
        """By keys: what the classes that this file names say about all their arguments."""
        return dict(self._arguments(self.root, self.package))

    def _defaults(self) -> list[Any]:
        pairs = self.root.value if isinstance(self.root, yaml.MappingNode) else []
        return next((value.value for key, value in pairs if key.value == "defaults"), [])

    def _group(self, entry: str) -> str:
        """How the group of a default is typed: task/noise, solver@solver.base."""
        name, _, package = entry.removeprefix("override ").partition("@")
        group = name.removeprefix("/")
        if self.group and not name.startswith("/"):
            group = f"{self.group}/{name}"
        usual = group.replace("/", ".")
        if package.startswith("_global_."):
            package = package.removeprefix("_global_.")
        elif package:
            package = f"{self.package}{package}"
        return group if package in ("", usual) else f"{group}@{package}"

    def _leaves(self, node: Any, prefix: str, told: dict[str, str]) -> Iterator[Setting]:
        pairs = _pairs(node)
        if "_target_" in pairs:
            told = _told(pairs["_target_"][1])
        for name, (key, value) in pairs.items():
            if name == "defaults" or name.startswith("_") or value.value == "???":
                continue
            nested = isinstance(value, yaml.MappingNode)
            comment = self._beside(key if nested else value) or self._above(key)
            comment = comment or told.get(name, "")
            if not nested:
                yield Setting(f"{prefix}{name}", self._plain(value), comment)
                continue
            for one in self._leaves(value, f"{prefix}{name}.", {}):
                # What is said of a schedule is said of the numbers that make it.
                yield one if one.comment else one._replace(comment=comment)

    def _arguments(self, node: Any, prefix: str) -> Iterator[tuple[str, str]]:
        pairs = _pairs(node)
        if "_target_" in pairs:
            for name, text in _told(pairs["_target_"][1]).items():
                yield f"{prefix}{name}", text
        for name, (_, value) in pairs.items():
            yield from self._arguments(value, f"{prefix}{name}.")

    def _plain(self, node: Any) -> str:
        if node.start_mark.line == node.end_mark.line:
            line = self.lines[node.start_mark.line]
            return line[node.start_mark.column : node.end_mark.column]
        return " ".join(str(yaml.safe_load(yaml.serialize(node))).split())

    def _beside(self, node: Any) -> str:
        """The comment at the end of the line of a value, or of the key of nested values."""
        if node.start_mark.line != node.end_mark.line:
            return ""
        rest = self.lines[node.end_mark.line][node.end_mark.column :]
        found = re.match(r":?\s+# ?(.*)", rest)
        return found[1].strip() if found else ""

    def _above(self, key: Any) -> str:
        """The comment in the lines above a key, unless it is the one that the file begins with."""
        indent = " " * key.start_mark.column
        above: list[str] = []
        number = key.start_mark.line - 1
        while number >= 0 and self.lines[number].startswith(f"{indent}# "):
            above.insert(0, self.lines[number].strip().removeprefix("# "))
            number -= 1
        return " ".join(above) if number >= 0 else ""


def _pairs(node: Any) -> dict[str, Any]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return {key.value: (key, value) for key, value in pairs}


def _told(target: Any) -> dict[str, str]:
    taken = constructors.parameters(target.value) or {}
    return {name: one.description for name, one in taken.items()}
