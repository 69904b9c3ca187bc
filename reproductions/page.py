"""docs/reproductions.md and its figures, from what the runs left behind alone."""

import os
import platform
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from reproductions import figure
from reproductions.item import Item, Row
from reproductions.results import Results

INTRODUCTION = """# The papers, run again

Every number of a paper that this project can reach, next to ours, with a verdict. The table below
says how many of each paper are *reproduced*; a section for each follows, with its commands.

```sh
make reproduce-quick    # a quarter of an hour on two cores
make reproduce          # about five hours of a core; downloads MNIST
```

Both continue where they were stopped. Rows marked "not run" are those of `make reproduce`.

**How to read a row.** "published" is what the paper says, or what "source" says. Figures of the
papers were read off by eye, to about 0.02. "derived here" is a number recomputed independently of
this project's code from the settings stated, where a paper prints none; "theory" needs no
computation. Verdicts are computed: *reproduced* where ours is within the tolerance, *differs*
where it is not, with what is known of the reason.

Written by `python -m reproductions` from the CSV files of the runs; nothing here is typed."""

ABSENT = """## What is not here

* Few-shot classification (IAPTT-GM, Table 2): 80,000 outer steps of a ResNet-12 on mini- and
  tieredImageNet are days of a GPU. `experiment=iaptt_mini_imagenet_5way_1shot` and its three
  relatives are the settings of the released code; they compose, and have not been run.
* Hyper-cleaning of two layers at 5000 examples and 3000 outer steps: 33 hours of two cores.
* The columns of CIFAR-10 and of the augmentation network in Table 3 of the paper on implicit bias:
  `experiment=implicit_bias_cifar10` and `implicit_bias_augmentation`, not run at their size.
* Table 1 of IAPTT-GM, gigabytes and seconds of a scalar problem: a property of its machine."""


def write(items: dict[str, Item], outputs: Path, page: Path) -> None:
    """Writes the page, and its figures into the folder of its name beside it.

    Args:
        items: By name.
        outputs: The folder with a folder for each item.
        page: Where to.
    """
    rows = {name: item.rows(Results(outputs / name)) for name, item in items.items()}
    sections = [INTRODUCTION, _machine(items, outputs), _summary(items, rows, outputs)]
    for name, item in items.items():
        results = Results(outputs / name)
        sections += [
            f"## {item.order}. {item.title}",
            f"{item.about} {tally(rows[name])}.",
            f"    {_command(name, item)}",
        ]
        there = any(row.verdict != "not run" for row in rows[name])
        for wanted in item.figures if there else ():
            path = page.parent / page.stem / f"{wanted.name}.png"
            figure.draw(wanted, results, path)
            sections.append(f"![{wanted.name}]({page.stem}/{path.name})\n\n*{wanted.caption}*")
        for table in item.tables if there else ():
            sections.append(f"{_markdown(table.cells(results))}\n\n*{table.caption}*")
        sections += [_comparison(rows[name]), f"**Not reproduced, and why.** {item.open}"]
        sections += [_settings(item)] if item.runs else []
    sections.append(ABSENT)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n\n".join(sections) + "\n")
    print(f"Wrote {page}: {tally([row for part in rows.values() for row in part])}")


def _command(name: str, item: Item) -> str:
    some = item.measure or any(run.quick for run in item.runs)
    return f"python -m reproductions {'quick' if some else 'full'} --only {name}"


def tally(rows: Iterable[Row]) -> str:
    counts = Counter(row.verdict for row in rows)
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items(), key=_order))


def _order(pair: tuple[str, int]) -> int:
    return ("reproduced", "differs", "not run").index(pair[0])


def _machine(items: dict[str, Item], outputs: Path) -> str:
    """Where the runs were made, by their manifests."""
    found: dict[str, list[str]] = {}
    for name, item in items.items():
        for run in item.runs:
            manifest = Results(outputs / name).manifest(run.name)
            if manifest:
                versions = manifest["versions"]
                found.setdefault("commit", []).append(str(manifest["git_commit"])[:12])
                found.setdefault("torch", []).append(versions["torch"])
                found.setdefault("python", []).append(versions["python"])
                found.setdefault("date", []).append(manifest["started"][:10])
    lines = [f"* {what}: {', '.join(sorted(set(those)))}" for what, those in found.items()]
    lines.append(f"* machine: {platform.machine()}, {os.cpu_count()} cores, one for each run")
    return "\n".join(lines)


def _summary(items: dict[str, Item], rows: dict[str, list[Row]], outputs: Path) -> str:
    table = [["item", "reproduced", "differs", "not run", "runs", "core seconds"]]
    for name, item in items.items():
        counts = Counter(row.verdict for row in rows[name])
        runs, seconds = cost(Results(outputs / name), item)
        verdicts = [str(counts[verdict]) for verdict in ("reproduced", "differs", "not run")]
        link = f"[{item.order}. {item.title}](#{_anchor(f'{item.order}. {item.title}')})"
        table.append([link, *verdicts, str(runs), f"{seconds:.0f}"])
    return _markdown(table)


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    kept = (c for c in heading.lower() if c.isalnum() or c in " -_")
    return "".join(kept).replace(" ", "-")


def cost(results: Results, item: Item) -> tuple[int, float]:
    """How many runs of an item were made, and in how many seconds of a core each, together."""
    manifests = [results.manifest(run.name) for run in item.runs]
    ended = [found for found in manifests if found.get("ended")]
    moment = datetime.fromisoformat
    spans = [moment(found["ended"]) - moment(found["started"]) for found in ended]
    return len(spans), sum(span.total_seconds() for span in spans)


def _comparison(rows: Sequence[Row]) -> str:
    table = [["quantity", "published", "source", "ours", "tolerance", "verdict"]]
    for row in rows:
        verdict = row.verdict if row.verdict == "reproduced" else f"**{row.verdict}**: {row.why}"
        expected = row.expected
        cells = [row.quantity, expected.published, row.source, shown(row.ours)]
        table.append([*cells, expected.tolerance, verdict])
    return _markdown(table)


def shown(number: float) -> str:
    if number != number:
        return "-"
    return "diverged" if number == float("inf") else f"{number:.4g}"


def _settings(item: Item) -> str:
    lines = [
        f"    python -m bilevel_cli {shlex.join(run.command)}  # {run.name}" for run in item.runs
    ]
    head = f"<details><summary>The {len(lines)} commands</summary>"
    return "\n".join([head, "", *lines, "", "</details>"])


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)
