"""The parts of a run, built anew from its manifest, which somebody else may have written."""

import json
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from bilevel_cli import errors
from bilevel_cli.config import options
from bilevel_cli.config.options import CONF
from bilevel_cli.config.targets import TARGET, home, is_ours, on_a_shelf, target, targeted
from bilevel_cli.errors import UsageError
from bilevel_cli.report.read.bounded import Unread, json_tree

NEEDED = ("data", "model", "device", "seed")  # of its settings


def settings_of(path: Path, overrides: list[str], trusted: list[str]) -> DictConfig:
    """The settings of the run whose manifest is at `path`, with some changed."""
    try:
        manifest = json_tree(path)
        noted = {key: manifest["settings"][key] for key in NEEDED}
    except (Unread, KeyError, TypeError) as error:
        raise UsageError(
            f"A comparison needs {path} with the settings of a run, got {type(error).__name__}: "
            f"{error}. Name the folder that bilevel-run wrote."
        ) from error
    if "${" in json.dumps(noted):  # it could ask for the environment of who reads the folder
        raise UsageError(
            f"A comparison needs {path} with settings that are resolved, as bilevel-run writes "
            "them, got one with ${...}."
        )
    settings = OmegaConf.create(noted)
    OmegaConf.set_struct(settings, True)  # so that a misspelt override is no new setting
    settings.merge_with_dotlist(overrides)
    if "${" in json.dumps(OmegaConf.to_container(settings, resolve=False)):
        # Asked of what was read: yaml has more ways than Hydra to write the same word.
        raise UsageError(
            f"A comparison needs settings without ${{...}}, got {' '.join(overrides)[:100]!r}. "
            "Write out the value."
        )
    for key in NEEDED:
        for where, node in targeted(settings[key], key):
            _check_trusted(where, node, trusted, path)
    return settings


def _check_trusted(key: str, node: DictConfig, trusted: list[str], path: Path) -> None:
    """Refuses a class that is neither on a shelf nor at home in a package of --trust."""
    name = str(node[TARGET])
    if on_a_shelf(name):
        return
    package = name.split(".")[0]
    if package in trusted:  # and may be imported
        package = home(target(node, key))
    if is_ours(name) or package not in trusted:
        raise UsageError(
            f"A comparison builds classes of bilevel_cli, got {name} in {path}. "
            f"Add --trust {package} if that is a package of yours."
        )


def option(group: str, name: str) -> DictConfig:
    """The node that an option of conf/ configures."""
    known = options.names(group)
    if name not in known:
        near = errors.hint(name, known)
        raise UsageError(f"{group} has no option {name!r}{near} It is one of {', '.join(known)}.")
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        node: DictConfig = hydra.compose("config", [f"+{group}@chosen={name}"]).chosen
    OmegaConf.set_struct(node, False)
    return node


def built(key: str, node: DictConfig) -> Any:
    """The object that a node configures; `key` is its name in messages."""
    from bilevel_cli.config.objects import make

    return make(OmegaConf.create({key: node}), key)
