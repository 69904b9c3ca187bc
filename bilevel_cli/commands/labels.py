"""The bilevel-labels command: which labels of a table are probably wrong."""

import argparse
import functools
import os
import shutil
import sys
import time
from datetime import datetime
from pathlib import Path

from bilevel_cli import __version__
from bilevel_cli.commands import leaving
from bilevel_cli.commands.explain import explain
from bilevel_cli.errors import NO_SPACE, Unwritten, UsageError, refusal
from bilevel_cli.machine import collecting, signals, streams
from bilevel_cli.records.atomic import replaced
from bilevel_cli.records.folder import check_output

PAGE_ROWS = 200  # at least --top

DESCRIPTION = """\
Says how many labels of a table are probably wrong, and which.

  bilevel-labels my.csv --target churn
  bilevel-labels my.csv --target churn --top 50 --id customer --drop signed_up_by
  bilevel-labels my.csv --target churn --out checked.csv --html suspects.html

No row needs to be known as right. --out writes your file with four columns more: label_suspect,
suggested_label, confidence and rank. How it works, and how well: docs/labels.md.
Exit codes: 0 done; 1 the run broke; 2 a wrong option, column or file; 3 the disk is full.
"""


@streams.stands("bilevel-labels")
def main() -> None:
    """Runs the command. Its description has the exit codes."""
    arguments = parser().parse_args()
    try:
        _check(arguments)
        with signals.stops_at_once():
            _labels(arguments)
    except KeyboardInterrupt as error:
        sys.exit(getattr(error, "code", 130))
    except Exception as error:  # besides its own, Hydra raises all kinds
        print(f"bilevel-labels: {explain(error)}", file=sys.stderr)
        full = Unwritten.code if refusal(error, NO_SPACE) else UsageError.code
        sys.exit(getattr(error, "code", full))


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="bilevel-labels",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add(
        "table",
        type=Path,
        metavar="FILE",
        help="CSV (plain or gzipped), Parquet or .xlsx, with a header",
    )
    add("--target", required=True, metavar="COLUMN", help="the labels to check")
    add("--top", type=int, default=20, metavar="N", help="rows to print; default: 20")
    add("--id", metavar="COLUMN", help="names the rows; default: their numbers, from 0")
    add("--drop", action="append", default=[], metavar="COLUMN", help="not to be used; repeatable")
    add("--out", type=Path, metavar="FILE", help="also write the table with columns added, as CSV")
    add("--html", type=Path, metavar="FILE", help="also write a page of the suspicious rows")
    add("--force", action="store_true", help="replace files of --out and --html")
    add(
        "--folds", type=int, default=5, metavar="K", help="parts that judge one another; default: 5"
    )
    add("--seed", type=int, default=0, help="of the folds and the classifiers; default: 0")
    _add_dialect(found.add_argument_group("how the table is written (messages propose these)"))
    add("--version", action="version", version=f"bilevel-labels {__version__}")
    return found


def _add_dialect(group: argparse._ArgumentGroup) -> None:
    """The options that are settings of `data=table`; those not given keep their defaults."""
    add = functools.partial(group.add_argument, default=argparse.SUPPRESS)
    add("--sheet", metavar="NAME", help="of a workbook with several")
    add("--separator", metavar="C", help="between fields of a CSV file; default: ,")
    add("--encoding", metavar="NAME", help="of a CSV file, such as cp1252; default: utf-8")
    add("--decimal", metavar="C", help="decimal sign of numbers, . or ,; default: .")
    add("--thousands", metavar="C", help="between their thousands; default: none")
    add(
        "--sign",
        dest="signs",
        metavar="SIGN",
        action="append",
        help="to be removed from numbers; repeatable",
    )
    add(
        "--negatives",
        action="append",
        metavar="HOW",
        help="other than -1: parentheses, trailing or typographic; repeatable",
    )
    add("--dates", metavar="ORDER", help="year_first, day_first or month_first")
    add("--missing", action="append", metavar="TEXT", help="means a missing value; repeatable")
    add(
        "--keep-na",
        dest="keep_default_na",
        action="store_false",
        help="NA, None, null, ... may be labels, and no missing values",
    )
    add("--text", action="append", metavar="COLUMN", help="to be read as texts; repeatable")


def _labels(arguments: argparse.Namespace) -> None:
    # Here and not above: --help waits neither for torch nor for pandas.
    with collecting.paused():
        from bilevel_cli.data.table.dialect import PLAIN
        from bilevel_cli.labels import own_file, rows_page, show_rows
        from bilevel_cli.labels.examine import examine

    dialect = PLAIN.with_(**vars(arguments))
    wanted = own_file.Wanted(
        arguments.table,
        arguments.target,
        arguments.id,
        tuple(arguments.drop),
        dialect,
        arguments.folds,
        arguments.seed,
    )
    own = own_file.read(wanted)
    since = time.perf_counter()
    folder = Path("outputs", "labels", f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}")
    finding = examine(wanted, own, folder, _tell)
    rows = list(show_rows.suspects(wanted, own, finding, max(arguments.top, PAGE_ROWS)))
    title, notes = show_rows.headline(wanted, finding), show_rows.notes(own, finding)
    width, _ = shutil.get_terminal_size((100, 24))
    print(title)
    print("\n".join(notes), end="\n\n")
    print(show_rows.table(rows[: arguments.top], width))
    if arguments.out:
        own_file.write(own, finding.columns, dialect, arguments.out)
    if arguments.html:
        text = rows_page.html(title, notes, rows, arguments.target)
        with replaced(arguments.html) as partial:
            partial.write_text(text, encoding="utf-8")
    for path in filter(None, (arguments.out, arguments.html)):
        print(f"Wrote {path}", file=sys.stderr)
    print(f"{time.perf_counter() - since:.0f} s; the run is in {folder}", file=sys.stderr)


def _tell(what: str) -> None:
    print(f"bilevel-labels: {what} ...", file=sys.stderr, flush=True)


def _check(arguments: argparse.Namespace) -> None:
    """Refuses numbers and files that cannot serve, before the table is read."""
    for option, least in (("top", 0), ("folds", 2), ("seed", 0)):
        if (value := getattr(arguments, option)) < least:
            raise UsageError(f"--{option} needs a number from {least} on, got {value}.")
    if arguments.target in (arguments.id, *arguments.drop):
        raise UsageError(f"--id and --drop need other columns than --target={arguments.target}.")
    if arguments.out and arguments.html and arguments.out.absolute() == arguments.html.absolute():
        raise UsageError(f"--out and --html need a file each, got {arguments.out} for both.")
    for option in ("out", "html"):
        path = getattr(arguments, option)
        if path is None:
            continue
        parent = path.absolute().parent
        if not parent.is_dir() or path.is_dir():
            raise UsageError(f"--{option} needs a file in a folder that is there, got {path}.")
        check_output(path, f"--{option}", whole=True)
        if path.exists() and path.samefile(arguments.table):
            raise UsageError(f"--{option} needs another file than the table, got {path} for both.")
        if path.exists() and not arguments.force:
            raise UsageError(
                f"--{option} needs a new file, got {path}, which is there. Add --force."
            )
        if not os.access(path if path.exists() else parent, os.W_OK):
            raise UsageError(f"--{option} needs a file that can be written, got {path}.")


command = leaving.at_once(main)  # of the process of its own

if __name__ == "__main__":
    command()
