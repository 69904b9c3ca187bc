"""Says in one to three lines what an error means, also one of Hydra or OmegaConf."""

import re
import sys
from typing import Any

import hydra
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import OmegaConf

from bilevel_cli import errors
from bilevel_cli.config import options
from bilevel_cli.config.options import CONF
from bilevel_cli.errors import Failed, UsageError, refusal
from bilevel_cli.sweeps import plugins


def explain(error: BaseException) -> str:
    """What is wrong, and the nearest thing that would be right: one to three lines."""
    if install := plugins.broken(error):
        return install
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if install := plugins.missing(group, name):
            return install
        known = error.options or options.names(group)
        if known:
            near = errors.hint(name, known)
            return f"{group} has no option {name!r}{near}\n{group} is one of {', '.join(known)}."
    if isinstance(error, ConfigCompositionException):
        found = re.match(r"Could not (?:override|append to config|delete) '([^']+)'", str(error))
        if found and found[1].split("@")[0] in options.groups():
            return f"nothing in this configuration takes {found[1]!r}.\nSee bilevel-run --help."
        if found:
            near = errors.hint(found[1], [*options.groups(), *options.keys(_settings())])
            return f"there is no setting {found[1]!r}{near}\nSee bilevel-run --help."
        if error.__cause__ is not None:
            return explain(error.__cause__)
    if not isinstance(error, UsageError | Failed):  # logging, for one, hides what it was refused
        error = refusal(error) or error
    lines = [line for line in str(error).splitlines() if line.strip()]
    return "\n".join(lines[:3]) or f"{type(error).__name__}. See bilevel-run --help."


def _settings() -> Any:
    """The default configuration, with the groups that the command line chooses validly."""
    chosen = []
    for argument in sys.argv[1:]:
        group, _, option = argument.partition("=")
        if "/" not in group and option in options.names(group):
            chosen.append(argument)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(hydra.compose("config", chosen), resolve=False)
