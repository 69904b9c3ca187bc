"""Settings by their dotted names, and which entries of a configuration are none."""

from collections.abc import Iterator, Mapping
from typing import Any

# The parts of a configuration that change no number of a run: where it writes, what a sweeper
# reads of it, which runs are beside it. A run notes the other parts as its settings.
NOT_SETTINGS = ("hydra", "loggers", "objective", "replicas", "resume")

# A job of a sweep is not run again if it was completed with the same settings. To the job, an
# objective and a number of replicas are settings too: with another objective it returns another
# number, and with more replicas it has more to run.
NOT_OF_A_JOB = tuple(name for name in NOT_SETTINGS if name not in ("objective", "replicas"))

# A run that goes on may go further, or otherwise where it diverged: nothing changes about the steps
# already taken.
LATER = ("outer_steps", "budget", "on_divergence")
# How the same steps are computed: all but the last digits of numbers stay.
HOW = ("device.capture",)

# So the folder of a job of a sweep is not named by them, nor by what is no setting. It is named by
# a number of replicas: they have folders of their own within that of the job.
NOT_IN_NAMES = (*LATER, *HOW, *(name for name in NOT_SETTINGS if name != "replicas"))

# A report compares runs by their options. These settings are none: runs that differ by their seed
# alone are repetitions, and a suggestion shows in the settings that are computed from it.
NOT_OPTIONS = ("seed", "suggest")


def chosen(options: Mapping[str, Any]) -> dict[str, str]:
    """The options of an experiment, by config group.

    Args:
        options: What Hydra notes as `runtime.choices`: its own groups too, and None for a group
            from which nothing was chosen.
    """
    return {
        str(group): str(option)
        for group, option in options.items()
        if option is not None and str(group).partition("/")[0] != "hydra"
    }


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dicts, by the names of the dicts above them joined by dots.

    An empty dict is a leaf.
    """
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    return dict(leaves(tree, f"{prefix}." if prefix else ""))


def leaves(tree: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of `flat`, one by one, for a dict that is not empty.

    Args:
        tree: Nested dicts.
        prefix: What is before each name.
    """
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
