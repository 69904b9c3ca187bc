"""The door of this room: examines the labels of a table."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hydra
import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig

from bilevel_cli.config.objects import make
from bilevel_cli.config.options import CONF
from bilevel_cli.core.random import DATA, generator
from bilevel_cli.data.base import Examples
from bilevel_cli.labels import forests
from bilevel_cli.labels.error_rates import Numbers, judged
from bilevel_cli.labels.opinion_pool import pooled
from bilevel_cli.labels.own_file import ADDED, OwnFile, Wanted
from bilevel_cli.runs import entry
from bilevel_cli.tasks.reweighting.folds import PROBABILITIES

REWEIGHTED = "reweighted"  # the linear classifier that the bilevel run leaves


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        rows: Number of rows whose labels were judged.
        count: Estimated number of wrong labels.
        low: Lower end of its 95 % interval.
        high: Its upper end.
        columns: Of shape [n, 4], in the order of the file: label_suspect, 1 for the first `named`
            rows of the ranking; suggested_label; confidence, the probability that the label is
            wrong; rank, from 1. Rows of rare classes have 0 and nothing else.
        weights: How much each classifier counts, by its name; the sum is 1.
    """

    rows: int
    count: float
    low: float
    high: float
    columns: pd.DataFrame
    weights: dict[str, float]

    @property
    def named(self) -> int:
        """How many rows are named: as many as labels are probably wrong."""
        return round(self.count)

    @property
    def expected(self) -> float:
        """How many of the named rows have a wrong label, as far as the model knows."""
        return float(self.columns.loc[self.columns["label_suspect"] == 1, "confidence"].sum())


def examine(wanted: Wanted, own: OwnFile, folder: Path, tell: Callable[[str], None]) -> Finding:
    """Runs `experiment=label_errors` in a folder, and judges every label by it and by trees.

    Args:
        wanted: What the user asked for.
        own: The table, which serves.
        folder: Of the run.
        tell: Told what is being done, in a few words.

    Raises:
        UsageError: The run refuses the table.
        Failed: The run broke.
        Interrupted: By a signal.
    """
    config = _config(wanted, own)
    tell(f"learning a weight for each of {len(own.text):,} rows")
    entry.run(config, folder, {"task": "reweight", "data": "table"})
    table = pd.read_csv(folder / PROBABILITIES)
    fold, expected = table.iloc[:, 1].to_numpy(np.int64), table.iloc[:, 2:].to_numpy(np.float64)
    x, labels, names = _rows(config)
    opinions = {REWEIGHTED: expected}
    for name, kind in forests.KINDS.items():
        tell(f"growing a {name}" if name.endswith("forest") else f"growing {name}")
        opinions[name] = forests.out_of_fold(kind, x, labels, fold, wanted.seed)
    tell("estimating how many labels are wrong")
    common = np.array([name not in own.rare for name in names])
    return judge(opinions, labels, np.array(names, dtype=object), common)


def _config(wanted: Wanted, own: OwnFile) -> DictConfig:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("config", ["experiment=label_errors", "data=table"])

    def literal(text: object) -> str:
        return str(text).replace("${", r"\${")  # a name, and no reference to a setting

    config.data.path = literal(wanted.path.absolute())
    config.data.target = literal(wanted.target)
    for setting, value in vars(wanted.dialect).items():
        plain = isinstance(value, bool | None)
        many = isinstance(value, tuple)
        config.data[setting] = (
            [literal(one) for one in value] if many else value if plain else literal(value)
        )
    unused = [*wanted.drop, *([wanted.row_id] if wanted.row_id else []), *own.left_out]
    config.data.drop = [literal(title) for title in unused if title != wanted.target]
    config.seed, config.task.folds = wanted.seed, wanted.folds
    return config


def _rows(config: DictConfig) -> tuple[Numbers, np.ndarray, list[str]]:
    """Features of shape [n, features], labels of shape [n], in the order of the file; classes."""
    data: Examples = make(config, "data")
    parts = data.splits(generator(config.seed, DATA))
    order = torch.cat([part.index for part in parts]).argsort()
    x, y = (torch.cat([getattr(part, name) for part in parts])[order] for name in ("x", "y"))
    return x.double().numpy(), y.numpy(), data.class_names


def judge(
    opinions: dict[str, Numbers], labels: np.ndarray, names: np.ndarray, common: np.ndarray
) -> Finding:
    """The finding on the rows of common classes, which are numbered anew.

    Args:
        opinions: Of shape [n, C], by classifier.
        labels: Of shape [n].
        names: Of the classes, of shape [C].
        common: Which classes are no rare ones, boolean, of shape [C].
    """
    kept = common[labels].nonzero()[0]
    number = common.cumsum() - 1
    shown = {name: _among(opinion[kept], common) for name, opinion in opinions.items()}
    y = number[labels[kept]]
    pool, weights = pooled(shown, y)
    verdict = judged(pool, y)
    n, count = len(labels), round(verdict.count)
    order = kept[np.argsort(-verdict.wrong, kind="stable")]
    suspect, rank = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    suspect[order[:count]], rank[order] = 1, np.arange(1, len(order) + 1)
    suggested, confidence = np.full(n, "", dtype=object), np.full(n, np.nan)
    suggested[kept] = names[common][verdict.suggested]
    confidence[kept] = verdict.wrong
    values = (suspect, suggested, confidence, pd.array(rank, dtype="Int64"))
    columns = pd.DataFrame(dict(zip(ADDED, values, strict=True)))
    columns.loc[rank == 0, "rank"] = pd.NA
    return Finding(len(kept), verdict.count, verdict.low, verdict.high, columns, weights)


def _among(opinion: Numbers, common: np.ndarray) -> Numbers:
    """The probabilities of the common classes, given that it is one of them."""
    some = opinion[:, common] + np.finfo(float).tiny
    return some / some.sum(1, keepdims=True)
