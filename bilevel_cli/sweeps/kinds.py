"""What Hydra's launchers and sweepers do not say of themselves, and a sweep must know."""

import contextlib
import logging
from collections.abc import Iterator

from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from bilevel_cli.sweeps.suitable import Place

# Hydra finds its plugins by loading their files once more: their classes are not the imported ones.
ONE_BY_ONE = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
A_LIST = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def lists(config: DictConfig) -> bool:
    """Whether the sweeper of a sweep lists its jobs beforehand, as a search does not."""
    return bool(OmegaConf.select(config, "hydra.sweeper._target_") == A_LIST)


def total(config: DictConfig) -> int:
    """The jobs of a search, as far as it says so; 0 where it does not, and for lists."""
    trials = OmegaConf.select(config, "hydra.sweeper.n_trials")
    return trials if isinstance(trials, int) else 0


def place(launcher: Launcher, config: DictConfig) -> Place:
    """Where a launcher runs jobs."""
    process = OmegaConf.select(config, "hydra.launcher._target_") == ONE_BY_ONE
    # Joblib's has processes of this machine, and one of submitit's as well.
    machine = hasattr(launcher, "joblib") or getattr(launcher, "_EXECUTOR", "") == "local"
    return Place(process, process or machine, lists(config))


@contextlib.contextmanager
def folded(launcher: Launcher, config: DictConfig) -> Iterator[None]:
    """Keeps a launcher from listing its jobs, which the sweep tells itself.

    Not with `hydra.verbose`, which asks for all that Hydra says.
    """
    module = type(launcher).__module__
    plugin = module.startswith("hydra_plugins.")
    logger = logging.getLogger(".".join(module.split(".")[:2]) if plugin else module)
    before = logger.level
    if not config.hydra.verbose:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
