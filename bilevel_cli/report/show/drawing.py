"""A figure of matplotlib in a file, PNG, SVG or PDF: the same bytes every time."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevel_cli.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")

# The same bytes every time: no dates, no names from a random salt. No TeX: letters stay letters.
STYLE: dict[str, Any] = {
    "font.size": 8,
    "font.family": "DejaVu Sans",  # ships with matplotlib
    "axes.labelsize": 8,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.3,
    "grid.linewidth": 0.4,
    "grid.color": "#e3e3e3",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "bilevel-report",
    "savefig.dpi": 300,
    "text.usetex": False,
    "text.parse_math": False,  # a dollar in a label is a dollar
}
# A PNG has no date in the first place.
METADATA = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def check_suffix(option: str, path: Path) -> None:
    """Raises UsageError where the file that an option names ends in none of `SUFFIXES`."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{option} needs a file ending in {', '.join(SUFFIXES)}, got {path}.")


@contextlib.contextmanager
def drawing(option: str, path: Path) -> Iterator["Figure"]:
    """A figure to draw on, which is written to a file at the end.

    Args:
        option: That asked for it, for messages.
        path: The file; its suffix is the format.

    Raises:
        UsageError: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib import style  # here: only a figure needs it
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            f"{option} needs matplotlib, got a Python without it. pip install 'bilevel-cli[report]'"
        ) from error
    suffix = path.suffix.lower()
    with style.context(STYLE, after_reset=True):  # a matplotlibrc of this machine changes nothing
        figure = Figure(layout="constrained")
        yield figure
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Glyph")  # one that the font lacks is a box
                figure.savefig(path, format=suffix[1:], metadata=METADATA[suffix])
        except OSError as error:
            raise UsageError(
                f"{option} needs a file that can be written, got {path}: {error.strerror}."
            ) from error
