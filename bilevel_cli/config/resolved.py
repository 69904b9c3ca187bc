"""The configuration as plain values."""

from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bilevel_cli.errors import UsageError
from bilevel_cli.records.settings import NOT_SETTINGS


def resolved(config: DictConfig) -> dict[str, Any]:
    """The configuration with every interpolation filled in, as plain values.

    Raises:
        UsageError: An interpolation leads nowhere, or a mandatory value is missing.
    """
    try:
        settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"{error.full_key}: {str(error).splitlines()[0]}.") from error
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items() if key not in NOT_SETTINGS}


def plain(config: DictConfig) -> Any:
    """`config` with its interpolations filled in: other processes know nothing of Hydra's own."""
    resolved(config)  # which says where one leads nowhere
    return OmegaConf.to_container(config, resolve=True)
