"""What a command line may not say, so that one copied from somewhere runs no code but ours.

A folder that --config-dir names may say all of it: its yaml files are the word of whoever names it.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from hydra.errors import OverrideParseException
from omegaconf import DictConfig

from bilevel_cli.config import options
from bilevel_cli.config.application import hydras_own, option_folders
from bilevel_cli.config.options import CONF
from bilevel_cli.config.targets import OURS, TARGET, is_ours, on_a_shelf, targeted
from bilevel_cli.errors import UsageError

ELSEWHERE = "Write it in a yaml file, in a folder that --config-dir names."

# Hydra calls what these name, hands them to other programs, or looks for more files there.
RUNS = (
    *("hydra.callbacks", "hydra.job.env_set", "hydra.job.env_copy", "hydra.job_logging"),
    *("hydra.hydra_logging", "hydra.searchpath", "hydra.runtime", "hydra.overrides"),
    *("hydra.sweeper.custom_search_space", "hydra.sweeper.search_space"),
)
# The options of Hydra's own for its logging, which name no class of others.
LOGGING = {
    f"hydra/{kind}_logging": {"default", "disabled", "none", "stdout"} for kind in ("job", "hydra")
}
LAUNCHER, PARAMS = "hydra.launcher.", "hydra.sweeper.params."
CONTROL = ("_args_", "_convert_", "_partial_", "_recursive_")  # how Hydra is to call a class

# Settings of launchers which ask for resources. Others hold commands for a shell, environments or
# the address of a stranger: `setup`, `additional_parameters`, `ray.init.runtime_env`.
LAUNCHERS = {
    *("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name"),
    *("stderr_to_stdout", "partition", "qos", "comment", "constraint", "exclude", "gres"),
    *("cpus_per_gpu", "gpus_per_task", "mem_per_gpu", "mem_per_cpu", "account", "signal_delay_s"),
    *("max_num_timeout", "array_parallelism"),  # submitit
    *("n_jobs", "backend", "prefer", "require", "verbose", "timeout", "batch_size", "max_nbytes"),
    "mmap_mode",  # joblib
    *("ray.init.address", "ray.init.num_cpus", "ray.init.num_gpus", "ray.init.include_dashboard"),
    *("ray.init.object_store_memory", "ray.remote.num_cpus", "ray.remote.num_gpus"),
}
WORD = re.compile(r"[\w.,:%+-]*", re.ASCII)  # nothing that ends a line of a batch script


class Setting(NamedTuple):
    """What an override sets.

    Args:
        path: Its dotted name, that of an entry of a dict too: hydra.job.env_set.A.
        value: Nothing nested but empty dicts and lists; of an override that deletes, None.
    """

    path: str
    value: Any


def check_command_line(arguments: Iterable[str]) -> None:
    """Refuses arguments that could run any code: a class of others is named by a yaml file.

    So a command line that was copied from somewhere runs nothing but what is installed as an
    option, here or in a folder that --config-dir names.

    Args:
        arguments: Flags and overrides; a flag with its value in one piece.

    Raises:
        UsageError: They do.
    """
    for argument in arguments:
        # They make settings of a text, or show what the environment keeps, in messages and in the
        # files of the run. The name of a resolver can be put together too.
        if re.search(r"oc\.(?:decode|create|env)|\$\{[^:}]*\$\{", argument):
            raise UsageError(
                "A command line cannot decode a text, read the environment or put a name together "
                f"by interpolation, got {_shown(argument)}. Write out the value."
            )
        if argument.startswith("-"):
            _check_flag(argument)
            continue
        # Hydra has them in structures, of which nothing can be taken away.
        if re.match(r"~hydra(?:[./=]|$)", argument):
            raise UsageError(
                f"A command line cannot delete settings of Hydra, got {_shown(argument)}. "
                "Leave that out."
            )
        override = _parsed(argument)
        if override is None:
            _check_text(argument)
        elif reason := _refusal(override):
            raise UsageError(f"A command line cannot {reason}, got {_shown(argument)}. {ELSEWHERE}")


def check_composed(config: DictConfig) -> None:
    """Refuses classes of others in a configuration that no file of a user is part of.

    What the words of a command line make together is looked at once more: one setting may lead to
    another one, of Hydra's own, say.

    Args:
        config: The whole configuration, with Hydra's own below `hydra` or in `HydraConfig`.

    Raises:
        UsageError: There is one.
    """
    own = hydras_own(config)
    if own is None or option_folders(own) != (CONF,):
        return
    for key in config:
        for where, node in targeted(config[key], str(key)) if key != "hydra" else ():
            if not on_a_shelf(str(node[TARGET])):
                raise UsageError(_foreign(f"{where}.{TARGET}={node[TARGET]!s}"))


def _check_flag(argument: str) -> None:
    flag, _, value = argument.partition("=")
    if "://" in value:  # pkg:// imports a module, and so runs it
        raise UsageError(f"{flag} needs a folder, got {_shown(value)}. Name one.")
    if len(flag) > 2 and "--experimental-rerun".startswith(flag):
        raise UsageError(f"{flag} would load a pickle, which could run any code. Leave it out.")


def _check_text(argument: str) -> None:
    """Refuses an argument that Hydra cannot read for what it seems to say."""
    if control := re.search("|".join(CONTROL), argument):
        raise UsageError(f"A command line cannot set {control[0]}, got {_shown(argument)}.")
    for assigned in re.findall(r"_target_(.*?)(?=_target_|$)", argument, re.DOTALL):
        named = re.match(r"\s*[=:]\s*['\"]?([\w.]+)", assigned)
        if assigned.strip() and not (named and is_ours(named[1])):
            raise UsageError(_foreign(argument))


def _parsed(argument: str) -> Override | None:
    """An argument as Hydra reads it; None where it cannot, which composing says."""
    try:
        (override,) = OverridesParser.create().parse_overrides([argument])
    except (OverrideParseException, ValueError):
        return None
    return override


def _refusal(override: Override) -> str | None:
    """What an override would do that no command line may; None where it does nothing of the kind.

    Raises:
        UsageError: It names a class of others.
    """
    group, package = override.key_or_group, override.package
    path = (package or group).removeprefix("_global_.").replace("/", ".")
    found = list(_settings(path, override.value()))
    if "/" in group or group in options.groups():
        chosen = [one.value for one in found if one.path == path]
        if reason := _of_group(group, package, path, chosen):
            return reason
        found = [one for one in found if one.path != path]
    return next(filter(None, (_reason(one, override) for one in found)), None)


def _of_group(group: str, package: str | None, path: str, chosen: list[Any]) -> str | None:
    """As `_refusal`, for the options that are chosen of a group, to be put at a path."""
    if any(map(_leaves_its_group, chosen)):
        return f"choose a file outside of the folders of options for {group}"
    if not package and set(map(str, chosen)) <= LOGGING.get(group, set()):
        return None
    if package and f"{path}.".startswith("hydra."):
        return f"put options of {group} into {path}"
    named = next((name for name in RUNS if f"{path}.".startswith(f"{name}.")), None)
    return f"choose an option of {named}, which can run any code" if named else None


def _reason(one: Setting, override: Override) -> str | None:
    """As `_refusal`, for a single setting that is no choice of an option."""
    path, value = one
    if path.startswith(PARAMS):
        return _of_job(path.removeprefix(PARAMS), value)
    parts = path.split(".")
    if control := next((name for name in CONTROL if name in parts), None):
        return f"set {control}"
    if TARGET in parts and not override.is_delete():
        plain = isinstance(value, str) and parts[-1] == TARGET and parts.count(TARGET) == 1
        if not (plain and on_a_shelf(value)):
            raise UsageError(_foreign(override.input_line or ""))
    if named := next((name for name in RUNS if _meets(path, name)), None):
        return f"set {named}, which can run any code"
    if f"{path}." in (LAUNCHER, PARAMS) and value:
        return f"set {path} as a whole"
    if path.startswith(LAUNCHER):
        return _of_launcher(path.removeprefix(LAUNCHER), value)
    return _out_of_the_folder(path, value)


def _out_of_the_folder(path: str, value: Any) -> str | None:
    if not (path.startswith("hydra.") and isinstance(value, str)):
        return None
    if re.search(r"[\r\n]", value):  # which would begin a line of its own in a batch script
        return f"put a line break into {path}"
    if path in ("hydra.job.name", "hydra.output_subdir") and re.search(r"^/|\.\.", value):
        return f"lead {path} out of the folder of the run"
    return None


def _of_launcher(name: str, value: Any) -> str | None:
    if name not in LAUNCHERS:
        return f"set hydra.launcher.{name}, which can hold a command"
    local = name != "ray.init.address" or value in (None, "auto")
    if not local or (isinstance(value, str) and not WORD.fullmatch(value)):
        return f"set hydra.launcher.{name} to anything but a plain word"
    return None


def _of_job(key: str, value: Any) -> str | None:
    """As `_refusal`, for the override that a sweeper makes of one of its parameters."""
    if isinstance(value, str) and "${" in value:
        return f"put together values of {key} for a sweep"
    text = f"{key}={value if isinstance(value, str) else 'null'}"
    override = _parsed(text)
    if override is None:
        _check_text(text)
        return None
    return _refusal(override)


def _settings(path: str, value: Any) -> Iterator[Setting]:
    """What a parsed value sets at and below a path: of a sweep, each of its values."""
    if isinstance(value, ChoiceSweep):
        value = value.list
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _settings(f"{path}.{_plain(name)}", inner)
    elif isinstance(value, list) and value:
        for inner in value:
            yield from _settings(path, inner)
    else:
        yield Setting(path, _plain(value))


def _plain(value: Any) -> Any:
    return value.text if isinstance(value, QuotedString) else value


def _leaves_its_group(option: Any) -> bool:
    """Whether an option is no name within the folder of its group: a path, or yet to be known."""
    if not isinstance(option, str):
        return False
    return option.startswith("/") or ".." in option.split("/") or "${" in option


def _meets(path: str, name: str) -> bool:
    """Whether one of two dotted names is the other one, or lies above it."""
    return f"{path}.".startswith(f"{name}.") or f"{name}.".startswith(f"{path}.")


def _foreign(argument: str) -> str:
    return (
        f"A command line can name classes of {' and '.join(OURS)} alone, got {_shown(argument)}. "
        "Name others in a yaml file, in a folder that --config-dir names."
    )


def _shown(argument: str) -> str:
    """An argument in one line, cut where it is long."""
    return repr(argument if len(argument) <= 100 else f"{argument[:97]}...")
