"""Method, solver and start by the names of their options, for a problem that no yaml describes."""

import functools
from collections.abc import Mapping
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from bilevel_cli.config import options
from bilevel_cli.config.application import hydra_apart
from bilevel_cli.errors import UsageError, hint

PARTS = ("method", "solver", "start")


def composed(choices: Mapping[str, str], settings: Mapping[str, Any]) -> DictConfig:
    """The configuration of some options with some settings changed. It holds no task and no data.

    What a task would suggest is missing, so `suggest_lr` comes before any part is made.

    Args:
        choices: The option of each group, such as {"method": "cg", "solver": "momentum"}. A method
            decides what is not chosen.
        settings: Values by dotted names, such as {"method.linear_solver.max_steps": 50}. A name
            with a slash or an @ is that of a group: {"method/linear_solver": "exact"}.

    Raises:
        UsageError: There is no such option or setting.
    """
    groups = {key: value for key, value in settings.items() if "/" in key or "@" in key}
    for key, option in {**choices, **groups}.items():
        _check_option(key, option)
    config = _composed(tuple(f"{key}={option}" for key, option in {**choices, **groups}.items()))
    parts = {name: OmegaConf.to_container(config[name], resolve=False) for name in PARTS}
    known = [key for key in options.keys(parts) if not key.rpartition(".")[2].startswith("_")]
    for key, value in settings.items():
        if key in groups:
            continue
        if key not in known or key in PARTS:
            raise UsageError(
                f"There is no setting {key!r} of this method, solver and start{hint(key, known)} "
                f"The settings are {', '.join(name for name in known if name not in PARTS)}."
            )
        OmegaConf.update(config, key, value, merge=isinstance(value, Mapping))
    return config


def suggest_lr(config: DictConfig, lr: float) -> None:
    """Sets the step size that a task would suggest: that of solvers without one of their own."""
    OmegaConf.update(config, "suggest.inner_lr", lr, force_add=True)


def own_lr(config: DictConfig, lr: float | None) -> bool:
    """Whether the yaml of the solver has a step size of its own, as that of Adam has.

    Args:
        config: What `composed` returned.
        lr: Replaces that step size; None leaves it.
    """
    node = config.solver
    while "base" in node:
        node = node.base
    raw = OmegaConf.to_container(node, resolve=False)
    assert isinstance(raw, dict)
    if not isinstance(raw.get("lr"), int | float):
        return False
    if lr is not None:
        node.lr = lr
    return True


def _check_option(key: str, option: Any) -> None:
    group = key.partition("@")[0]
    known = options.names(group)
    if group.partition("/")[0] not in PARTS or not known:
        raise UsageError(
            f"Settings are those of method, solver and start, got {key!r}. Write for example "
            '{"method.max_steps": 20}.'
        )
    if option not in known:
        raise UsageError(
            f"{group} has no option {option!r}{hint(str(option), known)} It is one of "
            f"{', '.join(known)}."
        )


def _composed(overrides: tuple[str, ...]) -> DictConfig:
    return _cached(overrides).copy()


@functools.lru_cache(maxsize=64)
def _cached(overrides: tuple[str, ...]) -> DictConfig:
    """Kept, since it takes 0.15 s and an outer loop asks for it at every step."""
    with hydra_apart(), initialize_config_dir(str(options.CONF), version_base="1.3"):
        return compose("config", ["~task", "~data", "~model", *overrides])
