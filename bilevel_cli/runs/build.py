"""Makes the runner of a configuration."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from bilevel_cli.config.objects import make, parts
from bilevel_cli.errors import UsageError
from bilevel_cli.machine.minibatches import sharing
from bilevel_cli.machine.ranks import ALONE, Ranks
from bilevel_cli.runs.experiment import Experiment, Identity, Machine
from bilevel_cli.runs.origin import origin
from bilevel_cli.runs.plan import planned
from bilevel_cli.runs.runner import Runner


def build(
    config: DictConfig,
    settings: dict[str, Any],
    directory: Path,
    options: dict[str, str],
    ranks: Ranks = ALONE,
) -> Runner:
    """Builds all objects of a run, and checks that they fit together.

    Raises:
        UsageError: They do not.
    """
    try:
        device, where, task, loop, method = parts(config, options)
        ranks = sharing(ranks, task)
        metrics = {name: make(config, f"metrics.{name}") for name in config.get("metrics") or {}}
        plan = planned(config)
        optimizer = make(config, "optimizer", later="params")
        scheduler = make(config, "scheduler", later="optimizer")
        runner = Runner(
            Experiment(task, ranks.posed(loop), method, optimizer, scheduler, metrics),
            Machine(where, device.episodes_chunk, device.capture, ranks),
            plan,
            Identity(settings, origin(where, task.checksum)),
            directory,
        )
        objective = config.get("objective")
        runner.rows.objective = None if objective is None else str(objective)
        return runner
    except ValueError as error:
        raise UsageError(str(error)) from error
