"""How many labels are wrong: against the truth, where that is known."""

import numpy as np
import pytest
from scipy.optimize import check_grad

from bilevel_cli.labels import error_rates, forests
from bilevel_cli.labels.error_rates import judged
from bilevel_cli.labels.opinion_pool import pooled


def problem(
    seed: int, classes: int = 2, rates: tuple[float, ...] = (0.1, 0.1), n: int = 3000
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class probabilities, labels drawn from them and made wrong at a rate a class, and flags."""
    random = np.random.default_rng(seed)
    logits = 5 * random.normal(size=(n, classes))
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    true = (expected.cumsum(1) > random.random((n, 1))).argmax(1)
    flag = random.random(n) < np.array(rates)[true]
    labels = np.where(flag, (true + random.integers(1, classes, n)) % classes, true)
    return expected, labels, flag


def test_the_interval_covers_the_true_number_in_most_problems() -> None:
    held = 0
    for seed in range(12):
        expected, labels, flag = problem(seed, n=600)
        verdict = judged(expected, labels)
        held += verdict.low <= flag.sum() <= verdict.high
    # Of 12 intervals of 95 %, fewer than 10 hold with probability 2 %.
    assert held >= 10


@pytest.mark.parametrize("share", [0.02, 0.08, 0.2])
def test_the_count_follows_the_share_of_wrong_labels(share: float) -> None:
    expected, labels, flag = problem(0, 3, (share,) * 3)
    # Three standard deviations of a count of so many.
    assert judged(expected, labels).count == pytest.approx(flag.sum(), abs=3 * flag.sum() ** 0.5)


def test_a_rate_for_each_class_is_found_where_they_differ() -> None:
    expected, labels, flag = problem(1, 2, (0.02, 0.25))
    verdict = judged(expected, labels)
    in_first = (verdict.wrong * (labels == 0)).sum()  # of true class 1, mislabelled as 0
    assert in_first == pytest.approx((flag & (labels == 0)).sum(), rel=0.15)
    assert verdict.count == pytest.approx(flag.sum(), rel=0.15)


def test_the_probabilities_are_those_of_bayes_where_the_model_is_exact() -> None:
    expected, labels, flag = problem(2, n=8000)
    verdict = judged(expected, labels)
    given = expected[np.arange(len(labels)), labels]
    bayes = 0.1 * (1 - given) / (0.1 * (1 - given) + 0.9 * given)
    # Three deviations of a rate of 0.1 that 8,000 labels estimate are 0.01; the posterior moves
    # by at most a quarter of the change of a logit, here 0.03;
    # the sharpness, which is estimated too, moves it as much again.
    assert np.abs(verdict.wrong - bayes).max() < 0.1
    for low in (0.1, 0.3, 0.5, 0.7):
        among = (verdict.wrong >= low) & (verdict.wrong < low + 0.2)
        assert flag[among].mean() == pytest.approx(verdict.wrong[among].mean(), abs=0.12)


def test_overconfident_classifiers_do_not_change_the_count_much() -> None:
    expected, labels, flag = problem(3)
    sharper = expected**1.5 / (expected**1.5).sum(1, keepdims=True)
    assert judged(sharper, labels).count == pytest.approx(flag.sum(), rel=0.15)


@pytest.mark.parametrize("rates", [1, 3])
def test_the_gradient_is_that_of_the_objective(rates: int) -> None:
    expected, labels, _ = problem(4, 3, (0.1, 0.1, 0.1), 200)
    logs = np.log(np.clip(expected, error_rates.EDGE, None))
    at = np.random.default_rng(0).normal(size=4 + rates)
    objective = error_rates._objective
    error = check_grad(
        lambda p: objective(p, logs, labels)[0], lambda p: objective(p, logs, labels)[1], at
    )
    assert error < 1e-6 * np.linalg.norm(objective(at, logs, labels)[1]) + 1e-4


def test_the_pool_takes_the_classifier_that_drew_the_labels() -> None:
    expected, labels, _ = problem(5)
    other, _, _ = problem(6)
    pool, weights = pooled({"right": expected, "unrelated": other}, labels)
    assert weights["right"] > 0.95
    np.testing.assert_allclose(
        pool, weights["right"] * expected + weights["unrelated"] * other, rtol=1e-12
    )


def test_trees_judge_rows_that_they_have_not_seen() -> None:
    """Labels without a rule: trees that had seen them would know them."""
    random = np.random.default_rng(0)
    x, labels, fold = random.normal(size=(200, 3)), np.arange(200) % 2, np.arange(200) // 100
    for make in forests.KINDS.values():
        found = forests.out_of_fold(make, x, labels, fold, 0)
        np.testing.assert_allclose(found.sum(1), 1)
        # Three standard deviations of 200 fair coins are 0.106.
        assert (found.argmax(1) == labels).mean() < 0.61


def test_a_class_that_is_in_one_fold_alone_gets_no_probability_there() -> None:
    x, labels, fold = np.arange(90.0)[:, None], np.repeat([0, 1, 2], 30), np.arange(90) % 3
    fold[labels == 2] = 1
    found = forests.out_of_fold(forests.random_forest, x, labels, fold, 0)
    assert (found[labels == 2, 2] == 0).all()
