"""docs/benchmarks.md from the CSV files alone; the remarks in it are kept."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks import kernels
from benchmarks.peers import OUR_LAYERS
from benchmarks.stochastic import table as stochastic

WRONG = 1e-2  # relative error of a float32 hypergradient, unless plain autograd's is as large
# Of ours to the best peer's: what must be reached, what is bold. A case is named by a pattern.
TIMES = (
    ("MAML Conv-4, 5-way, 16 tasks", r"maml 5-way, (16|8|3) tasks", 0.75, 0.62),
    ("hyper-cleaning linear, unrolled", "cleaning linear, unrolled", 0.72, 0.50),
    ("the same, implicit, CG, 20 products", "cleaning linear, CG", 0.75, 0.62),
    ("the same, implicit, Neumann, 20 products", "cleaning linear, Neumann", 0.75, 0.62),
    ("per-parameter L2, unrolled", "penalties, unrolled", 0.90, 0.65),
    ("hyper-cleaning 784-300-10, unrolled", "cleaning MLP, unrolled", 1.00, 0.85),
    ("hyper-cleaning 784-300-10, implicit", "cleaning MLP, Neumann", 1.00, 0.85),
    ("distillation, the graph fits", "distillation", 1.00, 0.90),
    ("IAPTT, pessimistic step about K / 2", "pessimistic step middle", 0.60, 0.40),
)
ON_GPU = (
    ("on a GPU: MAML", r"maml 5-way, (16|8|3) tasks", 0.20, 0.10),
    ("on a GPU: hyper-cleaning", "cleaning linear, unrolled", 0.20, 0.10),
)
Target = tuple[str, str, float, float]
Table = list[list[str]]


def write(folder: Path, page: Path, gpu: Path | None = None, others: Sequence[Path] = ()) -> None:
    """Writes the page.

    Args:
        folder: Of the CSV files.
        page: Where to; its remarks, between comments, are kept.
        gpu: Of the CSV files of a GPU, from which the targets on a GPU are taken; None for
            `folder`.
        others: Of the CSV files of other processors, of which the times are shown.
    """
    old = page.read_text() if page.exists() else ""

    def remarks(name: str) -> str:
        begin, end = f"<!-- remarks: {name} -->", "<!-- end of remarks -->"
        kept = re.search(f"{begin}(.*?){end}", old, re.DOTALL)
        return f"{begin}{kept.group(1) if kept else chr(10)}{end}"

    times, memory = _read(folder, "time"), _read(folder, "memory")
    exact, commands, machine = (
        _read(folder, name) for name in ("exactness", "commands", "machine")
    )
    by_device = (_times(folder, on_gpu=False), _times(gpu or folder, on_gpu=True))
    facts = "\n".join(f"* {str(n).replace('_', ' ')}: {v}" for n, v in machine.iloc[-1].items())
    sections = [
        INTRODUCTION,
        facts,
        f"## Targets\n\n{TARGETS}\n\n{markdown(_targets(*by_device, memory, commands))}",
        remarks("targets"),
        f"## Time\n\n{TIME}\n\n{_time_tables(times)}",
        remarks("time"),
        f"{stochastic.TITLE}\n\n{stochastic.TEXT}\n\n{markdown(stochastic.rows(folder))}",
        remarks("stochastic"),
        f"## Kernels\n\n{kernels.TEXT}\n\n{markdown(kernels.rows(_read(folder, 'kernels')))}",
        *map(_other, others),
        remarks("kernels"),
        f"## Exactness\n\n{EXACTNESS}\n\n{markdown(_exactness(exact))}",
        remarks("exactness"),
        f"## Memory and cost against the number of inner steps\n\n{MEMORY}\n\n"
        + markdown(_memory(memory)),
        remarks("memory"),
        f"## Around the hypergradient\n\n{COMMANDS}\n\n{markdown(_commands(commands))}",
        remarks("commands"),
    ]
    text = "\n\n".join(sections) + "\n"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text)
    print(f"{text}\nWrote {page}")


INTRODUCTION = """# Time and memory, against the published implementations

How fast is a step, and how much memory does it take, next to other libraries? Below 1 in the
table of targets is faster than the best of them.

```sh
make bench-quick    # five minutes, smaller problems; prints the tables
make bench          # all of it
```

**What is compared.** All implementations get the same tensors, synthetic and from a fixed seed,
in float32, and each answer is held to float64. The peers get torch's own modules; ours get what a
user of `bilevel-run` gets. "plain autograd" is the shortest program in torch.autograd, and a peer
like the others. "plain autograd, our layers" is no peer: it shows how much of a ratio is due to
faster pooling and batch normalisation. All run in one process, so all profit from its setting of
malloc (`malloc.py`). Betty is used for implicit differentiation alone. hypertorch is not on PyPI
and is left out.

Written by `python -m benchmarks` from raw measurements in CSV files. The conditions:"""
TARGETS = """Measured: the median over rounds of the ratio ours / best peer, in wall seconds of one
run, and the same in CPU seconds. The best peer is the one of the least median wall seconds that is
not wrong; for IAPTT it is BOAT, which has it."""
TIME = """Seconds of one hypergradient, medians over rounds; in each round all implementations ran
one after the other, in rotating order. "ours / peer" is the median of the ratios within rounds, in
wall and in CPU seconds. The error is that of the float32 hypergradient, relative to float64; one
above 1e-2 and above three times that of plain autograd, which has the same kinks of ReLU and
pooling, is wrong."""
EXACTNESS = "The same problems, small and in float64: relative error against plain autograd."
MEMORY = """Each in a fresh process: the peak above what was held just before the hypergradient, and
the seconds of later ones. The budget is `device.memory_budget`, of the graphs alone, in bytes."""
COMMANDS = """Seconds, medians over rounds. Replicas and single runs are whole commands, from start
to end."""


def _other(folder: Path) -> str:
    """The section of another processor."""
    facts = _read(folder, "machine").iloc[-1]
    named = "\n".join(f"* {name}: {facts[name]}" for name in kernels.WHERE)
    tables = _time_rows(_read(folder, "time")), kernels.rows(_read(folder, "kernels"))
    head = f"### The same with other instructions\n\n{kernels.ELSEWHERE}\n\n{named}"
    return "\n\n".join((head, *map(markdown, tables)))


def _times(folder: Path, on_gpu: bool) -> pd.DataFrame:
    """The times in a folder, if they were measured on a GPU, or if they were not."""
    machine = _read(folder, "machine")
    is_gpu = not machine.empty and machine.iloc[-1]["device"] == "cuda"
    return _read(folder, "time") if is_gpu == on_gpu else pd.DataFrame()


def _targets(
    times: pd.DataFrame, gpu_times: pd.DataFrame, memory: pd.DataFrame, commands: pd.DataFrame
) -> Table:
    rows = [*_time_rows(times), *_time_rows(gpu_times, ON_GPU)[1:]]
    linear = memory[memory.workload == "linear"] if len(memory) else memory
    ratio = _memory_ratio(linear)
    if ratio:
        steps = int(linear.steps.max())
        title = f"peak memory, linear, T = {steps}, budget 20 MB"
        rows.append(_target(title, 0.30, 0.20, *ratio))
    distilled = memory[memory.workload == "distillation"] if len(memory) else memory
    ratio = _memory_ratio(distilled)
    if ratio:
        steps = int(distilled.steps.max())
        title = f"peak memory, distillation, T = {steps}, at {_slower(distilled):.2f}x the time"
        rows.append(_target(title, 0.20, 0.10, *ratio))
    medians = _medians(commands)
    alone, together = (
        next((v for n, v in medians.items() if what in n), math.nan)
        for what in ("single runs", "replicas")
    )
    rows.append(_target("replicas of a digits run", 0.35, 0.20, together / alone, "single runs"))
    return rows


def _time_rows(times: pd.DataFrame, targets: Sequence[Target] = TIMES) -> Table:
    """The table of targets of time, with its header."""
    rows = [["workload", "must", "bold", "measured", "in CPU seconds", "against"]]
    for title, pattern, must, bold in targets:
        found = best(times, pattern)
        rows.append(_target(title, must, bold, *(found or (math.nan, "-", math.nan))))
    return rows


def _target(
    title: str, must: float, bold: float, measured: float, against: str, cpu: float = math.nan
) -> list[str]:
    reached = "bold" if measured <= bold else "reached" if measured <= must else "missed"
    shown = "not measured" if math.isnan(measured) else f"{measured:.2f}, {reached}"
    in_cpu = "" if math.isnan(cpu) else f"{cpu:.2f}"
    return [title, f"{must:.2f}", f"{bold:.2f}", shown, in_cpu, against]


def best(times: pd.DataFrame, pattern: str) -> tuple[float, str, float] | None:
    """The ratio to the fastest right peer, its name, and the ratio of CPU seconds."""
    rows = times[times.case.str.fullmatch(pattern)] if len(times) else times
    if rows.empty:
        return None
    is_peer = ~rows.implementation.isin(("ours", OUR_LAYERS))
    right = rows[is_peer & (rows.error <= tolerance(rows))]
    if rows.pessimistic_step.notna().all():
        right = right[right.implementation == "BOAT"]
    if right.empty:
        return None
    peer = str(right.groupby("implementation").wall.median().idxmin())
    return _ratio(rows, peer, "wall"), peer, _ratio(rows, peer, "cpu")


def tolerance(rows: pd.DataFrame) -> float:
    return max(WRONG, 3 * float(rows[rows.implementation == "plain autograd"].error.iloc[0]))


def _ratio(rows: pd.DataFrame, peer: str, clock: str) -> float:
    seconds = rows.pivot(index="round", columns="implementation", values=clock)
    return float((seconds["ours"] / seconds[peer]).median())


def _time_tables(times: pd.DataFrame) -> str:
    if times.empty:
        return markdown([])
    parts = []
    for case, rows in times.groupby("case", sort=False):
        head = f"{case}; T = {rows.steps.iloc[0]}, {rows['round'].nunique()} rounds"
        if not math.isnan(rows.pessimistic_step.iloc[0]):
            head += f", pessimistic step {int(rows.pessimistic_step.iloc[0])}"
        lines = [["implementation", "wall", "CPU", "ours / peer", "in CPU", "error"]]
        if rows.device.notna().all():
            lines[0].insert(3, "device")
        for who, own in rows.groupby("implementation", sort=False):
            gap = own.error.iloc[0]
            seconds = [f"{own[c].median():.4f}" for c in ("wall", "cpu", "device")]
            ratios = [f"{_ratio(rows, str(who), clock):.2f}" for clock in ("wall", "cpu")]
            ratios = ["", ""] if who == "ours" else ratios
            wrong = "" if gap <= tolerance(rows) else ", wrong"
            lines.append([str(who), *seconds[: len(lines[0]) - 4], *ratios, f"{gap:.0e}{wrong}"])
        parts.append(f"**{head}**\n\n{markdown(lines)}")
    return "\n\n".join(parts)


def _exactness(exact: pd.DataFrame) -> Table:
    if exact.empty:
        return []
    wide = exact.pivot(index="case", columns="implementation", values="error")
    cells = [
        [str(case), *("-" if math.isnan(v) else f"{v:.0e}" for v in row)]
        for case, row in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    return [["case", *map(str, wide.columns)], *cells]


def _memory(memory: pd.DataFrame) -> Table:
    rows = [["workload", "T", "implementation", "budget", "peak MB", "seconds"]]
    for row in memory.to_dict("records"):
        ours = row["implementation"] == "ours"
        cells = [
            row["workload"],
            row["steps"],
            row["implementation"],
            row["budget"] if ours else "",
        ]
        rows.append([*map(str, cells), f"{row['mb']:.0f}", f"{row['seconds']:.3f}"])
    return rows


def _memory_ratio(memory: pd.DataFrame) -> tuple[float, str] | None:
    """Of ours with a budget to the smallest peer, at the most inner steps."""
    if memory.empty:
        return None
    last = memory[memory.steps == memory.steps.max()]
    ours = last[(last.implementation == "ours") & (last.budget.astype(str) != "auto")]
    peers = last[last.implementation != "ours"].set_index("implementation").mb
    if ours.empty or peers.empty:
        return None
    return float(ours.mb.iloc[0] / peers.min()), str(peers.idxmin())


def _slower(memory: pd.DataFrame) -> float:
    ours = memory[(memory.implementation == "ours") & (memory.budget.astype(str) != "auto")]
    return float(ours.seconds.iloc[0] / memory[memory.implementation != "ours"].seconds.min())


def _medians(commands: pd.DataFrame) -> dict[str, float]:
    if commands.empty:
        return {}
    medians = commands.groupby("what", sort=False).seconds.median()
    return {str(name): float(value) for name, value in medians.items()}


def _commands(commands: pd.DataFrame) -> Table:
    medians = _medians(commands)
    rows = [
        ["what", "seconds"],
        *([n, "refused" if math.isnan(value) else f"{value:.4g}"] for n, value in medians.items()),
    ]
    logged = [value for n, value in medians.items() if n.startswith("a step")]
    if len(logged) == 2:
        every, none = logged
        rows.append(["logging every step, percent of a step", f"{100 * (every / none - 1):.1f}"])
    return rows


def _read(folder: Path, name: str) -> pd.DataFrame:
    path = folder / f"{name}.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame()


def markdown(rows: Sequence[Sequence[str]]) -> str:
    if len(rows) < 2:
        return "Not measured."
    rule = ["---"] * len(rows[0])
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))
