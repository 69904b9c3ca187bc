"""What the kernels of affine layers gain: each `device.linear` against `device.linear=torch`."""

import statistics

from benchmarks.timing import measure
from benchmarks.workloads import cases
from bilevel_cli.nn import affine

SETTINGS = ("torch", "fixed", "auto")
# Cases whose inner problems are affine layers.
WORKLOADS = ("cleaning", "pessimistic step middle")


def run(size: str, device: str, rounds: int, only: str) -> None:
    """Prints a table of wall seconds of one hypergradient, medians over rounds.

    Args:
        size: Of the workloads: "full", "quick" or "tiny".
        device: Option of `bilevel-run`.
        rounds: Times with each setting, which take turns.
        only: Cases whose name contains this.
    """
    print("| workload | torch | fixed | auto | torch / fixed | torch / auto |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, make in cases(size, [f"device={device}"]).items():
        if not name.startswith(WORKLOADS) or only not in name:
            continue
        case = make()
        where = next(case.model.parameters()).device
        seconds: dict[str, list[float]] = {setting: [] for setting in SETTINGS}
        for number in range(-1, rounds):  # the first is a warm-up
            for setting, found in seconds.items():
                affine.use(setting)
                wall, _, _ = measure(case.ours, where)
                if number >= 0:
                    found.append(wall)
        torch, *others = map(statistics.median, seconds.values())
        cells = [f"{torch:.3f}", *(f"{one:.3f}" for one in others)]
        cells += [f"{torch / one:.2f}" for one in others]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
