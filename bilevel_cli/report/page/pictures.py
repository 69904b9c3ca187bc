"""Pictures for the page of what runs left besides tables: one function for each kind of file.

A file is known by its name and its columns, whichever task wrote it. To show another kind, write a
function from the folder of a run to HTML, or to None where there is nothing to show, and add it to
`KINDS`.
"""

import base64
import io
import math
import warnings as python_warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bilevel_cli.report.compare.configurations import Configuration
from bilevel_cli.report.costs import SECONDS, STEP
from bilevel_cli.report.page import charts
from bilevel_cli.report.page.charts import short
from bilevel_cli.report.page.markup import escape
from bilevel_cli.report.read import bounded, tables
from bilevel_cli.report.read.bounded import Unread
from bilevel_cli.report.show.cells import words
from bilevel_cli.report.show.curves import LARGEST

MOST_BYTES = 4_000_000  # of all pictures together, so that a browser still opens the page
MOST_ROWS = 15  # of a table of rows, the most telling first
MOST_LETTERS = 40  # of a cell of such a table
PNG = b"\x89PNG\r\n\x1a\n"
GAP = 2  # pixels between two images of distilled.png
NARROW, LARGE = 240, 92  # pixels: a narrower picture is cut, and how wide its parts are shown
MOST_PARTS, MOST_PIXELS = 200, 10_000  # of a picture, and of its width
BEST, FLAG, WEIGHT, SUGGESTED = "best", "flag", "weight", "suggested"
SHEET, PARTS = "Distilled images, a row for each class", "Distilled images, in the order of classes"
SCORES = ("validation_", "test_", "train_")  # how columns of scores begin


class Picture(NamedTuple):
    """A picture of one run.

    Attributes:
        series: The number of its configuration.
        run: The name of the run.
        html: The picture and its caption.
    """

    series: int
    run: str
    html: str


def found(configurations: Sequence[Configuration]) -> tuple[list[Picture], int]:
    """The pictures of the first run of each configuration that left any.

    Returns:
        The pictures, and how many more did not fit into `MOST_BYTES`.
    """
    pictures, left_out, size = [], 0, 0
    for number, configuration in enumerate(configurations):
        for run in configuration.runs:
            texts = [text for kind in KINDS for text in _tried(kind, run.folder)]
            for text in texts:
                if size + len(text) > MOST_BYTES:
                    left_out += 1
                    continue
                size += len(text)
                pictures.append(Picture(number, run.name, text))
            if texts:
                break
    return pictures, left_out


def distilled(folder: Path) -> str | None:
    """The picture distilled.png, large enough to see its images."""
    content = bounded.content(folder / "distilled.png", MOST_BYTES)
    if content is None:
        return None
    if not content.startswith(PNG) or len(content) < 24:
        return _note("distilled.png is not a PNG file.")
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    # Square images in one column have this side; in several, it is that of some rows of them.
    side = math.gcd(width + GAP, height + GAP)
    parts = (height + GAP) // side
    if width < NARROW and side > GAP and 1 < parts <= MOST_PARTS:
        return _side_by_side(source, width, height, side)
    size = f'width="{width}" height="{height}"' if max(width, height) <= MOST_PIXELS else ""
    picture = f'<div class="scroll sheet"><img src="{source}" {size} alt="{SHEET}"></div>'
    return f"{picture}<figcaption>{SHEET}</figcaption>"


def _side_by_side(source: str, width: int, height: int, side: int) -> str:
    """A tall picture cut into parts that stand side by side, since a page is wide."""
    name = f"sheet{zlib.crc32(source.encode()):x}"
    shown = max(width, LARGE)
    whole = f'<image id="{name}" href="{source}" width="{width}" height="{height}"/>'
    parts = "".join(
        f'<svg viewBox="0 {top} {width} {side - GAP}" width="{shown}"><use href="#{name}"/></svg>'
        for top in range(0, height, side)
    )
    hidden = f'<svg width="0" height="0"><defs>{whole}</defs></svg>'
    picture = f'<div class="parts" role="img" aria-label="{PARTS}">{hidden}{parts}</div>'
    return f"{picture}<figcaption>{PARTS}</figcaption>"


def weights(folder: Path) -> str | None:
    """A histogram of the weights of examples in weights.csv, flagged examples apart."""
    table = _table(folder / "weights.csv")
    if table is None or WEIGHT not in table:
        return None
    values = _numbers(table[WEIGHT])
    if not np.isfinite(values).any():
        return _note("weights.csv has no finite weight.")
    if FLAG not in table:
        groups = {"all examples": values}
    else:
        flagged = _numbers(table[FLAG]) == 1
        groups = {"not flagged": values[~flagged], "flagged as corrupted": values[flagged]}
    return charts.histogram("Weights of training examples", groups)


def suspects(folder: Path) -> str | None:
    """From weights.csv with labels and suggestions: the examples whose labels are least trusted."""
    table = _table(folder / "weights.csv")
    if table is None or not {"index", WEIGHT, "label", SUGGESTED} <= {*table.columns}:
        return None
    values = _numbers(table[WEIGHT])
    judged = int(np.isfinite(values).sum())
    if not judged:
        return None
    order = np.argsort(values, kind="stable")[: min(judged, MOST_ROWS)]  # NaN comes last
    shown = table.iloc[order]
    flags = FLAG in table
    head = ["example", "label", "suggested", "weight", *(["flagged"] if flags else [])]
    rows, another = [], 0
    for (_, row), weight in zip(shown.iterrows(), values[order], strict=True):
        name, label, suggested = (_cut(row[column]) for column in ("index", "label", SUGGESTED))
        another += label != suggested
        suggestion = escape(suggested) if label == suggested else f"<b>{escape(suggested)}</b>"
        flag = ["yes" if row[FLAG] == 1 else "no"] if flags else []
        rows.append([escape(name), escape(label), suggestion, f"{weight:.3g}", *flag])
    caption = (
        f"The {len(rows)} of {judged:,} training examples of least weight, whose labels are most "
        f"suspicious. For {another} of them the classifier suggests another label."
    )
    return _rows(head, rows, caption)


def penalties(folder: Path) -> str | None:
    """From hyperparameters.csv with log_l2 and weight: each feature's weight, by its penalty."""
    table = _table(folder / "hyperparameters.csv")
    if table is None or not {"log_l2", "weight"} <= {*table.columns}:
        return None
    x, weight = _numbers(table["log_l2"]), _numbers(table["weight"])
    both = np.isfinite(x) & np.isfinite(weight)
    if not both.any():
        return _note("hyperparameters.csv has no finite number.")
    features = table["feature"] if "feature" in table else pd.Series(range(len(table)))
    names = [_cut(feature) for feature in features[both]]
    x, weight = x[both], weight[both]
    hints = [
        f"feature {name}: log penalty {a:.3g}, weight {b:.3g}"
        for name, a, b in zip(names, x.tolist(), weight.tolist(), strict=True)
    ]
    title = "|weight| of each feature, by the log of its penalty"
    picture = charts.scatter(title, x, np.abs(weight), hints)
    order = np.argsort(-np.abs(weight), kind="stable")[:MOST_ROWS]
    with np.errstate(over="ignore"):
        rows = [
            [escape(names[n]), f"{np.exp(x[n]):.3g}", f"{x[n]:.3g}", f"{weight[n]:.3g}"]
            for n in order
        ]
    caption = f"The {len(rows)} of {len(x):,} features of largest weight"
    return picture + _rows(["feature", "penalty", "its log", "weight"], rows, caption)


def learned_values(folder: Path) -> str | None:
    """From hyperparameters.csv with a column best: what was learned, at first and where best."""
    table = _table(folder / "hyperparameters.csv")
    if table is None or BEST not in table or not (table[BEST] == 1).any():
        return None
    place = int(np.argmax(table[BEST] == 1))
    apart = {STEP, SECONDS, BEST}
    values = {str(n): _numbers(table[n]) for n in table.columns if n not in apart}
    scores = {name: some for name, some in values.items() if name.startswith(SCORES)}
    rows = [
        [
            f"<code>{escape(name)}</code>",
            short(float(some[0])),
            f"<b>{short(float(some[place]))}</b>",
            charts.spark(some, place),
        ]
        for name, some in values.items()
        if name not in scores
    ]
    if STEP in table:
        step = short(float(_numbers(table[STEP])[place]))
        where = f"after {step} of {short(float(_numbers(table[STEP])[-1]))} outer steps"
    else:
        where = f"in row {place + 1} of {len(table)}"
    reached = ", ".join(f"{words(n)} {short(float(some[place]))}" for n, some in scores.items())
    caption = f"Hyperparameters of least validation loss, {where}"
    caption += f": {escape(reached)}" if reached else ""
    return _rows(["learned", "at first", "best", "its course"], rows, caption, "wide")


KINDS: tuple[Callable[[Path], str | None], ...] = (
    distilled,
    weights,
    suspects,
    penalties,
    learned_values,
)


def _tried(kind: Callable[[Path], str | None], folder: Path) -> Iterable[str]:
    """The picture, if there is one; a note where its file cannot be read."""
    try:
        text = kind(folder)
    except (Unread, Warning, ValueError) as error:  # errors of pandas and Unicode are ValueErrors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        text = _note(f"The {kind.__name__.replace('_', ' ')} cannot be read: {reason}")
    return [] if text is None else [text]


def _table(path: Path) -> pd.DataFrame | None:
    """A table of the user's own columns; None where there is none."""
    content = bounded.content(path, tables.MOST_BYTES)
    if content is None:
        return None
    if content.partition(b"\n")[0].count(b",") >= tables.MOST_COLUMNS:
        raise Unread(f"has more than {tables.MOST_COLUMNS} columns")
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("error")  # as of rows that are longer than the header
        return pd.read_csv(io.BytesIO(content), index_col=False, low_memory=False)


def _numbers(column: "pd.Series[float]") -> NDArray[np.float64]:
    values = pd.to_numeric(column, errors="coerce").to_numpy(float)
    return np.where(np.abs(values) <= LARGEST, values, np.nan)


def _cut(value: object) -> str:
    text = short(value)
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 3]}..."


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str, kind: str = "") -> str:
    """A table of cells that are HTML already, below its caption."""
    titles = "".join(f'<th scope="col">{title}</th>' for title in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"
    return f'<figcaption>{caption}</figcaption><div class="scroll rows {kind}">{table}</div>'


def _note(text: str) -> str:
    return f"<figcaption>{escape(text)}</figcaption>"
