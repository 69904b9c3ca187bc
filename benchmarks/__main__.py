"""`python -m benchmarks`: measures, and writes the page."""

import argparse
from pathlib import Path

import torch

from benchmarks import (
    commands,
    kernels,
    linear,
    machine,
    memory,
    precision,
    report,
    startup,
    sweep,
    timing,
)
from benchmarks.stochastic import measure, table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "what",
        choices=[
            *("all", "time", "memory", "commands", "stochastic", "report"),
            *("linear", "kernels", "precision", "labels", "curves"),
            *("startup", "bookkeeping", "sweep", "scaling"),
        ],
    )
    parser.add_argument("--folder", type=Path, help="of the CSV files; outputs/benchmarks_SIZE")
    parser.add_argument("--size", choices=["full", "quick", "tiny"], default="full")
    parser.add_argument("--device", default="cpu", help="option of bilevel-run: cpu, cuda")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=50, help="for a case, after three rounds")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--gpu", type=Path, help="CSV files of a GPU, for its rows in the page")
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="CSV files elsewhere")
    parser.add_argument("--data", default="", help="ijcnn1 and MNIST; synthetic ones without it")
    parser.add_argument("--page", type=Path, help="a whole full run's is docs/benchmarks.md")
    parser.add_argument("--before", type=Path, help="a checkout to compare with")
    parser.add_argument("--after", type=Path, help="the other one, of startup")
    parser.add_argument("--steps", type=int, default=2000, help="outer steps, of bookkeeping")
    parser.add_argument("--jobs", type=int, default=200, help="of a sweep")
    given = parser.parse_args()
    if given.what == "linear":  # a table by itself, which the page quotes
        linear.run(given.size, given.device, given.rounds, given.only)
        return
    if given.what == "kernels":  # likewise
        kernels.run()
        return
    if given.what == "precision":  # likewise, in docs/precision.md
        precision.run(given.device, given.only)
        return
    if given.what == "labels":  # likewise, into docs/labels.md
        from benchmarks import labels  # here: it needs cleanlab

        labels.run(given.folder or Path("outputs/benchmarks_labels"), given.only)
        return
    if given.what == "curves":  # of the peers, for docs/benchmark.md
        from benchmarks.stochastic import curves  # here: it needs JAX

        folder = given.folder or Path("outputs/benchmarks_curves")
        curves.run(folder, given.only, given.data, given.seconds)
        return
    if given.what in ("startup", "bookkeeping"):  # likewise
        trees = given.before or Path(), given.after or Path()
        if given.what == "startup":
            startup.startup(trees, given.rounds)
        else:
            startup.bookkeeping(trees, given.rounds, given.steps)
        return
    if given.what == "sweep":  # likewise, in docs/scaling.md
        sweep.run(given.folder or Path("outputs/benchmarks_sweep"), given.jobs, given.before)
        return
    if given.what == "scaling":  # its own page, docs/scaling.md
        scaling(given)
        return
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


if __name__ == "__main__":
    import sys

    if sys.argv[1:2] == ["one"]:  # of `memory`, in its fresh process
        size, device, workload, who, steps, budget = sys.argv[2:]
        memory.one(size, device, workload, who, int(steps), budget)
    else:
        main()
