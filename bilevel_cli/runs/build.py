"""Makes the runner of a configuration."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from bilevel_cli.config.objects import Posed, make, parts
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
    known: Posed | None = None,
) -> Runner:
    """Builds all objects of a run, and checks that they fit together.

    Args:
        config: The composed configuration.
        settings: What a checkpoint must agree with to be continued.
        directory: The folder of the run.
        options: The option chosen in each config group, for messages.
        ranks: The processes that share the run.
        known: As in `objects.parts`.

    Raises:
        UsageError: They do not.
    """
    try:
        device, where, task, loop, method = parts(config, options, known)
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
