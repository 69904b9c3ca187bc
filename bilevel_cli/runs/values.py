"""Wrong values, refused before torch is imported."""

from omegaconf import DictConfig

from bilevel_cli.config import early
from bilevel_cli.config.refused import check_composed
from bilevel_cli.config.resolved import check_resolves
from bilevel_cli.config.unread import check_read
from bilevel_cli.errors import UsageError
from bilevel_cli.runs import plan


def check_values(config: DictConfig, options: dict[str, str]) -> None:
    """Refuses wrong values, as far as plain values tell.

    Args:
        config: The composed configuration.
        options: The option chosen in each config group, for messages.

    Raises:
        UsageError: A value is wrong.
    """
    check_resolves(config, options)
    check_composed(config)
    check_read(config)
    early.check(config)
    try:
        plan.planned(config)
        plan.replicas(config)
    except ValueError as error:
        raise UsageError(str(error)) from error
