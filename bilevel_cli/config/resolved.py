"""The configuration as plain values."""

from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bilevel_cli.errors import UsageError
from bilevel_cli.records.settings import NOT_SETTINGS


def resolved(config: DictConfig) -> dict[str, Any]:
    """The settings of a run, with every interpolation filled in.

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
    """All of `config` with its interpolations filled in, to be sent to another process.

    There, Hydra is not running, and its own interpolations lead nowhere.

    Raises:
        UsageError: As in `resolved`.
    """
    resolved(config)
    return OmegaConf.to_container(config, resolve=True)
