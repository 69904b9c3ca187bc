"""Means, differences and families of comparisons, held to scipy's."""

import math

import numpy as np
import pytest
from scipy import special, stats

from bilevel_cli.report.compare import scales, statistics
from bilevel_cli.report.compare.estimates import student


def scores(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([n, seed]).normal(size=n)


def test_the_interval_of_a_mean_is_student_s() -> None:
    values = [0.91, 0.95, 0.93, 0.99]
    found = student(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((0.945, low, high), rel=1e-12)
    # By hand, of 1, 2, 3: deviation 1, t of 2 degrees of freedom 4.302653.
    assert student([1, 2, 3]).high == pytest.approx(2 + 4.302653 / math.sqrt(3), rel=1e-6)


def test_one_seed_has_a_value_and_no_interval() -> None:
    for iqm in (False, True):
        found = student([0.5], iqm)
        assert (found.value, found.n) == (0.5, 1)
        assert math.isnan(found.low)
        assert math.isnan(student([], iqm).value)


@pytest.mark.parametrize("n", range(2, 13))
def test_the_interquartile_mean_and_its_interval_are_scipy_s_trimmed_ones(n: int) -> None:
    values = scores(n)
    found = student(list(values), iqm=True)
    assert found.value == pytest.approx(stats.trim_mean(values, 0.25), rel=1e-12)
    cut = n // 4 / n + 1e-9  # scipy leaves out int(cut * n) at either end
    low, high = stats.mstats.trimmed_mean_ci(values, (cut, cut))
    # Yuen's error, which scipy has in its tests, is larger than Tukey's, which it has here.
    kept = n - 2 * (n // 4)
    half = math.sqrt((n - 1) * kept / (n * (kept - 1))) * (high - low) / 2
    assert found.high - found.value == pytest.approx(half, rel=1e-6)
    assert found.value - found.low == pytest.approx(half, rel=1e-6)


@pytest.mark.parametrize("n", range(2, 13))
def test_seeds_in_common_are_compared_by_scipy_s_paired_test(n: int) -> None:
    one, other = scores(n), scores(n, 1)
    found = statistics.difference(dict(enumerate(one)), dict(enumerate(other)))
    assert found is not None
    twin = stats.ttest_rel(one, other)
    assert (found.pairs, float(found.measured.p())) == pytest.approx((n, twin.pvalue))
    interval = twin.confidence_interval(0.99)
    assert found.measured.interval(0.99) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 5), (10, 4), (8, 9)])
@pytest.mark.parametrize("iqm", [False, True])
def test_seeds_apart_are_compared_by_scipy_s_test_of_welch_or_yuen(
    n: int, m: int, iqm: bool
) -> None:
    one, other = scores(n), 2 * scores(m, 1)
    found = statistics.difference(
        dict(enumerate(one)), {f"s{i}": v for i, v in enumerate(other)}, iqm
    )
    assert found is not None
    trim = 0.25 if iqm else 0.0
    twin = stats.ttest_ind(one, other, equal_var=False, trim=trim)
    assert (found.pairs, float(found.measured.p())) == pytest.approx((0, twin.pvalue))


def test_interquartile_means_of_common_seeds_differ_as_yuen_says() -> None:
    one, other = scores(8), scores(8, 1)
    # By hand, of 8 values: two are left out at either end, four are kept.
    ordered = [np.sort(values) for values in (one, other)]
    wins = [np.clip(v, s[2], s[5]) for v, s in zip((one, other), ordered, strict=True)]
    covariance = np.cov(*wins)
    variance = (covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]) * 7 / (4 * 3)
    found = statistics.paired(one, other, iqm=True)
    assert float(found.value) == pytest.approx(ordered[0][2:6].mean() - ordered[1][2:6].mean())
    assert float(found.error) == pytest.approx(math.sqrt(variance))
    assert float(found.freedom) == 3


def near_one(n: int, seed: int) -> np.ndarray:
    return 1 - np.random.default_rng([n, seed]).exponential(0.02, n)


def test_scores_near_a_bound_are_compared_by_scipy_s_test_of_their_logits() -> None:
    one, other = near_one(6, 0), near_one(6, 1)
    scale = scales.scale_of([one, other], 0, 1)
    found = statistics.difference(dict(enumerate(one)), dict(enumerate(other)), scale=scale)
    assert found is not None
    twin = stats.ttest_rel(special.logit(one), special.logit(other))
    assert found.p == pytest.approx(twin.pvalue)
    assert found.value == pytest.approx(one.mean() - other.mean())
    # Beyond the difference, t of the scores and 2 r^2 / d; both locations are d from the bound.
    plain = stats.ttest_rel(one, other).confidence_interval(0.95)
    longer = 2 * ((plain.high - plain.low) / 2) ** 2 / (2 - one.mean() - other.mean())
    assert max(map(abs, found.interval())) == pytest.approx(
        max(abs(plain.low), abs(plain.high)) + longer
    )


def test_an_interval_excludes_0_where_the_test_of_its_scale_does() -> None:
    random = np.random.default_rng(0)
    agreed = 0
    for _ in range(200):
        one, other = random.lognormal(0, 1, 6), random.lognormal(0.8, 1, 6)
        found = statistics.difference(
            dict(enumerate(one)), dict(enumerate(other)), scale=scales.LOGARITHMS
        )
        assert found is not None
        low, high = found.interval(0.95)
        assert low <= found.value <= high
        alike = found.value * float(found.measured.value) > 0
        assert (low > 0 or high < 0) == (found.p <= 0.05 and alike)
        agreed += found.p <= 0.05
    assert 10 < agreed < 190  # of both kinds there were some


def test_scores_are_compared_as_they_are_unless_many_are_skewed_by_a_bound() -> None:
    random = np.random.default_rng(0)
    near, far = near_one(20, 0), 0.9 + 0.01 * random.standard_normal(20)
    losses = random.lognormal(0, 1, 20)
    assert scales.scale_of([near, near], 0, 1) is scales.LOGITS
    assert scales.scale_of([losses, losses], 0, math.inf) is scales.LOGARITHMS
    for plain in ([far, far], [far, near, far], [near, np.ones(3)], [near[:1], near[:1]], []):
        assert scales.scale_of(plain, 0, 1) is scales.PLAIN
    unbounded = (-math.inf, math.inf)
    assert scales.scale_of([losses, losses], *unbounded) is scales.PLAIN


def test_an_interval_is_longer_away_from_a_bound_and_ends_at_it() -> None:
    # By hand, of 0.8, 0.9 and 1.0: mean 0.9, r = 4.3027 * 0.1 / sqrt(3) = 0.24842, d = 0.1.
    found = student([0.8, 0.9, 1.0], bounds=(0, 1))
    r = 4.302653 * 0.1 / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((max(0, 0.9 - r - 2 * r**2 / 0.1), 1), abs=1e-6)
    small = student([0.94, 0.95, 0.96], bounds=(0, 1))
    r /= 10
    assert small.low == pytest.approx(0.95 - r - 2 * r**2 / 0.05, rel=1e-6)
    assert small.high == pytest.approx(0.95 + r + 2 * r**2 / 0.95, rel=1e-6)
    same = student([1.0, 1.0, 1.0], bounds=(0, 1))
    assert (same.low, same.high) == (1, 1)


@pytest.mark.parametrize(
    ("one", "other", "pairs"),
    [
        (range(10), range(10), 10),
        (range(10), range(3), 3),  # all of the fewer
        (range(10), range(5, 15), 5),  # half
        (range(10), range(8, 18), 0),  # two of ten: as good as none
        (range(3), range(1, 4), 0),  # two of three are too few to be paired
        (range(2), range(2), 2),
        (range(3), range(3, 6), 0),
    ],
)
def test_seeds_are_paired_where_most_are_common(one: range, other: range, pairs: int) -> None:
    found = statistics.difference(
        {seed: float(seed) for seed in one}, {seed: seed / 3 for seed in other}
    )
    assert found is not None
    assert found.pairs == pairs


def test_one_seed_is_not_compared() -> None:
    assert statistics.difference({0: 1.0}, {0: 1.0, 1: 2.0}) is None
    assert statistics.difference({0: 1.0, 1: 2.0}, {0: 1.0}) is None


def test_what_does_not_vary_differs_for_sure_or_not_at_all() -> None:
    same = {0: 0.1, 1: 0.1}
    for other, p in ((0.1, 1.0), (0.2, 0.0), (0.1 + 1e-17, 1.0), (0.3 - 0.2, 1.0)):
        found = statistics.difference(same, dict.fromkeys(same, other))
        assert found is not None
        assert float(found.measured.p()) == p
    with np.errstate(over="ignore", invalid="ignore"):
        infinite = statistics.paired(np.array([1e308, -1e308, 1e308]), np.zeros(3))
        assert float(infinite.p()) == 1
        low, high = infinite.interval()
        assert (float(low), float(high)) == (-np.inf, np.inf)


def test_holm_s_steps_are_those_of_his_paper() -> None:
    # By hand: 0.05 / 3, 0.05 / 2 and, since 0.03 is larger than that, no further step.
    found = statistics.holm([0.03, 0.001, 0.04])
    assert found == pytest.approx([0.05 / 2, 0.05 / 3, 0.05 / 2])
    assert statistics.holm([0.01, 0.02, 0.03]) == pytest.approx([0.05 / 3, 0.05 / 2, 0.05])
    assert statistics.holm([]) == []


def test_the_best_of_several_shares_the_error_among_all_pairs() -> None:
    # Of four configurations: 6 pairs, then 3 of the three that are left, then 1.
    found = statistics.holm([0.001, 0.002, 0.003], chosen=True)
    assert found == pytest.approx([0.05 / 6, 0.05 / 3, 0.05])
    assert statistics.holm([0.03], chosen=True) == pytest.approx([0.05])


@pytest.mark.parametrize(
    ("n", "value", "low", "high"),
    [
        (3, -0.032215687734406785, -2.5556650313141818, 2.0409191213851825),
        (5, -0.20994926976105818, -1.1502164721699124, 0.8975127676816023),
        (8, -1.0016489652802187, -1.6810333911389628, -0.18889719608460778),
        (10, -0.09262190298515334, -0.6053861717421041, 0.47256876522416746),
    ],
)
def test_the_interquartile_mean_is_rliable_s_and_its_interval_is_no_narrower(
    n: int, value: float, low: float, high: float
) -> None:
    # Of rliable 1.2.0: get_interval_estimates of aggregate_iqm, with 20 000 resamples.
    found = student(list(scores(n)), iqm=True)
    assert found.value == pytest.approx(value, rel=1e-12)
    assert found.low < low
    assert found.high > high
