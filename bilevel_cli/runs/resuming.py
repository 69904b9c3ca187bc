"""Whether a checkpoint is one that a run can go on from."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from bilevel_cli.records.settings import flat

# A longer run extends a shorter one, and one that diverged may go on in another way: nothing
# changes about the steps already taken.
FREE = {"outer_steps", "budget", "on_divergence"}


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


def shapes(state: dict[str, Any]) -> dict[str, list[int]]:
    """The shapes of the outer parameters and memories in a checkpoint, by dotted names."""
    entries = flat({name: state[name] for name in ("outer", "carry")})
    return {name: list(x.shape) for name, x in entries.items() if isinstance(x, Tensor)}
