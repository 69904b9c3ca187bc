"""The files that a comparison is written to besides what is printed, by option of the command."""

from collections.abc import Callable
from pathlib import Path

from bilevel_cli.report.compare.comparison import Report
from bilevel_cli.report.page import page
from bilevel_cli.report.show import figures, papers

WRITERS: dict[str, Callable[[Report, Path], None]] = {
    "csv": papers.write_csv,
    "latex": papers.write_latex,
    "html": page.write,
    "figure": figures.save,
}
