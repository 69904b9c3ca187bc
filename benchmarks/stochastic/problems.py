"""The two problems in JAX, each from the blocks of examples that ours holds, and derivatives."""

from dataclasses import dataclass, replace
from typing import Any, Self

import jax
import jax.numpy as jnp

from bilevel_cli.core.task import Task

Array = jax.Array
Blocks = dict[str, Array]  # of examples, with leading dimensions [blocks, batch size]


@dataclass(frozen=True)
class Problem:
    """f on a block of training examples, and F, which sees no outer parameters, on another.

    Args:
        train: Blocks of training examples.
        validation: Blocks of validation examples.
    """

    train: Blocks
    validation: Blocks

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of blocks for f and for F."""
        return len(self.train["y"]), len(self.validation["y"])

    @property
    def whole(self) -> Self:
        """The same problem with all examples in one block."""

        def joined(blocks: Blocks) -> Blocks:
            count = len(blocks["y"])
            flat = {name: v.reshape(1, -1, *v.shape[2:]) for name, v in blocks.items()}
            return {**flat, "weight": flat["weight"] / count}

        return replace(self, train=joined(self.train), validation=joined(self.validation))

    def inner_loss(self, z: Array, outer: Array, block: Array) -> Array:
        raise NotImplementedError

    def outer_loss(self, z: Array, block: Array) -> Array:
        raise NotImplementedError

    def inner_slope(self, z: Array, outer: Array, block: Array) -> Array:
        """d_z f."""
        return jax.grad(self.inner_loss)(z, outer, block)

    def outer_slope(self, z: Array, block: Array) -> Array:
        """d_z F."""
        return jax.grad(self.outer_loss)(z, block)

    def linearised(
        self, z: Array, outer: Array, block: Array, v: Array
    ) -> tuple[Array, Array, Array]:
        """d_z f, H v and (d_lambda d_z f)^T v by one backward pass through d_z f."""
        gradient, pullback = jax.vjp(lambda z, outer: self.inner_slope(z, outer, block), z, outer)
        return gradient, *pullback(v)

    def hessian_product(self, z: Array, outer: Array, block: Array, v: Array) -> Array:
        """H v, forward over reverse."""
        return jax.jvp(lambda z: self.inner_slope(z, outer, block), (z,), (v,))[1]

    def cross_product(self, z: Array, outer: Array, block: Array, v: Array) -> Array:
        """(d_lambda d_z f)^T v, as the derivative in lambda of d_z f . v: reverse over forward."""

        def slope(outer: Array) -> Array:
            return jax.jvp(lambda z: self.inner_loss(z, outer, block), (z,), (v,))[1]

        return jax.grad(slope)(outer)


@dataclass(frozen=True)
class Logistic(Problem):
    """Feature penalties of logistic regression."""

    def inner_loss(self, z: Array, outer: Array, block: Array) -> Array:
        penalty = 0.5 * (jnp.exp(outer) * z * z).sum()
        return self._loss(self.train, z, block) + penalty

    def outer_loss(self, z: Array, block: Array) -> Array:
        return self._loss(self.validation, z, block)

    def _loss(self, blocks: Blocks, z: Array, block: Array) -> Array:
        x, y, weight = (_of(blocks, block, name) for name in ("x", "y", "weight"))
        return weight @ jax.nn.softplus(-y * (x @ z))


@dataclass(frozen=True)
class Cleaning(Problem):
    """Hyper-cleaning by softmax regression without bias, z of shape [classes, features].

    Args:
        l2: Weight of the squared norm of z.
    """

    l2: float

    def inner_loss(self, z: Array, outer: Array, block: Array) -> Array:
        index, weight = (_of(self.train, block, name) for name in ("index", "weight"))
        share = jax.nn.sigmoid(outer[index]) * weight
        return share @ self._losses(self.train, z, block) + self.l2 * (z * z).sum()

    def outer_loss(self, z: Array, block: Array) -> Array:
        return _of(self.validation, block, "weight") @ self._losses(self.validation, z, block)

    def _losses(self, blocks: Blocks, z: Array, block: Array) -> Array:
        x, y = (_of(blocks, block, name) for name in ("x", "y"))
        logits = x @ z.T
        picked = jnp.take_along_axis(logits, y[:, None], 1)[:, 0]
        return jax.nn.logsumexp(logits, 1) - picked


def _of(blocks: Blocks, block: Array, name: str) -> Array:
    """An entry of a block; of a single one without a copy."""
    return blocks[name][0 if len(blocks[name]) == 1 else block]


def blocks_of(task: Task) -> tuple[Blocks, Blocks]:
    """The training and validation blocks of a task of ours, inputs flattened."""
    both: Any = (task.inner_blocks.tensors, task.outer_blocks.tensors)
    found = [
        {name: jnp.asarray(value.numpy()) for name, value in part.items() if name != "block"}
        for part in both
    ]
    for part in found:
        part["x"] = part["x"].reshape(*part["x"].shape[:2], -1)
        size = part["y"].shape[1]  # all examples, in a single block without weights
        part.setdefault("weight", jnp.full((1, size), 1 / size, part["x"].dtype))
    return found[0], found[1]


def posed(task: Any, train: Blocks, validation: Blocks) -> Problem:
    """The problem of a task of ours on given blocks.

    Raises:
        ValueError: No problem here is that of the task.
    """
    match type(task).__name__:
        case "LogisticRegression":
            return Logistic(train, validation)
        case "HyperCleaning":
            return Cleaning(train, validation, task.l2)
        case other:
            raise ValueError(f"The peers need a problem in benchmarks/stochastic, got {other}.")
