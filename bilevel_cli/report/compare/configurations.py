"""Runs that differ by their seed alone are a configuration, named by what tells it from others."""

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bilevel_cli.errors import UsageError, hint
from bilevel_cli.records.plain import plain
from bilevel_cli.records.settings import NOT_OPTIONS
from bilevel_cli.report.read.runs import Run
from bilevel_cli.vocabulary import ENDED_BADLY

TARGET = "_target_"
# Where several groups would tell configurations apart, these name them rather than others.
FIRST = ("method", "task", "data")
BUNDLE = "experiment"  # a group whose options choose from the other groups: it comes last
LONGEST = 500  # letters of a label


@dataclass(frozen=True, eq=False)
class Configuration:
    """Runs that differ by their seed alone: a row of the table, a series of a plot.

    Attributes:
        label: Its name, such as "iaptt, lr 0.1".
        differing: The options that tell configurations apart, with their values; without those
            that this configuration does not have.
        runs: Its runs. Of a run that was run again, the last.
    """

    label: str
    differing: dict[str, Any]
    runs: list[Run]


def configurations(runs: list[Run], group_by: Sequence[str] | None = None) -> list[Configuration]:
    """The configurations of some runs.

    Their labels consist of few options. Options are tried one by one, choices from groups before
    settings, and one is taken where it tells apart configurations that had one label until then.
    So an option that always changes together with those before it is not shown.

    Args:
        runs: The runs.
        group_by: Options that alone distinguish configurations: groups, such as `method`, or
            settings, such as `optimizer.lr` or `lr`.

    Raises:
        UsageError: No run has an option that `group_by` names, or several have that name.
    """
    keys = {run: _everything(run) for run in runs}
    runs = _last(runs, keys)
    if group_by is None:
        groups = _grouped(runs, [keys.__getitem__])
        shown = needed(all_options(runs), [group[0] for group in groups])
    else:
        options = all_options(runs)
        shown = {name: options[full_name(name, options)] for name in group_by}
        groups = _grouped(runs, shown.values())
    groups.sort(key=lambda group: [_order(value(group[0])) for value in shown.values()])
    short = _short(shown)
    values = [
        {name: found for name, value in shown.items() if (found := value(group[0])) is not ABSENT}
        for group in groups
    ]
    chosen = config_groups(runs)
    labels = _labels(
        [_label(one, short, chosen, group[0]) for one, group in zip(values, groups, strict=True)]
    )
    return [
        Configuration(label, one, group)
        for label, one, group in zip(labels, values, groups, strict=True)
    ]


def differences(configurations: Sequence[Configuration]) -> dict[str, list[Any]]:
    """Every option that differs between configurations, with its values; "-" where it has none."""
    firsts = [configuration.runs[0] for configuration in configurations]
    found: dict[str, list[Any]] = {}
    for name, value in all_options(firsts).items():
        # A class says nothing new where the choice of its group is there.
        said = name.endswith(TARGET) and _group(name) in found
        if len(_grouped(firsts, [value])) > 1 and not said:
            found[name] = ["-" if (one := value(run)) is ABSENT else one for run in firsts]
    return found


class _Absent:
    """The value of an option that a run does not have."""


ABSENT = _Absent()
Value = Callable[[Run], Any]


def _last(runs: list[Run], keys: Mapping[Run, str]) -> list[Run]:
    """The runs without those that were run again later, with the same settings and seed.

    The last one counts, however it ended: to take the best would be to choose by the outcome.

    Args:
        runs: The runs.
        keys: `_everything` of each.
    """
    last: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: str(run.manifest.get("started") or "")):
        key = str(run.folder) if run.seed is None else f"{keys[run]} {key_of(run.seed)}"
        last[key] = run
    kept = set(last.values())
    return [run for run in runs if run in kept]


def _everything(run: Run) -> str:
    return key_of([{k: v for k, v in run.settings.items() if _is_option(k)}, run.choices])


@functools.lru_cache(maxsize=10_000)  # thousands of runs have the same names
def _is_option(name: str) -> bool:
    return name.split(".")[0] not in NOT_OPTIONS


_ENCODER = json.JSONEncoder(sort_keys=True, default=str)


def key_of(value: Any) -> str:
    """Equal for equal values, whatever they are."""
    return _ENCODER.encode(value)


def _grouped(runs: Iterable[Run], values: Iterable[Value]) -> list[list[Run]]:
    values, groups = list(values), dict[tuple[str, ...], list[Run]]()
    for run in runs:
        groups.setdefault(tuple(key_of(value(run)) for value in values), []).append(run)
    return list(groups.values())


def all_options(runs: Sequence[Run]) -> dict[str, Value]:
    """All options of some runs, in the order in which they are tried for labels."""
    settings = dict.fromkeys(name for run in runs for name in run.settings if _is_option(name))
    # Classes before numbers: a class may come with several numbers, and says more.
    ranked = sorted(settings, key=lambda name: not name.endswith(TARGET))
    groups = {group: choice(group) for group in sorted(config_groups(runs), key=_rank)}
    # A group from which a run chose nothing is among its settings, as null: not a second option.
    return groups | {name: _setting(name) for name in ranked if name not in groups}


def config_groups(runs: Sequence[Run]) -> list[str]:
    """The config groups from which the runs chose.

    Choices may be unknown: each class in the settings was chosen from a group too.
    """
    found = dict.fromkeys(group for run in runs for group in run.choices)
    for name in dict.fromkeys(name for run in runs for name in run.settings):
        if name.endswith(f".{TARGET}") and _is_option(name):
            found.setdefault(_group(name))
    return list(found)


def _group(target: str) -> str:
    """The config group whose options set this `_target_`: start for start._target_."""
    return target.removesuffix(f".{TARGET}").replace(".", "/")


def _rank(group: str) -> tuple[int, int]:
    place = FIRST.index(group) if group in FIRST else len(FIRST) + (group == BUNDLE)
    return (place, group.count("/"))


def choice(group: str) -> Value:
    """What a run chose from a group: the option, or else the name of the class."""

    def value(run: Run) -> Any:
        if group in run.choices:
            return run.choices[group]
        target = run.settings.get(f"{group.replace('/', '.')}.{TARGET}")
        return ABSENT if target is None else str(target).rpartition(".")[2]

    return value


def _setting(name: str) -> Value:
    return lambda run: run.settings.get(name, ABSENT)


def needed(options: Mapping[str, Value], runs: Sequence[Run]) -> dict[str, Value]:
    """The options that tell apart runs which the options taken before them do not."""
    taken: dict[str, Value] = {}
    parts, apart = [0] * len(runs), 1  # the part of each run, by the options taken so far
    for name, value in options.items():
        if apart == len(runs):
            break
        numbers: dict[tuple[int, str], int] = {}
        refined = [
            numbers.setdefault((part, key_of(value(run))), len(numbers))
            for part, run in zip(parts, runs, strict=True)
        ]
        if len(numbers) > apart:
            taken[name], parts, apart = value, refined, len(numbers)
    return taken


def full_name(name: str, options: Mapping[str, Value], asked: str = "--by") -> str:
    """The whole name of an option, of which only the end may be given where only one has that end.

    Args:
        name: The option, such as `lr` for `optimizer.lr`.
        options: All of the runs that may have it.
        asked: The option of the command that names it, for the error.

    Raises:
        UsageError: No run has it, or several options end in this name.
    """
    ends = [known for known in options if known.endswith(f".{name}") or known.endswith(f"/{name}")]
    if name not in options and len(ends) != 1:
        several = f": it may be {plain(', '.join(ends), 200)}." if ends else hint(name, options)
        raise UsageError(f"{asked} needs options of the runs, got {name}{several}")
    return name if name in options else ends[0]


def _order(value: Any) -> tuple[int, float, str]:
    if value is ABSENT or value is None:
        return (0, 0.0, "")
    if isinstance(value, int | float):
        return (1, float(value), "")
    return (2, 0.0, str(value))


def _short(names: Iterable[str]) -> dict[str, str]:
    """For each dotted name, the shortest end that no other has: lr for optimizer.lr."""
    names = list(names)
    short = {}
    for name in names:
        parts = name.split(".")
        ends = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        own = (e for e in ends if sum(f".{other}".endswith(f".{e}") for other in names) == 1)
        short[name] = next(own, name)  # lr itself, beside optimizer.lr, has no end of its own
    return short


def _label(values: dict[str, Any], short: dict[str, str], chosen: Sequence[str], run: Run) -> str:
    parts = [
        str(value) if name in chosen else f"{short[name]} {text(value)}"
        for name, value in values.items()
    ]
    return plain(", ".join(parts) or run.choices.get("method", ""), LONGEST) or run.name


def text(value: Any) -> str:
    """A value as one types it on a command line."""
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, default=str)


def _labels(labels: list[str]) -> list[str]:
    """The labels, with numbers behind those that are equal."""
    counts, seen = Counter(labels), Counter[str]()
    unique = []
    for label in labels:
        seen[label] += 1
        unique.append(f"{label} ({seen[label]})" if counts[label] > 1 else label)
    return unique


def name(configuration: Configuration) -> str:
    """The label of a configuration; "(failed)" follows where all its runs broke before any row."""
    runs = configuration.runs
    nothing = not any(len(run.train) or len(run.evals) for run in runs)
    failed = nothing and all(run.status in ENDED_BADLY for run in runs)
    return f"{configuration.label} (failed)" if failed else configuration.label
