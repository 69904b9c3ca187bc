"""The rows of a table once they are numbers."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from bilevel_cli.data.base import Labelled


class Pool(NamedTuple):
    """All rows of a table, as numbers.

    Attributes:
        rows: `x` is float64, with NaN for missing numbers.
        scaled: Which features are to be standardised, boolean, of shape [features].
        clean: Which rows are known to be clean, boolean, of shape [n], or None.
        class_names: Of the classes; empty for a real target.
        names: Of the rows, texts, of shape [n], or None.
        statement: What became of the columns.
    """

    rows: Labelled
    scaled: Tensor
    clean: Tensor | None
    class_names: list[str]
    names: NDArray[np.object_] | None
    statement: str


def filled(part: Labelled, train: Labelled) -> Labelled:
    """The part with the medians of the training part for missing numbers."""
    medians = torch.from_numpy(pd.DataFrame(train.x.numpy()).median().to_numpy(copy=True))
    # Zero where a column is missing in all of the training part.
    return replace(part, x=torch.where(part.x.isnan(), medians.nan_to_num(0.0), part.x))


def finished(part: Labelled) -> Labelled:
    # After scaling only: dates and numbers of nine digits have no room in float32.
    return replace(part, x=part.x.to(torch.get_default_dtype()))
