"""How many labels are wrong, and how probably each one is."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Numbers = NDArray[np.float64]
Indices = NDArray[np.int64]

LARGEST_RATE = 0.5  # where more labels of a class are wrong than right, no data tell which is which
# The prior of an error rate, Beta(2, 18): mean 10 %, and 90 % of its mass from 2 to 23 %.
RATE_PRIOR = (2.0, 18.0)
RATE_SPREAD = 2.0  # of the logits of 2 e_k about their mean, where each class has its own rate
SHARPNESS_SPREAD, BIAS_SPREAD = 0.3, 0.3  # standard deviations of log a and of b_k, about 0
ROWS_A_PART, FEWEST_PARTS, MOST_PARTS = 50, 5, 20  # of the jackknife
EDGE = 1e-6  # a probability of 0 would rule out what a classifier has merely not seen


@dataclass(frozen=True)
class Verdict:
    """What the model says of the labels.

    Attributes:
        count: Expected number of wrong labels: the sum of `wrong`.
        low: Lower end of the 95 % interval of the count.
        high: Its upper end.
        wrong: The probability that each label is wrong, of shape [n].
        suggested: The most probable class other than the label, of shape [n].
    """

    count: float
    low: float
    high: float
    wrong: Numbers
    suggested: Indices


def judged(probabilities: Numbers, labels: Indices) -> Verdict:
    """Fits error rates to labels and to what classifiers expect that have not seen them.

    The true class k of row i has the probability

        q_i = softmax(a log p_i + b)

    where p_i are out-of-fold probabilities; a and b correct their sharpness and their bias. A label
    of true class k is wrong at the rate e_k, and then any of the other classes. So the label y_i
    has the likelihood

        L_i = sum_k q_ik T_k,y_i,    T_kk = 1 - e_k,    T_kc = e_k / (C - 1)

    and is wrong with the probability 1 - q_iy T_yy / L_i. Rows on which classifiers are sure tell
    wrong labels from a hard problem: as q_iy tends to 0, labels y do not vanish but stay at e.

    a, b and e maximise the likelihood, with weak priors, under two models: all classes share one
    rate, or each has its own. The verdict is the mean over both, weighted by BIC. The interval
    covers those of both, each a jackknife over parts of the rows on the logarithm of the count. It
    knows how much rows vary, and no error that both models share: where classes overlap much, no
    row is sure, and the count tends to be too low.

    Args:
        probabilities: Of shape [n, C].
        labels: From 0 to C - 1, of shape [n].
    """
    logs = np.log(np.clip(probabilities, EDGE, None))
    n, classes = logs.shape
    fits = [_fit(logs, labels, _start(classes, rates)) for rates in (1, classes)]
    gain = _log_likelihood(logs, labels, fits[1]) - _log_likelihood(logs, labels, fits[0])
    apart = special.expit(gain - (classes - 1) * np.log(n) / 2)
    shared, own = (_posterior(logs, labels, fit) for fit in fits)
    true = (1 - apart) * shared + apart * own
    rows = np.arange(n)
    wrong = 1 - true[rows, labels]
    true[rows, labels] = -1
    ends = [_interval(logs, labels, fit) for fit in fits]
    count = float(wrong.sum())
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    return Verdict(count, low, min(high, float(n)), wrong, true.argmax(1))


def _interval(logs: Numbers, labels: Indices, fitted: Numbers) -> tuple[float, float]:
    """The 95 % interval of the count under one model: leave out each part of the rows in turn."""
    n = len(labels)
    parts = int(np.clip(n // ROWS_A_PART, FEWEST_PARTS, MOST_PARTS))
    part = np.random.default_rng(0).permutation(n) % parts
    shares = []
    for one in range(parts):
        some = logs[part != one], labels[part != one]
        shares.append(_share(*some, _fit(*some, fitted)))
    spread = np.sqrt((parts - 1) * np.var(np.log(shares)))
    reach = float(np.exp(stats.t.ppf(0.975, parts - 1) * spread))
    count = n * _share(logs, labels, fitted)
    return count / reach, count * reach


def _share(logs: Numbers, labels: Indices, parameters: Numbers) -> float:
    """The expected share of wrong labels, above 0."""
    right = _posterior(logs, labels, parameters)[np.arange(len(labels)), labels]
    return max(float(1 - right.mean()), np.finfo(float).eps)


def _start(classes: int, rates: int) -> Numbers:
    """log a, b and the logits of 2 e, with one rate or one for each class: where a fit begins."""
    return np.concatenate([np.zeros(1 + classes), np.full(rates, special.logit(0.2))])


def _fit(logs: Numbers, labels: Indices, start: Numbers) -> Numbers:
    found = optimize.minimize(_objective, start, (logs, labels), jac=True, method="L-BFGS-B")
    return np.asarray(found.x)


def _log_likelihood(logs: Numbers, labels: Indices, parameters: Numbers) -> float:
    return float(np.log(_joint(logs, labels, parameters)[0].sum(1)).sum())


def _posterior(logs: Numbers, labels: Indices, parameters: Numbers) -> Numbers:
    """The probability of each true class, given inputs and label, of shape [n, C]."""
    joint, _, _ = _joint(logs, labels, parameters)
    return joint / joint.sum(1, keepdims=True)


def _joint(logs: Numbers, labels: Indices, parameters: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """q_ik T_k,y_i, of shape [n, C]; q, of that shape; and e, of shape [C]."""
    classes = logs.shape[1]
    sharpness, bias = np.exp(parameters[0]), parameters[1 : 1 + classes]
    rates = np.broadcast_to(LARGEST_RATE * special.expit(parameters[1 + classes :]), classes)
    q = special.softmax(sharpness * logs + bias, axis=1)
    transition = np.tile(rates / (classes - 1), (len(labels), 1))
    transition[np.arange(len(labels)), labels] = 1 - rates[labels]
    return q * transition, q, rates


def _objective(parameters: Numbers, logs: Numbers, labels: Indices) -> tuple[float, Numbers]:
    """-log(likelihood times prior), and its gradient."""
    classes = logs.shape[1]
    joint, q, rates = _joint(logs, labels, parameters)
    likelihood = joint.sum(1)
    true = joint / likelihood[:, None]
    moved = true - q  # the derivative by the logits of q
    sharpness, bias = parameters[0], parameters[1 : 1 + classes]
    logits = parameters[1 + classes :]

    kept = np.bincount(labels, true[np.arange(len(labels)), labels], classes)
    lost = true.sum(0) - kept
    if len(logits) == 1:
        kept, lost, rates = kept.sum(keepdims=True), lost.sum(keepdims=True), rates[:1]
    first, second = RATE_PRIOR
    away = (logits - logits.mean()) / RATE_SPREAD
    log_prior = ((first - 1) * np.log(rates) + (second - 1) * np.log1p(-rates)).sum()
    log_prior -= ((sharpness / SHARPNESS_SPREAD) ** 2 + ((bias / BIAS_SPREAD) ** 2).sum()) / 2
    log_prior -= (away**2).sum() / 2
    by_rate = (lost + first - 1) / rates - (kept + second - 1) / (1 - rates)
    gradient = np.concatenate(
        [
            [np.exp(sharpness) * (moved * logs).sum() - sharpness / SHARPNESS_SPREAD**2],
            moved.sum(0) - bias / BIAS_SPREAD**2,
            by_rate * rates * (1 - rates / LARGEST_RATE) - away / RATE_SPREAD,
        ]
    )
    return -float(np.log(likelihood).sum() + log_prior), -gradient
