"""What Hydra's launchers and sweepers do not say of themselves, and a sweep must know."""

from omegaconf import DictConfig, OmegaConf

# Hydra finds its plugins by loading their files once more: their classes are not the imported ones.
A_LIST = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def lists(config: DictConfig) -> bool:
    """Whether the sweeper of a sweep lists its jobs beforehand, as a search does not."""
    return bool(OmegaConf.select(config, "hydra.sweeper._target_") == A_LIST)
