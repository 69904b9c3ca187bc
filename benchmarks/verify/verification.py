"""One verification, from the sections to the page and the exit code."""

import shutil
from pathlib import Path

from benchmarks.verify import page, sections, simulation
from benchmarks.verify.rows import NOT_SHOWN, PASSED, Given
from benchmarks.verify.schedule import Outcome, carry_out


def verify(
    out: Path,
    simulated: bool,
    only: tuple[str, ...],
    pairs: tuple[tuple[str, ...], tuple[str, ...]],
    jobs: int,
    seconds: float,
) -> int:
    """Runs the sections, and writes the JSON and the page anew after each.

    Args:
        out: The folder for all that is written.
        simulated: Whether to simulate the GPU.
        only: The sections; all if there are none.
        pairs: The tasks and the methods of the pairs; likewise.
        jobs: How many processes may run at once.
        seconds: In which all have to end.

    Returns:
        The exit code: 1 where a section failed or ran out of time, or else 0.

    Raises:
        ValueError: A section is not known, or the folder has other files in it.
    """
    known = sections.names()
    if unknown := [name for name in only if name not in known]:
        raise ValueError(
            f"verify-gpu has the sections {', '.join(known)}, got --only {','.join(unknown)}."
        )
    if out.exists() and any(out.iterdir()) and not (out / page.JSON).exists():
        raise ValueError(
            f"verify-gpu needs an empty folder or that of an earlier one, got --out {out}."
        )
    simulation.let_tests_be_imported()
    given = Given(out, simulated, *pairs, jobs)
    shutil.rmtree(given.details, ignore_errors=True)
    given.details.mkdir(parents=True)
    loaded = {name: sections.load(name) for name in only or known}
    # Those that come first on the page begin first: the page soon has the name of the hardware.
    loaded = dict(sorted(loaded.items(), key=lambda item: item[1].ORDER))
    found: dict[str, Outcome] = {}

    def tell(name: str, outcome: Outcome) -> None:
        found[name] = outcome
        page.write(out, simulated, loaded, found)
        counts = f"{len(outcome.rows)} of {outcome.total} items"
        print(f"{loaded[name].TITLE}: {outcome.state}, {counts}. {outcome.told}", flush=True)

    page.write(out, simulated, loaded, found)
    carry_out(given, loaded, seconds, tell)
    print(f"{page.verdict(simulated, loaded, found)} Wrote {out / page.PAGE}")
    return int(any(one.state not in (PASSED, NOT_SHOWN) for one in found.values()))
