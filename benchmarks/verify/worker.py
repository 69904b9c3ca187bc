"""A process that checks items of one section until none is left.

    python -m benchmarks.verify.worker SECTION GIVEN

GIVEN is the JSON of `Given`. Torch is imported within: a simulated device comes before it.
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.verify import sections, simulation
from benchmarks.verify.rows import FAILED, NOT_SHOWN, PASSED, Given, Row

BROKEN = 70  # the exit code of a process whose GPU answers no more


def main(name: str, text: str) -> int:
    values: dict[str, Any] = json.loads(text)
    given = Given(**{**values, "out": Path(values["out"])})
    with simulation.entered(given.simulated):
        section = sections.load(name)
        ledger = given.ledger(name, section.items(given))
        while (item := ledger.claim()) is not None:
            row = checked(section, given, item)
            ledger.write(row)
            if row.state == FAILED and not _answers():
                return BROKEN  # whatever comes next would fail for the same reason
    return 0


def checked(section: sections.Section, given: Given, item: str) -> Row:
    """The row of an item; whatever its check raises is told.

    A simulated device shows no figure of hardware: where a section is of that kind, the row says
    only whether the check went to its end.
    """
    try:
        row = section.check(given, item)
    except Exception as error:  # the others go on
        first = (str(error).splitlines() or [""])[0]
        row = Row(item, FAILED, f"{type(error).__name__}: {first[:300]}")
    if given.simulated and section.HARDWARE and row.state == PASSED:
        return Row(item, NOT_SHOWN, "It ran to its end on a simulated device, which shows no more.")
    return row


def _answers() -> bool:
    """Whether the GPU still does what it is asked; after some errors none of its context does."""
    import torch  # here: behind the simulated device

    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").add_(1).cpu()
    except RuntimeError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
