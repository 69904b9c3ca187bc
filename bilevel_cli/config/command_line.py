"""The order of a command line: flags and overrides."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hydra._internal.utils import get_args_parser


class Arguments(NamedTuple):
    """A command line: the flags with their values, in order, and everything else."""

    flags: list[tuple[str, ...]]
    overrides: list[str]

    @property
    def folders(self) -> list[Path]:
        """The folders that --config-dir names."""
        return [Path(flag[1]) for flag in self.flags if flag[0] == "--config-dir"]

    def has(self, *names: str) -> bool:
        """Whether one of some flags, by their long names, is given."""
        return any(flag[0] in names for flag in self.flags)


def separated(arguments: Sequence[str]) -> Arguments:
    """Tells flags from overrides, wherever they stand. Flags get their long names.

    Hydra's parser takes overrides in one piece only: a flag between two of them would end it.
    """
    known = {
        name: action
        for action in get_args_parser()._actions  # argparse has no public list of them
        for name in action.option_strings
    }
    flags: list[tuple[str, ...]] = []
    overrides, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if not name.startswith("-"):
            overrides.append(word)
            continue
        action = known.get(name) or _abbreviated(name, known)
        if action is None:  # Hydra will say what it does not know
            flags.append((word,))
            continue
        long = max(action.option_strings, key=len)
        if equals:
            flags.append((long, value))
        elif action.nargs == "?":
            choices = action.choices or ()
            flags.append((long, rest.pop(0) if rest and rest[0] in choices else str(action.const)))
        elif action.nargs is None and rest:
            flags.append((long, rest.pop(0)))
        else:
            flags.append((long,))
    return Arguments(flags, overrides)


def flags_first(arguments: Sequence[str]) -> list[str]:
    """The same command line in an order that Hydra's parser takes."""
    found = separated(arguments)
    return ["=".join(flag) for flag in found.flags] + found.overrides


def _abbreviated(name: str, known: dict[str, argparse.Action]) -> argparse.Action | None:
    """The flag that a beginning stands for, as argparse allows; None if it could be several."""
    found = {id(action): action for long, action in known.items() if long.startswith(name)}
    return next(iter(found.values())) if name.startswith("--") and len(found) == 1 else None
