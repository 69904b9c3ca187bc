"""`python -m reproductions.bilevel run` continues the runs; `page` writes docs/benchmark.md."""

import argparse
from pathlib import Path

from reproductions.bilevel import sheet
from reproductions.bilevel.budgeted import Task, carry_on
from reproductions.bilevel.published import PROBLEMS

OUTPUTS = Path("outputs/benchmark")
PEERS = Path("outputs/benchmarks_curves/curves.csv")
PAGE = Path("docs/benchmark.md")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m reproductions.bilevel", description=__doc__)
    parser.add_argument("what", choices=["run", "page"])
    parser.add_argument("--only", nargs="+", choices=list(PROBLEMS), help="these problems alone")
    parser.add_argument("--methods", nargs="+", help="these methods alone")
    parser.add_argument("--seconds", type=float, default=3600.0, help="for all runs of this call")
    parser.add_argument("--seeds", type=int, default=5, help="replicas of each run")
    parser.add_argument("--data", default="null", help="data.root: where the data sets are")
    parser.add_argument("--outputs", type=Path, default=OUTPUTS, help="folder of the runs")
    parser.add_argument("--jax", type=Path, default=PEERS, help="curves.csv of the JAX peers")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the tables go")
    parser.add_argument("--set", nargs="+", default=[], help="more overrides of all runs")
    given = parser.parse_args()
    chosen = {name: problem for name, problem in PROBLEMS.items() if name in (given.only or [name])}
    if given.what == "page":
        sheet.write(chosen, given.outputs, given.jax, given.page)
        return
    machine = ("device=cpu", "device.threads=1", f"data.root={given.data}", *given.set)
    tasks = [
        Task(
            f"{name} {method}",
            (f"experiment={problem.prefix}{method}", *machine),
            given.outputs / name / method,
            given.seeds,
        )
        for name, problem in chosen.items()
        for method in problem.experiments()
        if method in (given.methods or [method])
    ]
    carry_on(tasks, given.seconds)


if __name__ == "__main__":
    main()
