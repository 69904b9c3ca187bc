"""What was published of the bilevel benchmark, and what our experiments say of their runs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import yaml

from bilevel_cli.config.options import CONF

Curve = Callable[[pd.DataFrame], "pd.Series[float]"]


@dataclass(frozen=True)
class Problem:
    """One problem of the benchmark.

    Args:
        title: For tables and pictures.
        prefix: How the names of its experiments begin; the method follows.
        calls: Oracle calls, with which its published curves end, and so do our runs.
        score: From eval.csv; less is better.
        format: Of a score.
        near: Whether our score is the published one, to what repetitions differ by.
        published: Medians over ten seeds, by method.
        reasons: Why ours differs, by method, where it does and this is known.
    """

    title: str
    prefix: str
    calls: float
    score: Curve
    format: str
    near: Callable[[float, float], bool]
    published: dict[str, float]
    reasons: dict[str, str] = field(default_factory=dict)

    def experiments(self) -> dict[str, dict[str, Any]]:
        """The experiments of this problem, by method: what their files hold."""
        paths = sorted((CONF / "experiment").glob(f"{self.prefix}*.yaml"))
        found = {path.stem.removeprefix(self.prefix): path for path in paths}
        return {
            method: yaml.safe_load(path.read_text(encoding="utf-8"))
            for method, path in found.items()
            if "_" not in method  # of another problem, whose prefix goes on
        }


def _norm2(table: pd.DataFrame) -> "pd.Series[float]":
    return table["hypergradient_norm2"]


def _error(table: pd.DataFrame) -> "pd.Series[float]":
    return 1 - table["test_accuracy"]


def _within_twice(ours: float, published: float) -> bool:
    # Squared norms of one run scatter by as much from one evaluation to the next.
    return ours <= 2 * published


def _within_a_hundredth(ours: float, published: float) -> bool:
    return ours <= published + 0.01


STEPS = "its curve still falls"
# Dagreou et al. (2022, arXiv:2201.13409): medians over ten seeds at the end of each run.
PROBLEMS = {
    "ijcnn1": Problem(
        "ijcnn1: the squared norm of the exact hypergradient",
        "benchmark_ijcnn1_",
        2e9,
        _norm2,
        ".1e",
        _within_twice,
        {
            **{"saba": 3.3e-8, "amigo": 4.8e-8, "fsla": 1.6e-7, "stocbio": 5.3e-7},
            **{"sustain": 8.2e-7, "mrbo": 8.4e-7, "bsa": 3.0e-6, "ttsa": 1.1e-5},
        },
        {
            "fsla": "the published value is a low point of a curve that does not settle: see below",
            "stocbio": "at half the paper's step sizes, at which it diverges",
        },
    ),
    "mnist_50": Problem(
        "MNIST, 50 % noise: the test error",
        "benchmark_mnist_50_",
        5e7,
        _error,
        ".4f",
        _within_a_hundredth,
        {},
    ),
    "mnist_70": Problem(
        "MNIST, 70 % noise: the test error",
        "benchmark_mnist_70_",
        4e7,
        _error,
        ".4f",
        _within_a_hundredth,
        {},
    ),
    "mnist_90": Problem(
        "MNIST, 90 % noise: the test error",
        "benchmark_mnist_",
        4e7,
        _error,
        ".4f",
        _within_a_hundredth,
        {"saba": 0.1708, "soba": 0.1718, "amigo": 0.1721, "stocbio": 0.2074},
    ),
    "covtype": Problem(
        "covtype: the test error",
        "benchmark_covtype_",
        1e8,
        _error,
        ".4f",
        _within_a_hundredth,
        {},
    ),
}
