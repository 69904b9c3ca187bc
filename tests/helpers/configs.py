"""The options under conf/, found by globbing: a new one is tested without being listed."""

import copy
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_repository import ConfigRepository
from hydra.plugins.config_source import ConfigResult
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from bilevel_cli.config.options import CONF, groups

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def settings_of(group: str, name: str) -> DictConfig:
    """What an option configures: its file, or what stands below the group in it."""
    whole = OmegaConf.load(CONF / group / f"{name}.yaml")
    assert isinstance(whole, DictConfig)
    found: DictConfig = whole.get(group, whole)
    return found


def class_of(group: str, name: str) -> Any:
    """The class behind an option: that of its file, or of the option that the file extends."""
    whole = OmegaConf.load(CONF / group / f"{name}.yaml")
    target = OmegaConf.select(whole, "_target_") or OmegaConf.select(whole, f"{group}._target_")
    if target is None:
        extended = next(one for one in whole.defaults if isinstance(one, str) and one != "_self_")
        return class_of(group, extended)
    return get_class(target)


def small(task: str) -> list[str]:
    """Overrides with which a task takes milliseconds: the lines of tests/small/<task>.txt."""
    path = Path(__file__).parents[1] / "small" / f"{task}.txt"
    return path.read_text().split() if path.exists() else []


def crossed(rows: Iterable[str], columns: Iterable[str], share: int) -> list[Any]:
    """All pairs for `parametrize`; by default each row meets one in `share` of the columns.

    So does each column of the rows. The other pairs are slow.
    """
    columns = list(columns)
    return [
        one_in(share, i + j, row, column)
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
    ]


def one_in(share: int, number: int, *values: Any) -> Any:
    """The values of one case of many; all but one in `share` are slow."""
    return pytest.param(*values, marks=[pytest.mark.slow] if number % share else [])


_load = ConfigRepository.load_config
_loaded: dict[str, ConfigResult | None] = {}


def _load_once(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
    """A file of conf/ or of Hydra, parsed once: which is a third of composing them."""
    if config_path not in _loaded:
        _loaded[config_path] = _load(repository, config_path)
    # Hydra writes into what it has loaded.
    return copy.deepcopy(_loaded[config_path])


@functools.cache
def _composed_once(*overrides: str) -> DictConfig:  # which takes longer than the smallest runs do
    once = patch.object(ConfigRepository, "load_config", _load_once)
    with once, initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def composed(*overrides: str) -> DictConfig:
    return copy.deepcopy(_composed_once(*overrides))


def configured(*overrides: str) -> DictConfig:
    """As `composed`, from options composed once: for many runs that take milliseconds."""
    chosen = [o for o in overrides if o.split("=")[0].split("@")[0] in groups()]
    values = [o for o in overrides if o not in chosen]
    config = OmegaConf.merge(_composed_once(*chosen), OmegaConf.from_dotlist(values))
    assert isinstance(config, DictConfig)
    return config
