"""Sessions of a terminal that a document shows: commands, each with what it printed.

```console
$ bilevel-check method=cg
method  verdict
cg      ok
```
"""

import re
from dataclasses import dataclass
from pathlib import Path

NUMBER = re.compile(r"[-+]?\d[\d_.:]*(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Shown:
    """One command of a document.

    Args:
        command: What a reader types, continued lines joined.
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
        for line in block.replace("\\\n", "").splitlines():
            if line.startswith("$ "):
                found.append(Shown(re.sub(r"\s+#.*|(?<= )\s+", "", line[2:]), []))
            else:
                found[-1].output.append(line)
    return found


def shape(lines: list[str]) -> list[str]:
    """`lines` with every number replaced, spaces and rules of tables as one.

    Two outputs of one command that differ in numbers alone have one shape. Empty lines count for
    nothing.
    """
    shapes = (re.sub(r"\s+", " ", NUMBER.sub("#", line)).strip() for line in lines)
    return [re.sub(r"-{2,}", "--", line) for line in shapes if line]
