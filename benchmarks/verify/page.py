"""The JSON and the page of a verification. They have the hardware's name, or say simulated."""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import markdown
from benchmarks.verify.rows import FAILED, NOT_SHOWN, PASSED, Figure, Row
from benchmarks.verify.schedule import Outcome
from benchmarks.verify.sections import Section

FORMAT = 1
JSON, PAGE = "verify-gpu.json", "verify-gpu.md"
LISTED = 60  # rows of a section on the page; of more, only those that failed. The JSON has all
VERSIONS = "versions"  # the section whose figures name the hardware
UNKNOWN = "a GPU whose name could not be read"


def write(
    out: Path,
    simulated: bool,
    loaded: Mapping[str, Section],
    found: Mapping[str, Outcome],
) -> None:
    """Writes verify-gpu.json and verify-gpu.md.

    Args:
        out: The folder for them.
        simulated: Whether the device was a simulated one: then no seconds are written.
        loaded: The sections by name.
        found: How those that have ended did.
    """
    report = described(simulated, loaded, found)
    for name, text in ((JSON, json.dumps(report, indent=1)), (PAGE, page(report))):
        path = out / name
        path.with_suffix(".partial").write_text(text + "\n")
        path.with_suffix(".partial").replace(path)  # whole, whenever the command is ended


def verdict(simulated: bool, loaded: Mapping[str, Section], found: Mapping[str, Outcome]) -> str:
    """A sentence for all sections."""
    good = (PASSED, NOT_SHOWN)
    bad = [loaded[name].TITLE for name in loaded if name in found and found[name].state not in good]
    waiting = [loaded[name].TITLE for name in loaded if name not in found]
    if bad:
        return f"Not verified: {'; '.join(bad)}."
    if waiting:
        return f"Not at its end yet: {'; '.join(waiting)}."
    return "The dry run came to its end." if simulated else "All sections passed."


def described(
    simulated: bool, loaded: Mapping[str, Section], found: Mapping[str, Outcome]
) -> dict[str, Any]:
    """What the JSON holds."""
    versions = found[VERSIONS].rows if VERSIONS in found else []
    hardware = dict(versions[0].figures) if versions else {}
    name = "simulated" if simulated else hardware.get("GPU", UNKNOWN)
    sections = []
    for key in filter(found.__contains__, loaded):
        section, outcome = loaded[key], found[key]
        told = " ".join(filter(None, (section.summary(outcome.rows), outcome.told)))
        entry: dict[str, Any] = {
            **{"name": key, "title": section.TITLE, "about": section.ABOUT},
            **{"state": outcome.state, "told": told, "items": outcome.total},
            "rows": [
                {"item": r.item, "state": r.state, "told": r.told, "figures": dict(r.figures)}
                for r in outcome.rows
            ],
        }
        if not simulated:
            entry["seconds"] = round(outcome.seconds, 1)
        sections.append(entry)
    return {
        "format": FORMAT,
        "simulated": simulated,
        "device": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": hardware,
        "verdict": verdict(simulated, loaded, found),
        "sections": sections,
    }


def page(report: Mapping[str, Any]) -> str:
    """The page, in Markdown, of what the JSON holds."""
    simulated = report["simulated"]
    title = (
        "# The GPU path on a simulated device: a dry run, no GPU"
        if simulated
        else f"# The GPU path on {report['device']}"
    )
    about = SIMULATED if simulated else MEASURED
    head = ["section", "result", "items", *([] if simulated else ["seconds"])]
    overview = [head]
    for one in report["sections"]:
        counts = f"{len(one['rows'])} of {one['items']}"
        seconds = [] if simulated else [f"{one['seconds']:.0f}"]
        overview.append([one["title"], one["state"], counts, *seconds])
    parts = [title, about, f"{report['date']}. **{report['verdict']}**", markdown(overview)]
    for one in report["sections"]:
        rows = [Row(**row) for row in one["rows"]]
        listed = rows if len(rows) <= LISTED else [row for row in rows if row.state == FAILED]
        words = f"{one['state'].capitalize()}. {one['told']}".strip()
        parts += [f"## {one['title']}", one["about"], words]
        if listed:
            parts.append(in_a_line(listed) or table(listed))
    return "\n\n".join(parts)


def in_a_line(rows: Sequence[Row]) -> str:
    """Items of which the same is told, and no figures; "" where there is more to say of one."""
    told = {(row.state, row.told) for row in rows}
    if len(told) > 1 or len(rows) == 1 or any(row.figures for row in rows):
        return ""
    return f"{rows[0].told} {'; '.join(row.item for row in rows)}.".strip()


def table(rows: Sequence[Row]) -> str:
    """The rows, with a column for each figure that any of them has."""
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    if len(rows) == 1 and names:  # facts of one thing, below each other
        lines = [["what", rows[0].item], *([n, shown(v)] for n, v in rows[0].figures.items())]
        return markdown(lines)
    told = ["told"] if any(row.told for row in rows) else []
    lines = [["item", "result", *names, *told]]
    for row in rows:
        figures = [shown(row.figures.get(name)) for name in names]
        lines.append([row.item, row.state, *figures, *([cell(row.told)] if told else [])])
    return markdown(lines)


def shown(figure: Figure) -> str:
    """A figure as a cell of a table."""
    if figure is None:
        return ""
    if isinstance(figure, bool):
        return "yes" if figure else "no"
    return f"{figure:.3g}" if isinstance(figure, float) else cell(str(figure))


def cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


MEASURED = """Written by `make verify-gpu`: whether runs on this GPU give the numbers of a CPU,
repeat, go on where they stopped and stay within their memory, and how long their steps take. What
was found of each item is in `verify-gpu.json`."""
SIMULATED = """Written by `python -m benchmarks.verify --simulate`. **No GPU was used.** The
simulated device computes on the CPU and refuses what a GPU refuses. So the checks are shown to come
to their end, and the code to mix no devices. No speed, no memory, no kernel and no precision of a
GPU is shown: what only hardware can show is marked "not shown". What was found of each item is in
`verify-gpu.json`."""
