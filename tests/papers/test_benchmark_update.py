"""FSLA against the update of the bilevel benchmark, written in numpy, on logistic regression."""

import numpy as np
import torch
from configs import composed
from hydra.utils import instantiate
from numpy.typing import NDArray
from problems import seeded

from bilevel_cli.core import episodes
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.random import Stream

Vector = NDArray[np.float64]


def slope(batch: Batch, w: Vector) -> Vector:
    """The gradient of the mean logistic loss."""
    x, y, weight = (batch[name].numpy() for name in ("x", "y", "weight"))
    found: Vector = -x.T @ (weight * y / (1 + np.exp(y * (x @ w))))
    return found


def product(batch: Batch, w: Vector, v: Vector) -> Vector:
    """Its Hessian times v."""
    x, y, weight = (batch[name].numpy() for name in ("x", "y", "weight"))
    share = 1 / (1 + np.exp(-y * (x @ w)))
    found: Vector = x.T @ (weight * share * (1 - share) * (x @ v))
    return found


def test_fsla_takes_the_steps_of_the_benchmark_on_the_same_minibatches() -> None:
    small = ("task.batch_size=32", "task.outer_batch_size=32", "task.start=random")
    shared = ("task=logistic", "device.dtype=float64", "method=fsla", *small)
    step, outer_step = 0.1, 0.3
    config = composed(*shared, f"solver.lr.initial={step}", f"method.momentum.initial={step}")
    offered = {"device": torch.device("cpu"), "generator": seeded(0)}
    task = instantiate(config.task, data=instantiate(config.data), **offered)
    method = instantiate(config.method)
    loop = InnerLoop(task, instantiate(config.solver), instantiate(config.start))
    sampling, extras = Stream("cpu").manual_seed(1), Stream("cpu").manual_seed(2)
    outer = task.init_outer(seeded(3))
    data = episodes.sample(task, method, 1, sampling, extras)
    carry = method.begin(loop, outer, data, loop.fresh(outer, data))
    # w, v, lambda, the direction of lambda, and lambda before: the benchmark begins it at zero.
    w, penalty = data.init["weight"].numpy().copy(), outer["log_l2"].numpy().copy()
    v, m, before = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    for k in range(200):
        data = episodes.sample(task, method, 1, sampling, extras)
        found = method.estimate(loop, outer, data, carry)
        carry = found.carry
        rate = 1 / np.sqrt(k + 1)
        w_before, v_before = w, v
        w = w - step * rate * (slope(data.inner_at(0), w) + np.exp(penalty) * w)
        left = product(data.extra_at(0), w, v) + np.exp(penalty) * v - slope(data.outer, w)
        v = v - step * rate * left
        # d_lambda F is zero, and the cross derivative sees no example.
        here, there = -np.exp(penalty) * w * v, -np.exp(before) * w_before * v_before
        m = here + (1 - step * rate) * (m - there)
        before, penalty = penalty, penalty - outer_step * rate * m
        outer = {"log_l2": outer["log_l2"] - outer_step * rate * found.grad["log_l2"]}
        np.testing.assert_allclose(outer["log_l2"].numpy(), penalty, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(carry["inner"]["inner"]["weight"].numpy(), w, rtol=1e-11)
    assert np.abs(penalty - task.init_outer(seeded(3))["log_l2"].numpy()).max() > 0.1
