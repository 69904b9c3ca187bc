"""How a comparison is said: as text, and in files, by option of the command."""

from collections.abc import Callable
from pathlib import Path

from bilevel_cli.report.across import by_steps, exported, panels, printed, tidy
from bilevel_cli.report.compare.comparison import Report
from bilevel_cli.report.page import page
from bilevel_cli.report.show import figures, papers

Writer = Callable[[Report, Path], None]


def _by_tasks(one: Writer, several: Writer) -> Writer:
    """The writer of reports of one task, and another for those of several."""
    return lambda report, path: (several if report.parts else one)(report, path)


WRITERS: dict[str, Writer] = {
    "csv": _by_tasks(papers.write_csv, exported.write_csv),
    "runs": tidy.write,
    "latex": _by_tasks(papers.write_latex, exported.write_latex),
    "html": page.write,
    "figure": figures.save,
    "profile": panels.save,
    "steps": by_steps.save,
}
text, markdown = printed.text, printed.markdown
