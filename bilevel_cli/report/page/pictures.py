"""Pictures for the page of what runs left besides tables: one function for each kind of file.

A file is known by its name and its columns, whichever task wrote it. To show another kind, write a
function from the folder of a run to HTML, or to None where there is nothing to show, and add it to
`KINDS`.
"""

import base64
import io
import warnings as python_warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bilevel_cli.report.compare.configurations import Configuration
from bilevel_cli.report.page.markup import escape
from bilevel_cli.report.read import bounded, tables
from bilevel_cli.report.read.bounded import Unread
from bilevel_cli.report.show.curves import LARGEST

MOST_BYTES = 4_000_000  # of all pictures together, so that a browser still opens the page
BINS = 40  # of a histogram
WIDTH, HEIGHT, LEFT, FOOT = 320, 150, 8, 34  # of a plot and its margins, in units of its view box
PNG = b"\x89PNG\r\n\x1a\n"


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
    """The picture distilled.png as it is."""
    content = bounded.content(folder / "distilled.png", MOST_BYTES)
    if content is None:
        return None
    if not content.startswith(PNG):
        return _note("distilled.png is not a PNG file.")
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    picture = f'<img src="{source}" alt="Distilled images, a row for each class">'
    return f"{picture}<figcaption>Distilled images, a row a class</figcaption>"


def weights(folder: Path) -> str | None:
    """A histogram of the weights of examples in weights.csv, flagged examples apart."""
    table = _table(folder / "weights.csv")
    if table is None or "weight" not in table:
        return None
    values = _numbers(table["weight"])
    if not np.isfinite(values).any():
        return _note("weights.csv has no finite weight.")
    if "flag" not in table:
        groups = {"all examples": values}
    else:
        flagged = _numbers(table["flag"]) == 1
        groups = {"not flagged": values[~flagged], "flagged as corrupted": values[flagged]}
    return _histogram("Weights of training examples", groups)


def penalties(folder: Path) -> str | None:
    """From hyperparameters.csv with log_l2 and weight: each feature's weight, by its penalty."""
    table = _table(folder / "hyperparameters.csv")
    if table is None or not {"log_l2", "weight"} <= {*table.columns}:
        return None
    x, y = _numbers(table["log_l2"]), np.abs(_numbers(table["weight"]))
    both = np.isfinite(x) & np.isfinite(y)
    if not both.any():
        return _note("hyperparameters.csv has no finite number.")
    return _scatter("|weight| of each feature, by the log of its penalty", x[both], y[both])


def best_row(folder: Path) -> str | None:
    """From hyperparameters.csv with a column best: the row that it marks."""
    table = _table(folder / "hyperparameters.csv")
    if table is None or "best" not in table or not (table["best"] == 1).any():
        return None
    row = table[table["best"] == 1].iloc[0].drop("best")
    items = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{escape(_short(value))}</td></tr>"
        for name, value in row.items()
    )
    caption = "<figcaption>Hyperparameters of least validation loss</figcaption>"
    return f'<div class="scroll"><table class="plain">{items}</table></div>{caption}'


KINDS: tuple[Callable[[Path], str | None], ...] = (distilled, weights, penalties, best_row)


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


def _histogram(title: str, groups: dict[str, NDArray[np.float64]]) -> str:
    every = np.concatenate(list(groups.values()))
    every = every[np.isfinite(every)]
    low, high = float(every.min()), float(every.max())
    if low >= 0 and high <= 1:  # shares, as most weights are, have the same axis in all pictures
        low, high = 0.0, 1.0
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    counts = {name: np.histogram(values, edges)[0] for name, values in groups.items()}
    tallest = max(int(count.max()) for count in counts.values()) or 1
    step = (WIDTH - 2 * LEFT) / BINS
    bars = []
    for index, count in enumerate(counts.values()):
        tops = (1 - count / tallest) * HEIGHT
        path = "".join(
            f"V{top:.1f}H{LEFT + (i + 1) * step:.1f}" for i, top in enumerate(tops.tolist())
        )
        bars.append(f'<path class="part{index}" d="M{LEFT} {HEIGHT}{path}V{HEIGHT}Z"/>')
    legend = "".join(
        f'<span class="key"><i class="part{index}"></i>{name} ({len(values)})</span>'
        for index, (name, values) in enumerate(groups.items())
    )
    label = f"{title}: " + ", ".join(
        f"{name}, {len(values)}, median {np.nanmedian(values):.3g}"
        for name, values in groups.items()
        if np.isfinite(values).any()
    )
    plot = _plot(label, "".join(bars), float(edges[0]), float(edges[-1]))
    return f"{plot}<figcaption>{title}<br>{legend}</figcaption>"


def _scatter(title: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    left, right, top = float(x.min()), float(x.max()), float(y.max()) or 1.0
    width = right - left or 1.0
    dots = "".join(
        f'<circle class="part0" r="3" cx="{LEFT + (a - left) / width * (WIDTH - 2 * LEFT):.1f}"'
        f' cy="{HEIGHT - b / top * (HEIGHT - 10):.1f}"/>'
        for a, b in zip(x.tolist(), y.tolist(), strict=True)
    )
    label = f"{title}: {len(x)} features"
    return f"{_plot(label, dots, left, right)}<figcaption>{title}</figcaption>"


def _plot(label: str, marks: str, left: float, right: float) -> str:
    middle = (left + right) / 2
    ticks = "".join(
        f'<text x="{x}" y="{HEIGHT + 18}" text-anchor="{anchor}">{_short(value)}</text>'
        for x, value, anchor in (
            (LEFT, left, "start"),
            (WIDTH / 2, middle, "middle"),
            (WIDTH - LEFT, right, "end"),
        )
    )
    line = f'<line x1="{LEFT}" x2="{WIDTH - LEFT}" y1="{HEIGHT}" y2="{HEIGHT}"/>'
    box = f"0 0 {WIDTH} {HEIGHT + FOOT - 10}"
    name = escape(label)
    return f'<svg viewBox="{box}" role="img" aria-label="{name}">{marks}{line}{ticks}</svg>'


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float | np.number) else str(value)


def _note(text: str) -> str:
    return f"<figcaption>{escape(text)}</figcaption>"
