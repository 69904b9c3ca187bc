"""`python -m benchmarks`: measures, and writes the page."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import (
    commands,
    kernels,
    linear,
    machine,
    many_runs,
    memory,
    precision,
    report,
    startup,
    sweep,
    timing,
)
from benchmarks.stochastic import measure, table

OPTIONS: dict[str, dict[str, Any]] = {
    "folder": {"type": Path, "help": "of the CSV files; below outputs/ without it"},
    "size": {"choices": ["full", "quick", "tiny"], "default": "full"},
    "device": {"default": "cpu", "help": "option of bilevel-run: cpu, cuda"},
    "rounds": {"type": int, "default": 9, "help": "times that each is measured; 9"},
    "seconds": {"type": float, "default": 50, "help": "for a case, after three rounds; 50"},
    "only": {"default": "", "help": "cases whose name contains this"},
    "gpu": {"type": Path, "help": "CSV files of a GPU, for its rows in the page"},
    "others": {"type": Path, "nargs": "*", "default": [], "help": "CSV files elsewhere"},
    "data": {"default": "", "help": "folder of ijcnn1 and MNIST; synthetic ones without it"},
    "page": {"type": Path, "help": "a whole full run's is below docs/, any other's in the folder"},
    "before": {"type": Path, "help": "a checkout to compare with"},
    "after": {"type": Path, "default": Path(), "help": "the other one; this one without it"},
    "steps": {"type": int, "default": 2000, "help": "outer steps; 2000"},
    "jobs": {"type": int, "default": 200, "help": "of a sweep; 200"},
    "runs": {"type": int, "default": 10_000, "help": "of a report; 10000"},
    "rows": {"type": int, "default": 200, "help": "of each table of a run; 200"},
}


class Command(NamedTuple):
    """One of the things to measure.

    Attributes:
        help: What it does.
        run: Does it, as the options say.
        options: The names of those that it reads.
    """

    help: str
    run: Callable[[argparse.Namespace], None]
    options: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parts = parser.add_subparsers(title="what to measure", metavar="WHAT", required=True)
    for name, command in COMMANDS.items():
        part = parts.add_parser(name, help=command.help, description=command.help)
        part.set_defaults(what=name, run=command.run)
        for option in command.options:
            part.add_argument(f"--{option}", **OPTIONS[option])
    given = parser.parse_args()
    given.run(given)


def write_page(given: argparse.Namespace) -> None:
    """Measures all that docs/benchmarks.md shows or a part of it, and writes a page."""
    part = f"_{given.only.replace(' ', '_')}" if given.only else ""
    given.folder = given.folder or Path(f"outputs/benchmarks_{given.size}{part}")
    # Quick figures, those of some cases or of one part never replace the published ones.
    whole = given.size == "full" and not given.only
    published = whole and given.what in ("all", "report", "stochastic")
    given.page = given.page or (
        Path("docs/benchmarks.md") if published else given.folder / "benchmarks.md"
    )
    if given.what != "report":
        machine.describe(given.folder, torch.device(given.device), given.size)
    if given.what in ("all", "time"):
        timing.run(
            *(given.folder, given.size, given.device, given.rounds, given.seconds, given.only)
        )
    if given.what in ("all", "memory"):
        memory.run(given.folder, given.size, given.device)
    if given.what in ("all", "commands"):
        commands.run(given.folder, given.size, given.device, max(1, given.rounds // 3))
    if given.what in ("all", "stochastic") and given.device == "cpu":
        measure.run(given.folder, given.size, given.only, given.data)
    if given.what == "stochastic" and given.page.exists():  # its other sections stay
        table.renew(given.page, report.markdown(table.rows(given.folder)))
        return
    report.write(given.folder, given.page, given.gpu, given.others)


def labels(given: argparse.Namespace) -> None:
    """Measures and writes the tables of docs/labels.md."""
    from benchmarks import labels as tools  # here: it needs cleanlab

    tools.run(given.folder or Path("outputs/benchmarks_labels"), given.only)


def curves(given: argparse.Namespace) -> None:
    """Measures the curves of the JAX peers, for docs/benchmark.md."""
    from benchmarks.stochastic import curves as peers  # here: it needs JAX

    folder = given.folder or Path("outputs/benchmarks_curves")
    peers.run(folder, given.only, given.data, given.seconds)


def scaling(given: argparse.Namespace) -> None:
    """Measures and writes docs/scaling.md, or of another size or one part a page elsewhere.

    Raises:
        SystemExit: An exponent is above 1.1, and nothing that is declared explains it.
    """
    from benchmarks.scaling import fits, ladders, page  # here: they need the report extra

    torch.set_num_threads(1)
    part = f"_{given.only.replace(',', '_')}" if given.only else ""
    folder = given.folder or Path(f"outputs/benchmarks_scaling_{given.size}{part}")
    published = given.size == "full" and not given.only
    ladders.run(folder / "points.csv", given.size, given.only)
    if published or given.before:
        sweep.run(folder, given.jobs, given.before)
    # Last: what torch has computed here, the forks of a point would begin with.
    machine.describe(folder, torch.device("cpu"), given.size)
    page.write(folder, given.page or (Path("docs") if published else folder) / "scaling.md")
    if missing := [fit for fit in fits.read(folder) if fits.missed(fit)]:
        raise SystemExit("\n".join(f"{fit.of} along {fit.along}: not explained" for fit in missing))


PAGE = ("folder", "size", "device", "rounds", "seconds", "only", "gpu", "others", "data", "page")
COMMANDS = {
    "all": Command("everything, into docs/benchmarks.md", write_page, PAGE),
    "time": Command("seconds of a hypergradient against the peers", write_page, PAGE),
    "memory": Command("memory of a hypergradient against the peers", write_page, PAGE),
    "commands": Command("seconds of whole commands", write_page, PAGE),
    "stochastic": Command("stochastic methods against JAX", write_page, PAGE),
    "report": Command("the page of CSV files that are there", write_page, PAGE),
    "curves": Command(
        "curves of the JAX peers, for docs/benchmark.md",
        curves,
        ("folder", "only", "data", "seconds"),
    ),
    "labels": Command("the tables of docs/labels.md", labels, ("folder", "only")),
    "linear": Command(
        "what each device.linear gains, as a table",
        lambda given: linear.run(given.size, given.device, given.rounds, given.only),
        ("size", "device", "rounds", "only"),
    ),
    "kernels": Command("the kernels chosen on this machine", lambda given: kernels.run(), ()),
    "precision": Command(
        "gaps of bfloat16 to float32, for docs/precision.md",
        lambda given: precision.run(given.device, given.only),
        ("device", "only"),
    ),
    "startup": Command(
        "seconds to the first row, of two checkouts",
        lambda given: startup.startup((given.before or Path(), given.after), given.rounds),
        ("before", "after", "rounds"),
    ),
    "bookkeeping": Command(
        "microseconds of a step besides its estimate, of two checkouts",
        lambda given: startup.bookkeeping(
            (given.before or Path(), given.after), given.rounds, given.steps
        ),
        ("before", "after", "rounds", "steps"),
    ),
    "sweep": Command(
        "what a sweep takes before its first job and after its last",
        lambda given: sweep.run(
            given.folder or Path("outputs/benchmarks_sweep"), given.jobs, given.before
        ),
        ("folder", "jobs", "before"),
    ),
    "reports": Command(
        "what the first and the second report on many runs take",
        lambda given: many_runs.run(
            *(given.folder or Path("outputs/benchmarks_reports"), given.runs, given.rows),
            given.before,
        ),
        ("folder", "runs", "rows", "before"),
    ),
    "scaling": Command(
        "how time and memory grow, into docs/scaling.md",
        scaling,
        ("folder", "size", "only", "jobs", "before", "page"),
    ),
}

if __name__ == "__main__":
    import sys

    if sys.argv[1:2] == ["one"]:  # of `memory`, in its fresh process
        size, device, workload, who, steps, budget = sys.argv[2:]
        memory.one(size, device, workload, who, int(steps), budget)
    else:
        main()
