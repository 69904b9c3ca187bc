"""The order of a command line, and what it may not say."""

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from hydra._internal.utils import get_args_parser

from bilevel_cli.config.arguments import OURS, is_ours
from bilevel_cli.errors import UsageError


def check_command_line(arguments: Iterable[str]) -> None:
    """Refuses arguments that could run any code: a class of others is named by a yaml file.

    So a command line that was copied from somewhere runs nothing but what is installed as an
    option, here or in a folder that --config-dir names.

    Raises:
        UsageError: They do.
    """
    for argument in arguments:
        if control := re.search("_(?:args|convert|partial|recursive)_", argument):
            raise UsageError(f"A command line cannot set {control[0]}, got {argument[:200]!r}.")
        # They make settings of a text, and the name of a resolver can be put together too.
        if re.search(r"oc\.(?:decode|create)|\$\{[^:}]*\$\{", argument):
            raise UsageError(
                "A command line cannot decode a text or put a name together by interpolation, got "
                f"{argument[:200]!r}. Write out the value."
            )
        flag = argument.partition("=")[0]
        if len(flag) > 2 and "--experimental-rerun".startswith(flag):
            raise UsageError(f"{flag} would load a pickle, which could run any code. Leave it out.")
        for assigned in re.findall(r"_target_(.*?)(?=_target_|$)", argument, re.DOTALL):
            named = re.match(r"\s*[=:]\s*['\"]?([\w.]+)", assigned)
            if assigned.strip() and not (named and is_ours(named[1])):
                raise UsageError(
                    f"A command line can name classes of {' and '.join(OURS)} alone, got "
                    f"{argument[:200]!r}. Name others in a yaml file, in a folder that "
                    "--config-dir names."
                )


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
