"""Sessions of a terminal that a document shows: commands, each with what it printed.

    ```console
    $ bilevel-check method=cg
    method  verdict
    cg      ok
    ```

A line `...` stands for lines that are left out.
"""

import re
from dataclasses import dataclass
from pathlib import Path

NUMBER = re.compile(r"(?<![A-Za-z])[-+]?\d[\d,.:]*(?:e[-+]?\d+)?|(?<=[A-Z])\d+")
LEFT_OUT = "..."


@dataclass(frozen=True)
class Shown:
    """One command of a document.

    Args:
        command: What a reader types.
        output: The lines below it.
    """

    command: str
    output: list[str]


def transcripts(document: Path) -> list[Shown]:
    """The commands of all ``console`` blocks of `document`, in order."""
    found: list[Shown] = []
    for block in re.findall(
        r"^```console\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE
    ):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Shown(line[2:], []))
            else:
                found[-1].output.append(line)
    return found


def shape(lines: list[str]) -> list[str]:
    """`lines` with # for every number, one space for many, and without those that are empty.

    Two outputs of one command that differ in numbers alone have one shape. How a report writes an
    interval, and whether it finds a row to be worse, are for its numbers to say.
    """
    shapes = (re.sub(r"\s+", " ", NUMBER.sub("#", line)).strip() for line in lines)
    shapes = (re.sub(r"# \[#, #\]", "# +- #", line) for line in shapes)
    shapes = (line.replace("worse by # +- #", "level") for line in shapes)
    return [re.sub(r"-{2,}", "--", line) for line in shapes if line]


def shown_by(output: list[str], printed: list[str]) -> bool:
    """Whether what a document shows is of the shape of what was printed.

    But for news of how far a run is, which come where it takes long.
    """
    printed = [line for line in printed if not re.match(r"Step \d+ of \d", line)]
    parts = [re.escape(line) + "\n" if line != LEFT_OUT else "(?:.*\n)*?" for line in shape(output)]
    return re.fullmatch("".join(parts), "".join(f"{line}\n" for line in shape(printed))) is not None
