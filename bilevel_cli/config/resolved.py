"""The configuration as plain values, or what it asks for and nothing says."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bilevel_cli.config.deletions import check_complete
from bilevel_cli.config.options import CONF
from bilevel_cli.errors import UsageError
from bilevel_cli.records.settings import NOT_SETTINGS

# Of omegaconf: a name that is not there, or one below an entry that is null.
ASKED = re.compile(r"(?:[Ii]nterpolation key '|Error trying to access )([\w.]+)")
SUGGESTED = "suggest."
EXAMPLE = "quadratic"  # the task whose suggestions a message shows


def resolved(config: DictConfig) -> dict[str, Any]:
    """The settings of a run, with every interpolation filled in.

    Raises:
        UsageError: An interpolation leads nowhere, or a mandatory value is missing.
    """
    try:
        settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        check_resolves(config, {})
        raise UsageError(f"{error.full_key}: {str(error).splitlines()[0]}.") from error
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items() if key not in NOT_SETTINGS}


def plain(config: DictConfig) -> Any:
    """All of `config` with its interpolations filled in, to be sent to another process.

    There, Hydra is not running, and its own interpolations lead nowhere.

    Raises:
        UsageError: As in `resolved`.
    """
    resolved(config)
    return OmegaConf.to_container(config, resolve=True)


def check_resolves(
    config: DictConfig, options: dict[str, str], keys: Collection[str] | None = None
) -> None:
    """Checks that every setting which reads another one finds it, in one message for them all.

    Args:
        config: The whole configuration.
        options: The option chosen in each config group, for messages.
        keys: The entries at the top of `config` to look at; None for all but Hydra's own.

    Raises:
        UsageError: A setting reads what nothing says, or is not there at all.
    """
    check_complete(config, keys)
    lacking: dict[str, list[str]] = {}  # what is read, and the settings that read it
    for key in config if keys is None else keys:
        if key == "hydra" or key not in config:
            continue
        for setting, error in _failures(config, str(key), str(key)):
            found = ASKED.search(str(error))
            if found is None:
                raise UsageError(f"{setting}: {str(error).splitlines()[0]}.") from error
            lacking.setdefault(found[1], []).append(setting)
    asked = [name for name in lacking if name.startswith(SUGGESTED)]
    for name in lacking:
        if name not in asked:
            raise UsageError(
                f"{lacking[name][0]} reads {name}, which nothing sets. Write a value for "
                f"{lacking[name][0]}, or set {name}."
            )
    if asked and config.get("task") is None:
        raise UsageError("A run needs task=..., got null. See bilevel-run task=?")
    if asked:
        file = _file(config, options.get("task"))
        raise UsageError(_unsuggested({name: lacking[name] for name in asked}, options, file))


def _failures(
    node: DictConfig | ListConfig, key: Any, name: str
) -> Iterator[tuple[str, OmegaConfBaseException]]:
    """The dotted names of the settings at and below `key` that cannot be read, with the errors."""
    try:
        value = node[key]
    except OmegaConfBaseException as error:
        yield name, error
        return
    if OmegaConf.is_interpolation(node, key):
        return  # what it leads to is looked at where it stands
    if isinstance(value, DictConfig):
        for inner in map(str, value):
            yield from _failures(value, inner, f"{name}.{inner}")
    elif isinstance(value, ListConfig):
        for number in range(len(value)):
            yield from _failures(value, number, f"{name}[{number}]")


def _unsuggested(lacking: dict[str, list[str]], options: dict[str, str], file: str) -> str:
    """What the yaml of a task does not suggest, who asks for it, and the lines to add."""
    task = options.get("task")
    example = OmegaConf.load(CONF / "task" / f"{EXAMPLE}.yaml").suggest
    asked, lines = [], []
    for name, settings in lacking.items():
        short = name.removeprefix(SUGGESTED)
        asked.append(f"{short} ({_by(settings[0], options)})")
        lines.append(f"`{short}: {example.get(short, '<a number>')}`")
    whose = f"task={task} suggests" if task else "The task suggests"
    few = "the line" if len(lines) == 1 else "the lines"
    sets = " ".join(f"{settings[0]}=..." for settings in lacking.values())
    shown = f", as task={EXAMPLE} has it" if all("<" not in line for line in lines) else ""
    return (
        f"{whose} no {', no '.join(asked)}. Add {few} {', '.join(lines)} below `suggest:` in "
        f"{file}{shown}; or set {sets} for this run."
    )


def _by(setting: str, options: dict[str, str]) -> str:
    """The setting that reads, and the option whose file it is from."""
    group = setting.partition(".")[0]
    chosen = f" of {group}={options[group]}" if options.get(group) and "." in setting else ""
    return f"read by {setting}{chosen}"


def _file(config: DictConfig, task: str | None) -> str:
    """The yaml of a task on Hydra's search path, or its name where Hydra does not run."""
    folders = list(OmegaConf.select(config, "hydra.searchpath") or [])
    hydra = GlobalHydra.instance()
    if hydra.is_initialized():
        search = hydra.config_loader().get_search_path().get_path()
        folders += [str(element.path) for element in search]
    paths = (Path(one.removeprefix("file://")) / "task" / f"{task}.yaml" for one in folders)
    found = next((path for path in paths if path.is_file()), Path(f"task/{task or '...'}.yaml"))
    here = Path.cwd()
    return str(found.relative_to(here) if found.is_relative_to(here) else found)
