"""Writes the tables of docs/measured/ and docs/ from what the commands report: `make docs`.

python docs/generate.py check TASK=CSV ...     the proofs, from `bilevel-check --csv`
python docs/generate.py solvers CSV SOLVER=CSV methods by solvers, from `bilevel-check --csv`
python docs/generate.py budget SWEEP           all methods at one cost, from a sweep's folder
python docs/generate.py related                the page of related systems, from docs/related/
"""

import csv
import json
import math
import sys
from pathlib import Path
from typing import Any

import pandas as pd

DOCS = Path(__file__).parent
MEASURED = DOCS / "measured"  # what the pages of methods on the site repeat
Rows = list[list[str]]


def check_table(files: dict[str, Path]) -> Rows:
    """One row for each method, one column of what was measured for each task."""
    tables = {task: pd.read_csv(path).set_index("method") for task, path in files.items()}
    first = next(iter(tables.values()))
    lines = [["method", "is held to", *tables, "gradients", "products"]]
    for method in first.index:
        cells = [_measured(table.loc[method]) for table in tables.values()]
        counts = [_count(first.loc[method, name]) for name in ("inner_grads", "hvps")]
        lines.append([str(method), str(first.loc[method, "claim"]), *cells, *counts])
    return lines


def solver_table(path: Path, apart: list[tuple[str, Path]]) -> tuple[Rows, Rows]:
    """A row for each method, a column for each solver: what was measured, or a refusal's letter.

    Besides it, the refusals by letter. Anything else that a check found is its verdict.

    Args:
        path: Of all solvers but some.
        apart: Solvers that were checked apart, at settings of their own, each with a file.
    """
    table = pd.read_csv(path)
    table[["name", "solver"]] = table["method"].str.extract(r"^(\S+) solver=(\S+)$").to_numpy()
    others = [pd.read_csv(one).assign(solver=solver) for solver, one in apart]
    table = pd.concat([one.assign(name=one["method"]) for one in others] + [table])
    kinds: dict[str, str] = {}  # of a reason, without the names in it, to a letter
    reasons: dict[str, str] = {}  # of a letter, to the first reason of its kind
    rows = [["method", *table["solver"].unique()]]
    for name, of_method in table.groupby("name"):
        cells = []
        for _, row in of_method.iterrows():
            if row["verdict"] != "refused":
                cells.append(_measured(row))
                continue
            needs, _, rest = str(row["reason"]).partition(" needs ")[2].partition(", got ")
            letter = kinds.setdefault(needs, chr(ord("a") + len(kinds)))
            reasons.setdefault(letter, f"needs {needs}, got {rest}")
            cells.append(f"refused ({letter})")
        rows.append([str(name), *cells])
    return rows, [["letter", "reason"], *map(list, reasons.items())]


def budget_table(sweep: Path) -> Rows:
    """The last scores of every job of a sweep over methods, with what they cost."""
    rows = []
    for path in sorted(sweep.glob("*/manifest.json")):
        manifest = json.loads(path.read_text())
        method = _method(path.parent.name)
        if manifest["status"] != "completed":
            rows.append((math.inf, [method, *["-"] * 5, _reason(manifest)]))
            continue
        train, scores = (
            pd.read_csv(path.parent / name).iloc[-1] for name in ("train.csv", "eval.csv")
        )
        cells = [
            f"{100 * scores['test_accuracy']:.1f}",
            f"{100 * scores['f1']:.1f}",
            f"{train['step']:.0f}",
            f"{train['inner_grads']:.0f}",
            f"{train['hvps']:.0f}",
        ]
        rows.append((-scores["test_accuracy"], [method, *cells, ""]))
    head = ["method", "test accuracy %", "F1 %", "outer steps", "inner gradients", "products"]
    return [[*head, "remark"], *(row for _, row in sorted(rows))]


def with_notes(rows: Rows, refusals: Rows) -> str:
    """The table of `solver_table` in Markdown, with the refusals below it."""
    (first, *solvers), *body = rows
    notes = [f"- ({letter}) {reason}" for letter, reason in refusals[1:]]
    table = _markdown([[first, *(f"`{solver}`" for solver in solvers)], *body])
    return "\n".join([table, "", "Why a method refuses:", "", *notes])


def keep(name: str, rows: Rows) -> None:
    """Writes a table where the site finds it: docs/measured/<name>.csv."""
    with (MEASURED / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def replace_between(path: Path, name: str, table: str) -> None:
    """Puts `table` between the two comments called `name` in a Markdown file."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        sys.exit(f"{path} needs the lines {begin} and {end}, between which the table goes.")
    path.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")


def _measured(row: "pd.Series[str]") -> str:
    mark = {"ok": "", "WRONG": " **wrong**"}.get(str(row["verdict"]))
    return str(row["verdict"]) if mark is None else f"{row['measured']}{mark}"


def _count(value: Any) -> str:
    return "-" if pd.isna(value) else f"{float(str(value)):g}"


def _method(folder: str) -> str:
    chosen = dict(part.partition("=")[::2] for part in folder.split(","))
    return chosen["method"]


def _reason(manifest: dict[str, str]) -> str:
    return f"{manifest['status']}: {manifest['error']}"


def _markdown(rows: Rows) -> str:
    """A table with a row for each method, whose name is code."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *([f"`{line[0]}`", *line[1:]] for line in body)]
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    pairs = [argument.split("=", 1) for argument in arguments if "=" in argument]
    files = {name: Path(path) for name, path in pairs}
    if kind == "check":
        keep("checked", check_table(files))
    elif kind == "solvers":
        apart = [(name, Path(path)) for name, path in pairs]
        table, refusals = solver_table(Path(arguments[0]), apart)
        keep("solvers", table)
        keep("solvers_refusals", refusals)
        replace_between(DOCS / "methods.md", "solvers", with_notes(table, refusals))
    elif kind == "budget":
        table = budget_table(Path(arguments[0]))
        keep("budget", table)
        replace_between(DOCS / "methods.md", "budget", _markdown(table))
    elif kind == "related":
        from sitemaker import systems  # here: it is found where this file is run as a script alone

        replace_between(DOCS / "related_systems.md", "systems", systems.text())
    else:
        sys.exit(__doc__)
