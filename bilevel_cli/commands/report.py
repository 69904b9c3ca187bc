"""The bilevel-report command: compares runs, also while they are going."""

import argparse
import contextlib
import io
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bilevel_cli import __version__
from bilevel_cli.commands import leaving
from bilevel_cli.errors import UsageError
from bilevel_cli.machine import collecting, streams
from bilevel_cli.records.folder import check_output
from bilevel_cli.records.plain import plain
from bilevel_cli.report.costs import budgets

if TYPE_CHECKING:
    from bilevel_cli.report.compare.comparison import Report
    from bilevel_cli.report.read.runs import Run

WIDTH = 120  # letters in a line where no terminal has a width
FILES = (
    "csv",
    "runs",
    "latex",
    "html",
    "figure",
    "profile",
    "steps",
)  # options that name a file to write

DESCRIPTION = """\
Compares runs at one budget: means and 95 % intervals over seeds, who is level with the
best, failures, costs.

  bilevel-report outputs/sweeps/TIME                       the first score, at equal outer steps
  bilevel-report RUN RUN SWEEP --metric f1 --at seconds    any runs, at equal seconds of training
  bilevel-report SWEEP --at inner_grads=15000              what 15 000 inner gradients buy
  bilevel-report SWEEP --select best --validation outer_loss   early stopping, on validation data
  bilevel-report SWEEP --html page.html --latex table.tex --figure curves.pdf
  bilevel-report SWEEP --target 0.9 --runs runs.csv        what 0.9 took; a row a run
  bilevel-report SWEEP --watch                             again every 5 s, until all have ended

The folders are only read. What the numbers mean: docs/report.md.
Exit codes: 0 done, or --watch was left by Ctrl-C; 2 a wrong option, value or folder.
"""


@streams.stands("bilevel-report")
def main() -> None:
    """Runs the command. Its description has the exit codes."""
    arguments = parser().parse_intermixed_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of runs may be in any script
    try:
        _report(arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except (UsageError, OSError) as error:
        print(f"bilevel-report: {plain(str(error))}", file=sys.stderr)
        sys.exit(2)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="bilevel-report",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("folders", nargs="+", type=Path, metavar="FOLDER", help="of a run, a sweep, or above them")
    add("--metric", metavar="NAME", help="a column of eval.csv or train.csv; default: first score")
    add(
        "--at",
        default="steps",
        metavar="BUDGET",
        help=f"{', '.join(budgets())}, each alone (the most that all reached) "
        "or with =LIMIT; or end, whatever it cost; default: steps",
    )
    add("--select", choices=("final", "best"), default="final", help="row of a run within that")
    add("--validation", metavar="NAME", help="the column by which --select best selects")
    add("--iqm", action="store_true", help="interquartile means")
    add("--by", metavar="OPTION,...", help="options that alone distinguish configurations")
    direction = found.add_mutually_exclusive_group()
    direction.add_argument("--higher", action="store_true", help="the metric is better higher")
    direction.add_argument("--lower", action="store_true", help="the metric is better lower")
    add("--tasks", metavar="OPTION,...", help="options that make a task; default: task,data")
    add("--target", metavar="SCORE", help="also what it took to reach it; or TASK=SCORE,...")
    add("--markdown", action="store_true", help="print the table in Markdown")
    add("--csv", type=Path, metavar="FILE", help="also write the numbers in full")
    add("--runs", type=Path, metavar="FILE", help="also write a row for each run, with options")
    add("--latex", type=Path, metavar="FILE", help="also write a booktabs table")
    add("--html", type=Path, metavar="FILE", help="also write a page with curves and pictures")
    add("--figure", type=Path, metavar="FILE", help="also draw the curves: .pdf, .svg or .png")
    add("--profile", type=Path, metavar="FILE", help="also draw ranks and profiles over tasks")
    add("--steps", type=Path, metavar="FILE", help="also draw scores by inner steps (test_steps)")
    add("--watch", action="store_true", help="again and again, until no run is going")
    add("--every", type=float, default=5.0, metavar="SECONDS", help="of --watch; default: 5")
    add("--version", action="version", version=f"bilevel-report {__version__}")
    return found


def _report(arguments: argparse.Namespace) -> None:
    files = _files(arguments)
    _check(arguments)

    # Here and not above: these import pandas, for which --help does not wait.
    with collecting.paused():
        import numpy as np

        from bilevel_cli.report import outputs
        from bilevel_cli.report.across.apart import compared
        from bilevel_cli.report.across.reached import target_of
        from bilevel_cli.report.compare.question import Question
        from bilevel_cli.report.read.runs import read
        from bilevel_cli.report.show import watch

    question = Question(
        metric=arguments.metric,
        at=arguments.at,
        validation=arguments.validation,
        iqm=arguments.iqm,
        group_by=arguments.by.split(",") if arguments.by else None,
        higher=True if arguments.higher else False if arguments.lower else None,
    )
    makers = arguments.tasks.split(",") if arguments.tasks else None
    target = None if arguments.target is None else target_of(arguments.target)
    redrawn = arguments.watch and sys.stdout.isatty()
    warned: set[str] = set()
    report: Report | None = None

    def show(runs: "list[Run]") -> str:
        nonlocal report
        report = compared(runs, question, makers, target)
        width, _ = shutil.get_terminal_size((WIDTH, 24))
        text = outputs.markdown(report) if arguments.markdown else outputs.text(report, width)
        if redrawn:  # lines of stderr would be drawn over: warnings are part of the text
            return "\n".join([text, *([""] if report.warnings else []), *report.warnings])
        for warning in dict.fromkeys(report.warnings):
            if warning not in warned:
                print(f"bilevel-report: warning: {warning}", file=sys.stderr)
                warned.add(warning)
        return text

    with np.errstate(over="ignore", invalid="ignore"):  # numbers may be on their way to infinity
        if arguments.watch:
            with contextlib.suppress(KeyboardInterrupt):
                watch.watch(arguments.folders, show, arguments.every)
        else:
            print(show(read(arguments.folders)))
        if report is not None:
            for path, option in files.items():
                outputs.WRITERS[option](report, path)
                print(f"Wrote {plain(str(path))}", file=sys.stderr)


def _files(arguments: argparse.Namespace) -> dict[Path, str]:
    """The files to write, each with its option."""
    found: dict[Path, str] = {}
    for option in FILES:
        path = getattr(arguments, option)
        if path is None:
            continue
        if not path.absolute().parent.is_dir() or path.is_dir():
            raise UsageError(f"--{option} needs a file in a folder that is there, got {path}.")
        check_output(path, f"--{option}")
        if path in found:
            raise UsageError(f"--{found[path]} and --{option} need a file each, got {path} twice.")
        found[path] = option
    return found


def _check(arguments: argparse.Namespace) -> None:
    """Refuses options that do not go together."""
    if (arguments.select == "best") != (arguments.validation is not None):
        raise UsageError(
            "--select best needs --validation NAME, and that needs --select best: a column of "
            f"validation data, got --select {arguments.select} and "
            f"{'no ' if arguments.validation is None else ''}--validation. "
            "Such as --select best --validation outer_loss."
        )
    if not 0.1 <= arguments.every < 1e6:
        raise UsageError(f"--every needs seconds from 0.1 on, got {arguments.every:g}.")


command = leaving.at_once(main)  # of the process of its own

if __name__ == "__main__":
    command()
