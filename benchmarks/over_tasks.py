"""How often intervals over several tasks hold: the table of docs/report.md, "Several tasks".

    python -m benchmarks.over_tasks

Scores of one method on four tasks are drawn with known means, and given to the functions that a
report calls. `bootstrap` is the stratified percentile bootstrap of rliable (Agarwal et al., 2021).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from bilevel_cli.report.across import improvement, normalised

Numbers = NDArray[np.float64]
Scores = list[Numbers]  # of each task, of shape [runs]
Ends = tuple[float, float]

SEEDS = (3, 5, 10)
LEVELS = (-0.6, -0.2, 0.2, 0.6)  # the means of the tasks, which are symmetric around 0
DEVIATION = 0.3
AHEAD = 0.4  # how far one method is ahead of the other, where P(better) is asked for
THRESHOLD = 0.1  # of a profile
TRIALS, RESAMPLES = 2000, 1000


def drawn(random: np.random.Generator, runs: int, ahead: float = 0.0) -> Scores:
    return [random.normal(level + ahead, DEVIATION, runs) for level in LEVELS]


def bootstrap(
    random: np.random.Generator, samples: list[Scores], value: Callable[..., Numbers]
) -> Ends:
    """The percentile interval of a value of samples whose runs are resampled task by task."""
    resampled = [
        [one[random.integers(0, len(one), (RESAMPLES, len(one)))] for one in some]
        for some in samples
    ]
    low, high = np.quantile(value(*resampled), [0.025, 0.975])
    return float(low), float(high)


def mean(x: Scores) -> Numbers:
    return np.asarray(np.mean([one.mean(-1) for one in x], axis=0))


def interquartile(x: Scores) -> Numbers:
    every = np.sort(np.concatenate(x, axis=-1), axis=-1)
    cut = every.shape[-1] // 4
    return np.asarray(every[..., cut : every.shape[-1] - cut].mean(-1))


def above(x: Scores) -> Numbers:
    return np.asarray(np.mean([(one > THRESHOLD).mean(-1) for one in x], axis=0))


def better(x: Scores, y: Scores) -> Numbers:
    won = [(a[..., :, None] > b[..., None, :]).mean((-2, -1)) for a, b in zip(x, y, strict=True)]
    return np.asarray(np.mean(won, axis=0))


def covered(runs: int) -> dict[str, tuple[float, float]]:
    """How often the interval of a report, and a bootstrap one, contain what is true."""
    random, resampling = np.random.default_rng(runs), np.random.default_rng(0)
    part = float(np.mean(ndtr((np.array(LEVELS) - THRESHOLD) / DEVIATION)))
    chance = float(ndtr(AHEAD / DEVIATION / np.sqrt(2)))
    counts = {name: [0, 0] for name in ("mean", "IQM", "profile", "P, equal", "P, one ahead")}

    def note(name: str, true: float, own: Ends, other: Ends) -> None:
        counts[name][0] += own[0] <= true <= own[1]
        counts[name][1] += other[0] <= true <= other[1]

    for _ in range(TRIALS):
        x, y, z = drawn(random, runs), drawn(random, runs), drawn(random, runs, AHEAD)
        for name, take, value in (
            ("mean", normalised.mean, mean),
            ("IQM", normalised.interquartile, interquartile),
        ):
            found = take(x)
            note(name, 0.0, (found.low, found.high), bootstrap(resampling, [x], value))
        _, low, high = normalised.profile(x, np.array([THRESHOLD]))
        note("profile", part, (float(low[0]), float(high[0])), bootstrap(resampling, [x], above))
        sizes = [(runs, runs)] * len(LEVELS)
        for name, one, true in (("P, equal", x, 0.5), ("P, one ahead", z, chance)):
            own = improvement.interval(improvement.probability(one, y), sizes)
            note(name, true, own, bootstrap(resampling, [one, y], better))
    return {name: (own / TRIALS, other / TRIALS) for name, (own, other) in counts.items()}


def table() -> str:
    """The table in Markdown, in per cent; 95 would be right."""
    found = {runs: covered(runs) for runs in SEEDS}
    names = list(found[SEEDS[0]])
    lines = [
        "| seeds a task | interval | " + " | ".join(names) + " |",
        "| --- | --- |" + " --- |" * len(names),
    ]
    for runs, one in found.items():
        for place, kind in enumerate(("of a report", "bootstrap")):
            numbers = " | ".join(f"{100 * one[name][place]:.0f}" for name in names)
            lines.append(f"| {runs if not place else ''} | {kind} | {numbers} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
