"""Settings as Python has them, spelled as a command line has them."""

import re
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import OverrideParseException

from bilevel_cli.config.refused import check_command_line
from bilevel_cli.errors import UsageError

# Text that Hydra reads as itself. These words it would read as a value of another kind.
PLAIN = re.compile(r"/?[A-Za-z_][\w./-]*", re.ASCII)
WORDS = {"null", "true", "false", "nan", "inf"}


def check(overrides: Iterable[str]) -> None:
    """Refuses what asks for more than one run, and what no command line may say.

    Raises:
        UsageError: One of the overrides does.
    """
    overrides = list(overrides)
    for text in overrides:
        if not isinstance(text, str):
            raise UsageError(f"run needs settings such as 'task=meta', got {text!r}.")
        if text.startswith("-"):
            raise UsageError(
                f"run needs settings such as 'task=meta', got the flag {text!r} of the command. "
                "Its folder of configurations is config_dir=...; a sweep needs bilevel-run -m."
            )
        try:
            (found,) = OverridesParser.create().parse_overrides([text])
        except OverrideParseException:  # composing says what is wrong
            continue
        mode = found.key_or_group == "hydra.mode" and "multirun" in text.lower()
        if mode or found.is_sweep_override():
            raise UsageError(
                f"run needs one value for each setting, got {text!r}. Call it once for each value, "
                "or sweep with `bilevel-run -m` and read the runs with bilevel_cli.load."
            )
    check_command_line(overrides)


def assignments(settings: Mapping[str, Any], above: str = "") -> list[str]:
    """The overrides that give settings their values.

    Args:
        settings: Values by names such as `outer_steps`, `solver.lr` or `method/linear_solver`. A
            dict is the settings below a name: `solver={"lr": 0.1}` is `solver.lr=0.1`.
        above: The name above these, with a dot.

    Raises:
        UsageError: A value is nothing that a command line could say.
    """
    found = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            found += assignments(value, f"{above}{name}.")
        else:
            found.append(f"{above}{name}={spelled(value, f'{above}{name}')}")
    return found


def spelled(value: Any, name: str) -> str:
    """A value as a command line has it, in quotes where it could be read as something else.

    Args:
        value: None, a bool, a number, a text or a path, or a dict, list or tuple of such values;
            numbers of numpy and of torch too.
        name: The setting; for messages.

    Raises:
        UsageError: It is something else.
    """
    if hasattr(value, "tolist"):  # of numpy or torch
        value = value.tolist()
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case Integral():
            return str(int(value))
        case Real():
            return repr(float(value))
        case str() | PurePath():
            text = str(value)
            if PLAIN.fullmatch(text) and text.lower() not in WORDS:
                return text
            return QuotedString(text, Quote.single).with_quotes()
        case Mapping():
            return f"{{{','.join(f'{key}:{spelled(one, name)}' for key, one in value.items())}}}"
        case list() | tuple() | range():
            return f"[{','.join(spelled(one, name) for one in value)}]"
    raise UsageError(
        f"run needs {name} to be a number, a text, true, false, None, or a list or dict of these, "
        f"got {type(value).__name__}."
    )
