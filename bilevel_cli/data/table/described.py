"""How each column was read, at one line each."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from bilevel_cli.data.table.columns import Encoded, Feature

LONGEST = 40  # letters of a value


def described(
    frame: pd.DataFrame, encoded: Encoded, roles: Mapping[str | None, str]
) -> Iterator[str]:
    """A line for each column: what it is, its features, what is missing, an example or the range.

    Args:
        frame: All columns.
        encoded: Those that serve as inputs.
        roles: What the others are for, by their titles.
    """
    for title, column in frame.items():
        missing = int(column.isna().sum())
        words = [f"{missing} missing"] * (missing > 0)
        feature = encoded.features.get(str(title))
        if str(title) in roles:
            words = [roles[str(title)], *words, *_example(column)]
        elif feature is None:
            words = ["left out", *words, *_example(column)]
        else:
            count = feature.values.shape[1]
            size = f"{count} feature{'s' * (count > 1)}"
            kind = "duration in days" if feature.kind == "duration" else feature.kind
            words = [kind, size, *words, *_range(column, feature)]
        yield f"{title}: {', '.join(words)}"


def remarks(class_names: Sequence[str], trimmed: int) -> Iterator[str]:
    """What became of the labels, a phrase each.

    Args:
        class_names: Of the classes.
        trimmed: How many labels had blanks at their ends.
    """
    if trimmed:
        yield f"{trimmed} label{'s' * (trimmed > 1)} trimmed"
    yield from alike(class_names)


def alike(class_names: Sequence[str]) -> Iterator[str]:
    """Which classes only upper and lower case tell apart, a phrase for each group of them."""
    groups: dict[str, list[str]] = {}
    for name in class_names:
        groups.setdefault(name.casefold(), []).append(name)
    for names in groups.values():
        if len(names) > 1:
            yield f"classes {' and '.join(map(repr, names))} differ in case alone"


def _range(column: pd.Series, feature: Feature) -> list[str]:
    if feature.kind in ("number", "duration"):
        amounts = feature.values[:, 0]
        return [f"{np.nanmin(amounts):g} to {np.nanmax(amounts):g}"]
    if feature.kind == "date":
        days = feature.values[:, 0]
        first, last = (np.datetime64(int(day), "D") for day in (np.nanmin(days), np.nanmax(days)))
        return [f"{first} to {last}"]
    return _example(column)


def _example(column: pd.Series) -> list[str]:
    present = column.dropna()
    return [f"such as {str(present.iloc[0])[:LONGEST]!r}"] if len(present) else []
