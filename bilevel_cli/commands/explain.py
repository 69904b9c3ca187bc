"""Says in one to three lines what an error means, also one of Hydra or OmegaConf."""

import re
import sys
from typing import Any

import hydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import (
    ConfigCompositionException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf

from bilevel_cli import errors
from bilevel_cli.config import options, suggest
from bilevel_cli.config.command_line import Arguments
from bilevel_cli.config.options import CONF
from bilevel_cli.errors import Failed, UsageError, refusal
from bilevel_cli.sweeps import plugins

LETTERS = 400  # at most, in a message about a command line


def explain(error: BaseException) -> str:
    """What is wrong, and the nearest thing that would be right: one to three lines."""
    said = _explained(error)
    # Of a run that broke, the end says where its traceback is.
    whole = isinstance(error, Failed) or len(said) <= LETTERS
    return said if whole else f"{said[: LETTERS - 4]} ..."


def _explained(error: BaseException) -> str:
    if install := plugins.broken(error):
        return install
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if install := plugins.missing(group, name):
            return install
        known = error.options or options.names(group)
        if known:
            near = errors.hint(name, known)
            said = f"{group} has no option {name[:100]!r}{near}\n{group} is one of "
            names = f"{', '.join(known)}."
            if len(said) + len(names) < LETTERS:
                return f"{said}{names}"
            room = LETTERS - len(said) - len(see := f" ... See bilevel-run {group}=?") - 1
            return f"{said}{names[:room].rpartition(',')[0]},{see}"
    if isinstance(error, OverrideParseException) and (letter := _in_need_of_quotes(error.override)):
        return _in_quotes(error.override, letter)
    if isinstance(error, ConfigCompositionException):
        found = re.match(r"Could not (?:override|append to config|delete) '([^']+)'", str(error))
        if found and found[1].split("@")[0] in options.groups():
            return f"nothing in this configuration takes {found[1]!r}.\nSee bilevel-run --help."
        if found:
            like = [repr(name) for name in suggest.settings_like(found[1], _known())]
            ask = f" Did you mean {suggest.either(like)}?" if like else ""
            return f"there is no setting {found[1]!r}.{ask}\nSee bilevel-run --help."
        if absent := re.match(r"Could not delete from config. '(.+)' does not exist", str(error)):
            return f"~{absent[1]} deletes nothing: there is no such setting, or it is null."
        if several := re.match(_SEVERAL, str(error)):
            return _each(several[1])
        if error.__cause__ is not None:
            return _explained(error.__cause__)
    if _RANGE in str(error):
        return (
            "a range such as interval(0.1,1) is for a search. Add hydra/sweeper=optuna to search "
            "it, or list its values with commas: 0.1,0.3,1."
        )
    if not isinstance(error, UsageError | Failed):  # logging, for one, hides what it was refused
        error = refusal(error) or error
    lines = [line for line in str(error).splitlines() if line.strip()]
    return "\n".join(lines[:3]) or f"{type(error).__name__}. See bilevel-run --help."


def check_words(given: Arguments) -> None:
    """Refuses words that are neither a flag nor an assignment, and says what they may have meant.

    Raises:
        UsageError: There is one.
    """
    for word in given.overrides:
        if "=" not in word and not word.startswith("~"):
            raise UsageError(suggest.meant(word, given.folders, _known()))


# What Hydra says of interval(...) in a sweep.
_RANGE = "does not support sweep type : INTERVAL_SWEEP"

# What Hydra says of several values, and of range(...) or glob(...), without -m.
_SEVERAL = r"(?:Ambiguous value for argument|Sweep parameters) '(.*?)'(?:\n| requires)"


def _each(override: str) -> str:
    key = override.partition("=")[0]
    if "interval(" in override:
        return (
            f"{override} names a range to search. Add -m hydra/sweeper=optuna, and objective=..., "
            "the column of eval.csv to be optimised."
        )
    return (
        f"{override} names several values. Add -m to run each: bilevel-run -m {override} ...\n"
        f"For a list, write {key}=[a,b]; for a text with a comma, {key}=\\'a,b\\'."
    )


def _in_need_of_quotes(override: str) -> str:
    """The first letter that Hydra does not read bare: `=` in a value, or one beyond ASCII."""
    _, _, value = override.partition("=")
    bare = "=" if not re.search("['\"]", value) else ""
    return next((one for one in value if one == bare or not one.isascii()), "")


def _in_quotes(override: str, letter: str) -> str:
    """What to write instead of an override with letters that Hydra does not read bare."""
    key, _, value = override.partition("=")
    quoted = re.sub(r"[^\[\]{},:\s'\"]+", lambda word: _quoted(word[0]), value)
    return (
        f"{override}: letters such as {letter!r} need quotes that reach Hydra.\n"
        f'Write "{key}={quoted}".'
    )


def _quoted(word: str) -> str:
    plain = word.isascii() and "=" not in word
    return word if plain else QuotedString(word, Quote.single).with_quotes()


def _known() -> list[str]:
    """The names of all groups and settings of the configuration that the command line asks for."""
    return [*options.groups(), *options.keys(_settings())]


def _settings() -> Any:
    """The default configuration, with the groups that the command line chooses validly."""
    chosen = []
    for argument in sys.argv[1:]:
        group, _, option = argument.partition("=")
        if "/" not in group and option in options.names(group):
            chosen.append(argument)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(hydra.compose("config", chosen), resolve=False)
