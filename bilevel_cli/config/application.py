"""The program of Hydra's in which the package may be called."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from hydra import version
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobRuntime
from omegaconf import DictConfig

from bilevel_cli.config.options import CONF


@contextlib.contextmanager
def hydra_apart() -> Iterator[None]:
    """Hides the Hydra application in which this may be called, until the context ends."""
    application, base = GlobalHydra.instance().hydra, version.VersionBase.instance().getbase()
    job = JobRuntime.instance().get("name")
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = application
        version.VersionBase.instance().version_base = base
        JobRuntime.instance().set("name", job)


@contextlib.contextmanager
def composed(config: DictConfig) -> Iterator[None]:
    """Sets HydraConfig to a configuration while its settings are read: they may read Hydra's own.

    Not by `HydraConfig.set_config`, which makes a copy, for 4 ms, and leaves it read-only.
    """
    before = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = config  # type: ignore[assignment]
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def hydras_own(config: DictConfig) -> DictConfig | None:
    """The composed configuration with what is Hydra's own; None where Hydra does not run."""
    if "hydra" in config:
        return config
    found = HydraConfig.instance().cfg
    return found if isinstance(found, DictConfig) else None


def option_folders(own: DictConfig | None) -> tuple[Path, ...]:
    """The folders of options from which a configuration was composed: conf/ and those of a user.

    Args:
        own: What `hydras_own` returned.
    """
    sources = own.hydra.runtime.config_sources if own is not None else []
    found = [CONF, *(Path(one.path) for one in sources if one.provider not in ("hydra", "schema"))]
    return tuple(dict.fromkeys(found))
