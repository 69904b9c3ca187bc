"""Whether a checkpoint is one that a run can go on from."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from bilevel_cli.records.settings import HOW, LATER, flat
from bilevel_cli.runs import averaged
from bilevel_cli.runs.experiment import Identity
from bilevel_cli.runs.plan import Plan

log = logging.getLogger(__name__)


def check(
    saved: dict[str, Any], here: dict[str, Any], identity: Identity, plan: Plan, folder: Path
) -> None:
    """Raises ValueError where it is not; warns of what may move the last digits of numbers.

    Args:
        saved: The checkpoint.
        here: What a checkpoint of this run would hold now.
        identity: Of this run.
        plan: Of this run.
        folder: Where the checkpoint is.
    """
    # An average that was not asked for when the run began is a setting that differs: see below.
    if missing := here.keys() - saved.keys() - {averaged.NAME}:
        raise ValueError(
            f"A run that goes on needs a checkpoint of this version, got one in "
            f"{folder} without {', '.join(sorted(missing))}. "
            "Use the version that wrote it, or another hydra.run.dir."
        )
    if saved["step"] > plan.schedule.outer_steps:
        raise ValueError(
            f"{folder} holds a run of {saved['step']} outer steps, got "
            f"outer_steps={plan.schedule.outer_steps}. Raise it, or use another directory."
        )
    reasons = _others(saved, identity, folder)
    if reasons and plan.resume != "force":
        raise ValueError(
            f"{' '.join(reasons)} Use those, or another hydra.run.dir; resume=force goes on."
        )
    for reason in reasons:
        log.warning("%s It goes on, since resume=force.", reason)
    if reasons and (changed := differing(_shapes(saved), _shapes(here))):
        raise ValueError(
            f"A run that goes on needs tensors of the same shapes, got in {folder} "
            f"{', '.join(list(changed.values())[:3])}. Use another hydra.run.dir."
        )


def differing(old: Any, new: Any, free: Iterable[str] = ()) -> dict[str, str]:
    """What changed between two nested dicts: a few words for each leaf, by its dotted name.

    Args:
        old: Of the checkpoint.
        new: Of this run.
        free: Dotted names that may change.
    """
    before, now = ({n: v for n, v in flat(tree).items() if v != {}} for tree in (old, new))
    return {
        name: f"{name}={before.get(name)} there and {now.get(name)} here"
        for name in sorted((before.keys() | now.keys()) - set(free))
        if before.get(name) != now.get(name)
    }


def _others(saved: dict[str, Any], identity: Identity, folder: Path) -> list[str]:
    """In what the checkpoint is of another run: a sentence each, which resume=force overrules.

    Raises:
        ValueError: It is of another device, which nothing overrules.
    """
    settings = differing(saved["settings"], identity.settings, LATER)
    how = {name: settings.pop(name) for name in HOW if name in settings}
    origin = differing(saved["origin"], identity.origin)
    if change := origin.pop("device", None):
        raise ValueError(
            f"{folder} holds a run on another device, whose random numbers cannot go "
            f"on here: {change}. Use that, or another hydra.run.dir."
        )
    data = [change] if (change := origin.pop("data", None)) else []
    if otherwise := {**how, **origin}:
        log.warning(
            "%s goes on otherwise than it began: %s. Numbers may differ in their last digits.",
            folder,
            ", ".join(otherwise.values()),
        )
    return [
        f"{folder} holds a run with other {what}: {', '.join(changes)}."
        for what, changes in (("settings", settings.values()), ("data", data))
        if changes
    ]


def _shapes(state: dict[str, Any]) -> dict[str, list[int]]:
    """The shapes of the outer parameters and memories in a checkpoint, by dotted names."""
    entries = flat({name: state[name] for name in ("outer", "carry")})
    return {name: list(x.shape) for name, x in entries.items() if isinstance(x, Tensor)}
