"""A table whose target has classes, one whose target is a real number, and one of several."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from pandas.api import types
from torch import Tensor

from bilevel_cli.data.base import Regression, Rows, Splits
from bilevel_cli.data.reading.numbering import numbered
from bilevel_cli.data.several_targets import SeveralTargets
from bilevel_cli.data.table import columns
from bilevel_cli.data.table.columns import Column
from bilevel_cli.data.table.name import Name
from bilevel_cli.data.table.source import OwnTable


class Table(OwnTable, Rows):
    """Rows of two or more classes, whose names may be any texts or numbers. Args: as `OwnTable`."""

    @cached_property
    def num_classes(self) -> int:  # type: ignore[override]  # known once the file is read
        return len(self.class_names)

    @property
    def class_names(self) -> list[str]:
        return self.pool.class_names

    has_classes = True

    def as_targets(self, column: Column) -> tuple[Tensor, list[str]]:
        where = f"column {column.name!r} of {self.path}"
        plain = types.is_numeric_dtype(column.dtype)  # booleans too
        values = column.to_numpy() if plain else column.map(str).to_numpy(object)
        if (count := len(pd.unique(values))) > self.max_levels:
            raise ValueError(
                f"{type(self).__name__} needs at most {self.max_levels} classes, got {count} in "
                f"{where}. Use data=regression_table for a real target, or raise data.max_levels."
            )
        return numbered(values, type(self).__name__, where)


class RegressionTable(OwnTable, Regression):
    """Rows with a real target, standardised by the training part. Args: as `OwnTable`."""

    def splits(self, generator: torch.Generator) -> Splits:
        parts = super().splits(generator)
        std, mean = torch.std_mean(parts.train.y, correction=0)
        std = torch.where(std > 0, std, 1)  # the target of a single row
        return Splits(*(replace(part, y=(part.y - mean) / std) for part in parts))

    has_classes = False

    def as_targets(self, column: Column) -> tuple[Tensor, list[str]]:
        return _amounts(column, self.name), []


class TargetsTable(OwnTable, SeveralTargets):
    """Rows with several real targets, each standardised by the training part.

    `target` lists their columns; the first is the main one. None of them is an input.

    Args: as `OwnTable`.
    """

    has_classes = False

    def several(self, target: str | list[str] | None) -> Sequence[str | None]:
        if target is None:  # which is refused with the columns that there are
            return [None]
        titles = [target] if isinstance(target, str) else list(map(str, target))
        if len(set(titles)) < 2 or len(set(titles)) < len(titles):
            raise ValueError(
                "TargetsTable needs two or more different columns, the main target first, got "
                f"{', '.join(titles) or 'none'}. Set 'data.target=[price,area]', say."
            )
        return titles

    @property
    def target_names(self) -> list[str]:  # type: ignore[override]  # known once it is constructed
        return list(map(str, self.targets))

    @property
    def class_counts(self) -> list[int | None]:  # type: ignore[override]  # likewise
        return [None] * len(self.targets)

    def splits(self, generator: torch.Generator) -> Splits:
        parts = super().splits(generator)
        std, mean = torch.std_mean(parts.train.y, dim=0, correction=0)
        std = torch.where(std > 0, std, 1)
        return Splits(*(replace(part, y=(part.y - mean) / std) for part in parts))

    def as_targets(self, column: Column) -> tuple[Tensor, list[str]]:
        return _amounts(column, self.name), []


def _amounts(column: Column, name: Name) -> Tensor:
    """The numbers of a column of real targets, of shape [n].

    Raises:
        ValueError: One of them is none.
    """
    amounts = pd.to_numeric(columns.in_days(column), errors="coerce")
    numbers = amounts.to_numpy(np.float64, na_value=np.nan)
    if types.is_bool_dtype(column.dtype) or not np.isfinite(numbers).all():
        raise columns.bad(column, ~np.isfinite(numbers), "finite numbers as targets", name)
    return torch.tensor(numbers, dtype=torch.get_default_dtype())
