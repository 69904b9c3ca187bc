"""The options under conf/, found by globbing: a new one is tested without being listed."""

from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from bilevel_cli.options import CONF

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def small(task: str) -> list[str]:
    """Overrides with which a task takes milliseconds: the lines of tests/small/<task>.txt."""
    path = Path(__file__).parent / "small" / f"{task}.txt"
    return path.read_text().split() if path.exists() else []


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))
