"""Runs that are built in this process, for tests that look into them before they begin."""

from pathlib import Path

from configs import composed

from bilevel_cli.runs import entry
from bilevel_cli.runs.runner import Runner


def built(directory: Path, *overrides: str) -> Runner:
    """The run of `bilevel-run device=cpu OVERRIDES...`, in a folder that is made if need be."""
    directory.mkdir(exist_ok=True)
    config = composed("device=cpu", *overrides)
    return entry.build(config, entry.resolved(config), directory, {})
