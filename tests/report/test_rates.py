"""How often a report is right, on scores whose means are known: benchmarks/comparisons.py."""

import numpy as np
import pytest

from benchmarks import comparisons
from bilevel_cli.report.compare import scales, statistics

KINDS = list(comparisons.KINDS)
EQUAL = [np.zeros(methods) for methods in (2, 10)]


@pytest.mark.parametrize("kind", KINDS)
def test_five_of_a_hundred_equal_pairs_are_called_different(kind: str) -> None:
    pairs = {seeds: comparisons.drawn(kind, 4000, seeds, EQUAL[0]) for seeds in comparisons.SEEDS}
    for seeds, scores in pairs.items():
        # 4 to 6 %, and as much as 4000 pairs may be off by chance: twice their deviation.
        assert 0.033 < comparisons.called_worse(kind, scores) < 0.067, seeds
    # The percentile bootstrap that reports had called four times as many different.
    assert comparisons.called_worse_before(pairs[3][:200]) > 0.12


@pytest.mark.parametrize("kind", KINDS)
def test_no_equal_method_of_ten_is_called_worse_in_nineteen_of_twenty_reports(kind: str) -> None:
    for seeds in comparisons.SEEDS:
        scores = comparisons.drawn(kind, 1000, seeds, EQUAL[1])
        assert comparisons.called_worse(kind, scores) < 0.06, seeds
    assert comparisons.called_worse_before(scores[:50]) > 0.5


def test_holm_s_correction_alone_forgets_that_the_best_was_chosen() -> None:
    scores = comparisons.drawn("normal", 1000, 10, EQUAL[1])
    assert comparisons.called_worse("normal", scores, chosen=False) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_the_interval_of_a_mean_contains_it(kind: str) -> None:
    for seeds in comparisons.SEEDS:
        held, _ = comparisons.coverage(kind, seeds, iqm=False, before=False, samples=4000)
        assert held > 0.94, seeds


def test_the_interval_of_student_does_not_near_a_bound() -> None:
    for kind, share in zip(KINDS, (0.95, 0.89, 0.82), strict=True):
        held, _ = comparisons.coverage(kind, 5, iqm=False, before=True)
        assert held == pytest.approx(share, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seeds", comparisons.SEEDS)
def test_rates_are_those_of_the_page(kind: str, seeds: int) -> None:
    count = comparisons.FAMILIES
    pairs = comparisons.drawn(kind, count, seeds, np.zeros(2))
    assert 0.04 < comparisons.called_worse(kind, pairs) < 0.06
    apart = comparisons.drawn(kind, count, seeds, np.zeros(2), shared=0.0)
    assert comparisons.called_worse(kind, apart, in_pairs=False) < 0.06  # Welch's errs to this side
    for methods in (3, 5, 10, 20):
        equal = comparisons.drawn(kind, count // 4, seeds, np.zeros(methods))
        assert comparisons.called_worse(kind, equal) < 0.06, methods
    for iqm in (False, True):
        held, _ = comparisons.coverage(kind, seeds, iqm, before=False)
        assert held > (0.93 if iqm else 0.945)
    assert comparisons.all_right(kind, seeds, 2000) > 0.93
    assert comparisons.all_right(kind, seeds, 2000, higher=False) > 0.9


@pytest.mark.slow
def test_equal_means_of_which_one_varies_more_and_is_skewed_are_not_told_from_others() -> None:
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(3000):
        shared = random.standard_normal(10)
        pair = []
        for deviation in (0.1, 0.6):  # of logarithms; both have the mean 1
            own = np.sqrt(0.5) * shared + np.sqrt(0.5) * random.standard_normal(10)
            pair.append(np.exp(deviation * own - deviation**2 / 2))
        scale = scales.scale_of(pair, 0, np.inf)
        one, other = (dict(enumerate(values)) for values in pair)
        found = statistics.difference(one, other, scale=scale)
        assert found is not None
        low, high = found.interval()
        wrong += not low <= 0 <= high
    assert wrong / 3000 == pytest.approx(0.14, abs=0.02)  # as the page says
