"""The tables and pictures of docs/benchmark.md: published, ours, and a verdict."""

import csv
from pathlib import Path
from typing import Any

from docs.generate import replace_between
from reproductions.bilevel import curves
from reproductions.bilevel.curves import End
from reproductions.bilevel.published import STEPS, Problem
from reproductions.figure import STYLE

HEAD = ["method", "published", "ours", "seeds", "of the calls", "outer steps", "seconds", "verdict"]
ARRIVED = 0.999  # of the oracle calls


def write(problems: dict[str, Problem], outputs: Path, jax: Path, page: Path) -> None:
    """Writes what was run into the page, and as docs/measured/benchmark_*.csv.

    Args:
        problems: By name. One of which nothing was run keeps what the page says of it.
        outputs: The folder of the runs: a folder for each problem, and in it for each method.
        jax: curves.csv of the peers, which may be absent.
        page: Its comments `<!-- name -->` and `<!-- end of name -->` enclose what is replaced.
    """
    for name, problem in problems.items():
        rows = table(problem, outputs / name)
        if len(rows) == 1:
            continue
        picture = page.parent / "pictures" / f"benchmark_{name}.png"
        draw(problem, outputs / name, jax, picture)
        lines = [rows[0], ["---"] * len(HEAD), *([f"`{row[0]}`", *row[1:]] for row in rows[1:])]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        shown = f"![{problem.title}, along the runs]({picture.parent.name}/{picture.name})"
        replace_between(page, name, f"{text}\n\n{shown}")
        kept = page.parent / "measured" / f"benchmark_{name}.csv"
        kept.parent.mkdir(exist_ok=True)
        with kept.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


def table(problem: Problem, folder: Path) -> list[list[str]]:
    """A row for each method that was run, best first, below the head."""
    rows = []
    for method, experiment in problem.experiments().items():
        end = curves.end(problem, experiment, folder / method)
        if end is None:
            continue
        published = problem.published.get(method)
        seeds = len(end.scores) + end.diverged
        cells = [
            "-" if published is None else f"{published:{problem.format}}",
            _ours(end, problem.format),
            str(seeds) if not end.diverged else f"{len(end.scores)} of {seeds}",
            f"{100 * min(1.0, end.share):.0f} %",
            f"{end.steps:,}".replace(",", " "),
            f"{end.seconds:.0f}",
            verdict(problem, method, end),
        ]
        rows.append((end.median, [method, *cells]))
    return [HEAD, *(row for _, row in sorted(rows))]


def _ours(end: End, form: str) -> str:
    """The median over seeds, with their range."""
    if not end.scores:
        return "-"
    low, high = min(end.scores), max(end.scores)
    spread = f" ({low:{form}} to {high:{form}})" if len(end.scores) > 1 else ""
    return f"{end.median:{form}}{spread}"


def verdict(problem: Problem, method: str, end: End) -> str:
    """Whether our end is the published one; if not, why, as far as that is known."""
    published = problem.published.get(method)
    if published is None:
        return "nothing published to compare with"
    if end.diverged:
        count = end.diverged + len(end.scores)
        return f"differs: {end.diverged} of {count} seeds diverged at these step sizes"
    if problem.near(end.median, published):
        return "reproduced"
    if end.share < ARRIVED:
        return f"open: {problem.reasons.get(method, STEPS)}"
    return f"differs: {problem.reasons.get(method, 'reason not known')}"


def draw(problem: Problem, folder: Path, jax: Path, path: Path) -> None:
    """Draws all curves against seconds and against oracle calls, those of JAX dashed."""
    import matplotlib  # an extra: the tables need none

    matplotlib.use("Agg")
    from matplotlib import pyplot

    peers = curves.peer_curves(jax, problem)
    with pyplot.rc_context(STYLE):
        figure = pyplot.figure(figsize=(6.5, 2.8), layout="constrained")
        panes: Any = figure.subplots(1, 2, sharey=True)
        colours = pyplot.colormaps["tab20"].colors  # type: ignore[attr-defined]
        for number, (method, experiment) in enumerate(problem.experiments().items()):
            ours = curves.median_curve(problem, experiment, folder / method)
            kinds = [(ours, "-", method), (peers.get(method), "--", f"{method}, JAX")]
            for curve, style, label in kinds:
                if curve is None:
                    continue
                some = curve[curve["calls"] > 0]  # axes are logarithmic
                for pane, along in zip(panes, ("seconds", "calls"), strict=True):
                    colour = colours[number % len(colours)]
                    pane.plot(some[along], some["score"], style, color=colour, label=label)
        for pane, label in zip(panes, ("seconds of training", "oracle calls"), strict=True):
            pane.set(xlabel=label, xscale="log", yscale="log")
        panes[0].set_ylabel(problem.title.partition(": ")[2])
        lines, labels = panes[0].get_legend_handles_labels()
        figure.legend(lines, labels, loc="outside right center")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=100, metadata={"Software": None})
        pyplot.close(figure)
