"""Settings by their dotted names; imports nothing, so that a report starts at once."""

from typing import Any

# Where a run goes, what a sweeper reads of it, which runs are beside it: they change no number.
NOT_SETTINGS = ("hydra", "loggers", "objective", "replicas", "resume")


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dicts, by the names of the dicts above them joined by dots.

    An empty dict is a leaf.
    """
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    joint = "." if prefix else ""
    pairs = [flat(value, f"{prefix}{joint}{key}").items() for key, value in tree.items()]
    return {key: value for part in pairs for key, value in part}
