"""What every run needs, and ~key of a command line may have deleted."""

import functools
from collections.abc import Collection

import yaml
from omegaconf import DictConfig

from bilevel_cli.config.options import CONF
from bilevel_cli.errors import UsageError


def check_complete(config: DictConfig, keys: Collection[str] | None = None) -> None:
    """Refuses a configuration from which a setting of conf/config.yaml was deleted.

    Args:
        config: The whole configuration.
        keys: The entries at the top of `config` that are read; None for all.

    Raises:
        UsageError: One of them is not there.
    """
    there = set(config.keys())  # `in` would deny what cannot be interpolated
    for name in _required():
        if name not in there and (keys is None or name in keys):
            raise UsageError(f"A run needs {name}=..., got ~{name}. Leave that out.")


@functools.cache
def _required() -> tuple[str, ...]:
    content = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    return tuple(name for name in content if name not in ("defaults", "hydra"))
