"""Runs that are built in this process, for tests that look into them before they begin."""

from pathlib import Path

from configs import composed
from omegaconf import DictConfig

from bilevel_cli.config.resolved import resolved
from bilevel_cli.runs import build
from bilevel_cli.runs.runner import Runner


def built(directory: Path, *overrides: str) -> Runner:
    """The run of `bilevel-run device=cpu OVERRIDES...`, in a folder that is made if need be."""
    directory.mkdir(exist_ok=True)
    return runner_in(composed("device=cpu", *overrides), directory)


def runner_in(config: DictConfig, directory: Path, options: dict[str, str] | None = None) -> Runner:
    """The run of a configuration in a folder that is there.

    Args:
        config: The configuration.
        directory: The folder.
        options: The option chosen in each config group, for messages.
    """
    return build.build(config, resolved(config), directory, options or {})
