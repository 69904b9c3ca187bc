"""The statistics of several tasks: against scipy, rliable, tables, and what chance does."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from bilevel_cli.report.across import friedman, improvement, normalised, pairings
from bilevel_cli.report.across.pairings import Kind
from bilevel_cli.report.compare.comparison import Estimate

Numbers = NDArray[np.float64]


def scores(tasks: int, runs: int, shift: float = 0.0, seed: int = 0) -> list[Numbers]:
    """Normal scores of one configuration, with means from 0 to 1 over the tasks."""
    random = np.random.default_rng(seed)
    return [random.normal(level + shift, 0.3, runs) for level in np.linspace(0, 1, tasks)]


# The probability of improvement


def test_the_probability_of_improvement_is_mann_whitney_s_share_of_all_pairs() -> None:
    x, y = scores(4, 7, 0.2), scores(4, 5, seed=1)
    y[0][:2] = x[0][:2]  # ties count one half
    shares = [stats.mannwhitneyu(a, b).statistic / (7 * 5) for a, b in zip(x, y, strict=True)]
    assert improvement.probability(x, y) == pytest.approx(np.mean(shares), rel=1e-12)


def test_a_run_that_failed_is_beaten_by_each_that_did_not() -> None:
    x = [np.array([1.0, -math.inf])]
    y = [np.array([-5.0, -math.inf])]
    # Of four pairs: 1 beats both, the failed one loses to -5 and is equal to the failed one.
    assert improvement.probability(x, y) == 2.5 / 4


@pytest.mark.parametrize(("m", "n"), [(3, 3), (10, 4)])
def test_the_variance_at_one_half_is_mann_and_whitney_s(m: int, n: int) -> None:
    # (m + n + 1) / (12 m n), of two samples of one distribution: Mann and Whitney (1947).
    one = (m + n + 1) / (12 * m * n)
    assert improvement.variance(0.5, [(m, n)]) == pytest.approx(one, rel=1e-12)
    assert improvement.variance(0.5, [(m, n)] * 4) == pytest.approx(one / 4, rel=1e-12)


def test_an_interval_has_a_width_where_one_won_all_pairs() -> None:
    x, y = [np.arange(3.0) + 10] * 4, [np.arange(3.0)] * 4
    assert improvement.probability(x, y) == 1
    low, high = improvement.interval(1.0, [(3, 3)] * 4)
    assert high == pytest.approx(1)
    assert 0.6 < low < 0.9


def covered(runs: int, shifts: tuple[float, ...], trials: int) -> float:
    """How often the interval of the probability of improvement contains it."""
    random = np.random.default_rng(1)
    # Two normals with deviation 1, a shift apart: P(X > Y) = Phi(shift / sqrt(2)).
    true = float(np.mean(stats.norm.cdf(np.array(shifts) / math.sqrt(2))))
    hits = 0
    for _ in range(trials):
        x = [random.normal(shift, 1, runs) for shift in shifts]
        y = [random.normal(0, 1, runs) for _ in shifts]
        low, high = improvement.interval(improvement.probability(x, y), [(runs, runs)] * len(x))
        hits += low <= true <= high
    return hits / trials


@pytest.mark.parametrize("runs", [3, 5, 10])
@pytest.mark.parametrize("shifts", [(0, 0, 0, 0), (1, 1, 1, 1), (3, 3, 3, 3), (2, 1, 0, -1)])
def test_the_interval_of_the_probability_of_improvement_covers(
    runs: int, shifts: tuple[float, ...]
) -> None:
    trials = 200
    # 95 % but for two standard deviations of the count of so many trials.
    assert covered(runs, shifts, trials) > 0.95 - 2 * math.sqrt(0.95 * 0.05 / trials)


# Ranks


def test_ranks_with_equal_places_share_their_mean() -> None:
    assert (
        friedman.ranked([[3, 1, 1, 2]]).tolist() == stats.rankdata([[3, 1, 1, 2]], axis=1).tolist()
    )


def test_friedman_s_p_value_is_scipy_s_where_tasks_are_many() -> None:
    random = np.random.default_rng(0)
    table = random.normal(size=(40, 5)) + np.array([0, 0, 0.1, 0.2, 0.4])
    ranks = stats.rankdata(table, axis=1)
    expected = stats.friedmanchisquare(*table.T).pvalue
    # That of chi square is a limit; 20 000 random tables know 0.05 to 0.0015.
    assert friedman.verdict(ranks).p == pytest.approx(expected, abs=0.01)


def test_friedman_s_p_value_is_that_of_all_rankings_where_tasks_are_few() -> None:
    ranks = np.array([[1, 2, 3], [1, 3, 2], [1, 2, 3], [2, 1, 3.0]])
    # By hand: all 6^4 tables of four rankings of three.
    every = itertools.product(itertools.permutations((1, 2, 3)), repeat=4)
    spread = [np.sum(table, axis=0).var() for table in every]
    expected = np.mean(np.array(spread) >= ranks.sum(0).var() - 1e-9)
    assert friedman.verdict(ranks).p == pytest.approx(expected, abs=0.01)
    assert stats.friedmanchisquare(*ranks.T).pvalue != pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("count", [3, 6])
def test_the_critical_difference_is_nemenyi_s_where_tasks_are_many(count: int) -> None:
    tasks = 60
    ranks = stats.rankdata(np.random.default_rng(0).normal(size=(tasks, count)), axis=1)
    # Demsar (2006): q / sqrt(2) * sqrt(k (k + 1) / 6 N), with q of the studentized range.
    q = stats.studentized_range.ppf(0.95, count, np.inf) / math.sqrt(2)
    nemenyi = q * math.sqrt(count * (count + 1) / (6 * tasks))
    # Mean ranks are multiples of 1 / 60; and the quantile of 20 000 draws has an error.
    assert friedman.verdict(ranks).critical == pytest.approx(nemenyi, rel=0.03, abs=1.5 / tasks)


def test_of_two_configurations_six_tasks_are_the_fewest_that_tell_them_apart() -> None:
    # All alike by chance: 2 / 2^5 = 0.06 and 2 / 2^6 = 0.03 of all tables.
    five, six = (friedman.verdict(np.tile([1.0, 2.0], (tasks, 1))) for tasks in (5, 6))
    assert five.critical == math.inf
    assert six.critical == 1


# Normalised scores


def test_a_scale_is_0_at_the_start_and_1_at_the_best() -> None:
    scale = normalised.scale(0.8, [0.85, 0.9, 0.7])
    assert scale.from_start
    assert scale.of(np.array([0.8, 0.9, 0.85, 0.7])).tolist() == pytest.approx([0, 1, 0.5, -1])
    for start in (math.nan, 0.95):  # unknown, or better than all
        worst = normalised.scale(start, [0.85, 0.9, 0.7])
        assert not worst.from_start
        assert worst.of(np.array([0.7, 0.9])).tolist() == pytest.approx([0, 1])
    assert normalised.scale(math.nan, [0.5, 0.5]).of(np.array([0.5, -math.inf])).tolist() == [
        *(1, -math.inf)
    ]


def test_a_run_that_failed_has_the_worst_score_and_no_better_than_the_start() -> None:
    found = normalised.finite([np.array([0.5, -math.inf]), np.array([-0.2, 0.9])])
    assert [one.tolist() for one in found] == [[0.5, -0.2], [-0.2, 0.9]]
    assert normalised.finite([np.array([0.5, -math.inf])])[0].tolist() == [0.5, 0]


def test_the_mean_of_one_task_is_student_s_and_that_of_two_is_welch_s() -> None:
    x, y = scores(2, 6)
    one = normalised.mean([x])
    low, high = stats.t.interval(0.95, 5, x.mean(), stats.sem(x))
    assert (one.low, one.high) == pytest.approx((low, high), rel=1e-9)
    # x + y is the difference of x and -y, of which Welch's interval is known.
    both = stats.ttest_ind(x, -y, equal_var=False).confidence_interval(0.95)
    two = normalised.mean([x, y])
    assert (2 * two.low, 2 * two.high) == pytest.approx((both.low, both.high), rel=1e-9)
    assert math.isnan(normalised.mean([x, y[:1]]).low)


@pytest.mark.parametrize("runs", [3, 5, 10])
@pytest.mark.parametrize("take", [normalised.mean, normalised.interquartile])
def test_intervals_of_means_over_tasks_cover(
    runs: int, take: Callable[[list[Numbers]], Estimate]
) -> None:
    trials, random = 200, np.random.default_rng(2)
    # The interquartile mean of many runs of the four tasks, and their mean, is 0 by symmetry.
    hits = 0
    for _ in range(trials):
        found = take([random.normal(level, 0.3, runs) for level in (-0.6, -0.2, 0.2, 0.6)])
        hits += found.low <= 0 <= found.high
    assert hits / trials > 0.95 - 2 * math.sqrt(0.95 * 0.05 / trials)


def test_the_interquartile_mean_is_scipy_s_trimmed_one_over_all_runs() -> None:
    some = scores(4, 5)
    expected = stats.trim_mean(np.concatenate(some), 0.25)
    assert normalised.interquartile(some).value == pytest.approx(expected, rel=1e-12)


def test_a_profile_is_one_minus_the_empirical_distribution_and_its_interval_wilson_s() -> None:
    thresholds = np.linspace(-1, 2, 13)
    (one,) = scores(1, 8)
    parts, low, high = normalised.profile([one], thresholds)
    distribution = stats.ecdf(one).sf.evaluate(thresholds)
    assert parts.tolist() == pytest.approx(distribution.tolist())
    for place, part in enumerate(parts):
        wilson = stats.binomtest(round(part * 8), 8).proportion_ci(method="wilson")
        assert (low[place], high[place]) == pytest.approx((wilson.low, wilson.high), abs=1e-12)
    failed = normalised.profile([np.array([-math.inf, 1.0])], thresholds)[0]
    assert failed[0] == 0.5  # no threshold is low enough


# Pairs


def by_seed(values: Numbers) -> dict[str, float]:
    return {str(seed): value for seed, value in enumerate(values.tolist())}


def test_a_pair_is_told_apart_by_holm_over_all_pairs_of_a_task() -> None:
    random = np.random.default_rng(3)
    table = {name: random.normal(mean, 0.1, 6) for name, mean in (("a", 1), ("b", 0.9), ("c", 0))}
    found = pairings.pairs({n: {"t": by_seed(v)} for n, v in table.items()}, {"t": Kind()})
    names = list(itertools.combinations(table, 2))
    p = [stats.ttest_rel(table[one], table[other]).pvalue for one, other in names]
    order = np.argsort(p)  # scipy has no Holm: by hand, the k-th smallest of three times 3 - k
    reject = np.minimum.accumulate([p[i] * (3 - k) <= 0.05 for k, i in enumerate(order)])
    for place, told in zip(order, reject, strict=True):
        pair = found[names[place]]
        assert (pair.won, pair.level, pair.lost) == ((1, 0, 0) if told else (0, 1, 0))
        assert found[names[place][::-1]].lost == pair.won


def test_survivors_do_not_win_and_what_failed_always_loses_always() -> None:
    good = {str(seed): 1 + 0.01 * seed for seed in range(5)}
    survivors = {seed: 5 + value for seed, value in good.items()} | {"0": -math.inf}
    nothing = dict.fromkeys(good, -math.inf)
    table = {"good": good, "survivors": survivors, "nothing": nothing, "none": dict(nothing)}
    found = pairings.pairs({name: {"t": one} for name, one in table.items()}, {"t": Kind()})
    assert found["survivors", "good"].level == 1
    assert found["good", "nothing"].won == found["survivors", "nothing"].won == 1
    assert found["nothing", "none"].level == 1
    assert found["good", "survivors"].probability == pytest.approx(0.2)


# rliable 1.2.0, of which arch needs a pandas below 3: its numbers, and itself where it is installed

THRESHOLDS = np.linspace(-0.5, 1.5, 9)


def test_numbers_are_those_that_rliable_had() -> None:
    x, y = scores(4, 5, 0.1), scores(4, 5, seed=1)
    assert improvement.probability(x, y) == pytest.approx(0.56)
    assert normalised.interquartile(x).value == pytest.approx(0.5188532781356848)
    assert normalised.mean(x).value == pytest.approx(0.545046504771382)
    parts, low, high = normalised.profile(x, THRESHOLDS)
    assert parts.tolist() == pytest.approx([1, 1, 0.95, 0.65, 0.55, 0.35, 0.15, 0.05, 0])
    # Its bootstrap intervals, of 2000 resamples or more, lie within ours.
    assert normalised.interquartile(x).low < 0.347
    assert normalised.interquartile(x).high > 0.661
    assert normalised.mean(x).low < 0.444
    assert normalised.mean(x).high > 0.644
    # Near one half the bootstrap is wide enough, and both are alike.
    assert improvement.interval(0.56, [(5, 5)] * 4) == pytest.approx((0.37, 0.75), abs=0.03)
    # That of a part is narrower where tasks disagree; ours takes their runs for one sample.
    assert low[2:8].tolist() == pytest.approx([0.85, 0.5, 0.4, 0.25, 0.05, 0], abs=0.12)
    assert high[2:8].tolist() == pytest.approx([1, 0.8, 0.7, 0.5, 0.25, 0.15], abs=0.12)


def test_numbers_are_those_of_rliable() -> None:
    pytest.importorskip("rliable")
    from rliable import library, metrics

    x, y = (np.stack(some, 1) for some in (scores(4, 30, 0.1), scores(4, 30, seed=1)))
    columns = [list(table.T) for table in (x, y)]
    assert improvement.probability(*columns) == pytest.approx(
        float(np.mean(metrics.probability_of_improvement(x, y))), rel=1e-9
    )
    assert normalised.interquartile(columns[0]).value == pytest.approx(metrics.aggregate_iqm(x))
    assert normalised.mean(columns[0]).value == pytest.approx(metrics.aggregate_mean(x))
    profiles, bands = library.create_performance_profile({"x": x}, THRESHOLDS, reps=2000)
    parts, low, high = normalised.profile(columns[0], THRESHOLDS)
    assert parts.tolist() == pytest.approx(profiles["x"].tolist())
    # With 30 runs of 4 tasks the bootstrap is wide enough; Wilson's is at most a third wider.
    width = np.ptp(bands["x"], axis=0).max()
    assert width < (high - low).max() < 1.4 * width
