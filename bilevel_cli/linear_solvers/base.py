"""The interface of linear solvers.

In shapes, n is the number of entries of the inner parameters as one vector. All tensors are on the
device and in the precision of the right-hand side. A solver holds settings; it never changes, and
changes no argument. Solves are mapped over episodes: no tensor is asked for its value.
"""

import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, dense
from bilevel_cli.core.claim import NoSolution
from bilevel_cli.core.growth import Parts
from bilevel_cli.core.residuals import UNSOLVED, residual_doubt
from bilevel_cli.core.trees import Params

Matvec = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Nonsymmetric:
    """Products with a matrix that need not be symmetric, such as a transposed Jacobian.

    A plain function is taken for products with a symmetric matrix.

    Args:
        product: Computes M v, from [n] to [n], by operations that can be differentiated.
    """

    product: Matvec

    def __call__(self, vector: Tensor) -> Tensor:
        return self.product(vector)


def transposed(matvec: Matvec, like: Tensor) -> Matvec:
    """Products with M^T: those with M where it is symmetric, else the pullback of v -> M v.

    Args:
        matvec: Computes M v, from [n] to [n].
        like: For the shape [n] of v, its device and precision.
    """
    if not isinstance(matvec, Nonsymmetric):
        return matvec
    _, pullback = autodiff.vjp(matvec, torch.zeros_like(like))

    def product(vector: Tensor) -> Tensor:
        found: Tensor = pullback(vector)[0]
        return found

    return product


class Solved(NamedTuple):
    """How a solve ended.

    Attributes:
        solution: The approximate solution v, of shape [n].
        metrics: What the solver reports of the solve, as columns of train.csv: 0-dim tensors of the
            type of v, left on the device.
    """

    solution: Tensor
    metrics: dict[str, Tensor]


class LinearSolver(abc.ABC):
    """Solves H v = rhs approximately, where H is known through products alone.

    H is symmetric, or `Nonsymmetric` where a solver serves that too.

    Attributes:
        symmetric: Whether the solver serves a symmetric H alone.
        residual_limit: The relative residual |H v - rhs| / |rhs| above which a solve is doubted.
        advice: What to do then: the settings by their full names, and what to use instead.
    """

    symmetric: ClassVar[bool] = True
    residual_limit: ClassVar[float] = UNSOLVED
    advice: ClassVar[str] = "Use another method/linear_solver, such as minres."

    @abc.abstractmethod
    def solve(self, matvec: Matvec, rhs: Tensor, guess: Tensor) -> Solved:
        """An approximate solution v of H v = rhs, and how the solve ended.

        The settings alone decide the number of products: a solver that has converged masks its
        updates and does not leave the loop, so that solves can be mapped and captured.

        Args:
            matvec: Computes H v, from [n] to [n].
            rhs: The right-hand side, of shape [n].
            guess: Where an iterative solver begins, of shape [n].

        Raises:
            CannotServe: The solver cannot serve this H, such as a singular one.
        """

    @abc.abstractmethod
    def products(self, size: int) -> int:
        """The number of products with H that `solve` takes for n = `size`."""

    def holds(self, size: int) -> Parts:
        """What a solve for n = `size` holds at once, besides a few vectors of n numbers."""
        del size
        return ()

    def draw(self, generator: torch.Generator) -> Params:
        """The random numbers that one solve consumes, drawn before the size of H is known."""
        del generator
        return {}

    def given(self, noise: Params) -> "LinearSolver":
        """The solver with the random numbers of `draw` filled in."""
        del noise
        return self

    def doubts(self, row: dict[str, float]) -> dict[str, str]:
        """What the numbers of one row say against the solve, as `Hypergradient.doubts`."""
        return residual_doubt(row, self.advice, self.residual_limit)

    def inverse(self, hessian: Tensor, rhs: Tensor, rounds: int) -> Tensor:
        """What stands for the inverse, from dense algebra that shares nothing with `solve`.

        `inverse(H, rhs, rounds) @ rhs` is the result of `rounds` solves, of which the first begins
        at zero and each later one where the one before ended. `bilevel-check` holds `solve` to it.

        Args:
            hessian: H, of shape [n, n].
            rhs: The right-hand side, of shape [n].
            rounds: Number of solves.

        Returns:
            A matrix of shape [n, n].

        Raises:
            NoSolution: For this H, solves have no limit, or none to compare with.
        """
        del rhs, rounds
        return inverted(hessian)


@dataclass(frozen=True)
class KrylovSolver(LinearSolver):
    """A solver whose iterate k, begun at zero, is of span(rhs, H rhs, ..., H^{k-1} rhs).

    Args:
        max_steps: Number of products with H, besides the one for the first residual. >= 1.
        rtol: Relative residual |H v - rhs| / |rhs| at which the iterate is frozen. >= 0.
    """

    max_steps: int
    rtol: float

    def __post_init__(self) -> None:
        check_steps(type(self).__name__, self.max_steps)
        check_rtol(type(self).__name__, self.rtol)

    def products(self, size: int) -> int:
        return self.max_steps + 1

    def inverse(self, hessian: Tensor, rhs: Tensor, rounds: int) -> Tensor:
        if rounds > 1:  # no single Krylov space, but a limit
            return self.limit(hessian)
        found = torch.zeros_like(hessian)
        for basis in krylov_bases(hessian, rhs, self.max_steps):
            if (rhs - hessian @ (found @ rhs)).norm() <= self.rtol * rhs.norm():
                break
            found = self.iterate(basis, hessian)
        return found

    @abc.abstractmethod
    def iterate(self, basis: Tensor, hessian: Tensor) -> Tensor:
        """The matrix, of shape [n, n], that takes `rhs` to the iterate in the space of a basis.

        Args:
            basis: Orthonormal columns, of shape [n, k].
            hessian: The symmetric H, of shape [n, n].
        """

    def limit(self, hessian: Tensor) -> Tensor:
        """What stands for the inverse after many solves, each begun where the last one ended.

        Args:
            hessian: The symmetric H, of shape [n, n].

        Raises:
            NoSolution: There is no limit, or none to compare with.
        """
        return inverted(hessian)


def check_steps(solver: str, max_steps: int) -> None:
    """Raises ValueError unless `max_steps` is a usable number of iterations."""
    if max_steps < 1:
        raise ValueError(
            f"{solver} needs max_steps >= 1 products, got max_steps={max_steps}. "
            "Use method/linear_solver=identity for none."
        )


def check_step_size(solver: str, step_size: float) -> None:
    """Raises ValueError unless `step_size` is a usable one."""
    if not 0 < step_size < float("inf"):
        raise ValueError(
            f"{solver} needs a finite step_size > 0, got step_size={step_size}. "
            "The step size of the inner solver is a safe choice."
        )


def check_rtol(solver: str, rtol: float) -> None:
    """Raises ValueError unless `rtol` is a usable relative residual."""
    if not 0 <= rtol < float("inf"):
        raise ValueError(f"{solver} needs rtol >= 0, got rtol={rtol}. Try 1e-6.")


def inverted(hessian: Tensor) -> Tensor:
    """The inverse of a dense H, both of shape [n, n].

    Raises:
        NoSolution: It is too close to singular.
    """
    # Central differences leave an error of 1e-11 in H. At this condition, that makes the 1e-6 to
    # which inverses are compared.
    if not torch.linalg.cond(hessian.double()) < 1e5:
        raise NoSolution("the inner Hessian is too close to singular to compare inverses")
    return dense.inv(hessian)


def filtered(hessian: Tensor, response: Callable[[Tensor], Tensor]) -> Tensor:
    """The matrix [n, n] with the eigenvectors of `hessian`, and `response` of its eigenvalues."""
    eigenvalues, vectors = dense.eigh(hessian)
    return (vectors * response(eigenvalues) @ vectors.T).to(hessian.dtype)


def krylov_bases(hessian: Tensor, rhs: Tensor, steps: int) -> Iterator[Tensor]:
    """Orthonormal bases, of shape [n, k], of span(rhs, H rhs, ..., H^{k-1} rhs) for k = 1, 2, ...

    Stops after `steps` of them, or when the space no longer grows.
    """
    basis, vector = rhs[:, None][:, :0], rhs
    for _ in range(steps):
        scale = vector.norm()
        for _ in range(3):  # Gram-Schmidt until nothing is left to remove
            vector = vector - basis @ (basis.T @ vector)
        if not vector.norm() > 1e-13 * scale:
            return
        basis = torch.cat([basis, (vector / vector.norm())[:, None]], dim=1)
        yield basis
        vector = hessian @ basis[:, -1]
