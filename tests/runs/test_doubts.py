"""What the numbers of a row say against an estimate: no residual above one is silent."""

import re
from collections.abc import Callable

import pytest
from configs import options
from exact import implicit
from problems import Quadratic, estimate

from bilevel_cli.core.method import Estimate
from bilevel_cli.core.residuals import residual_doubt
from bilevel_cli.linear_solvers.base import LinearSolver
from bilevel_cli.linear_solvers.cg import ConjugateGradient
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.linear_solvers.identity import Identity
from bilevel_cli.linear_solvers.least_squares import LeastSquares
from bilevel_cli.linear_solvers.minres import MinimumResidual
from bilevel_cli.linear_solvers.neumann import Neumann
from bilevel_cli.linear_solvers.nystrom import Nystrom
from bilevel_cli.methods.imaml import ImplicitMaml
from bilevel_cli.methods.reverse import Reverse

SOLVERS: dict[str, LinearSolver] = {
    "cg": ConjugateGradient(10, 1e-6),
    "minres": MinimumResidual(10, 1e-6),
    "neumann": Neumann(20, 0.1),
    "least_squares": LeastSquares(20, 0.1),
    "exact": Exact(0.0, None),
    "identity": Identity(),
    "nystrom": Nystrom(20, 0.1),
}
ITERATIVE = ("cg", "minres", "neumann", "least_squares")


@pytest.mark.parametrize("name", SOLVERS)
def test_a_residual_above_one_is_doubted_by_every_method_that_solves(name: str) -> None:
    for method in (
        implicit(SOLVERS[name]),
        ImplicitMaml(SOLVERS[name], False, "hessian", None, 1.0),
    ):
        for residual, doubted in (
            (1e14, True),
            (1.1, True),
            (float("nan"), True),
            (float("inf"), True),
            (1 + 1e-6, name in ITERATIVE),  # v = 0, in float32
            (0.5, name in ITERATIVE),
            (0.05, False),
            (0.0, False),
        ):
            doubts = method.doubts({"step": 10.0, "adjoint_residual": residual})
            assert list(doubts) == ["adjoint_residual"] * doubted
            if doubted:
                assert f"adjoint_residual={residual:.3g}" in doubts["adjoint_residual"]


def test_a_method_that_solves_no_system_doubts_nothing() -> None:
    assert Reverse(None, None).doubts({"adjoint_residual": 1e14, "grad_norm": 0.0}) == {}
    assert residual_doubt({"grad_norm": 1.0}, "", 0.1) == {}


@pytest.mark.parametrize("name", SOLVERS)
def test_what_a_doubt_advises_is_there(name: str) -> None:
    advice = implicit(SOLVERS[name]).doubts({"adjoint_residual": 9.0})["adjoint_residual"]
    named = re.findall(r"method\.linear_solver\.(\w+)", advice)
    assert set(named) <= set(vars(SOLVERS[name]))
    assert len(named) > 0 or name == "identity"
    others = re.findall(r"method=(\w+)", advice)
    assert others
    assert set(others) <= set(options("method")) - {name}


@pytest.mark.parametrize(
    ("make", "bound"),
    [(lambda lr: Neumann(20, lr), 2 / 5), (lambda lr: LeastSquares(40, lr), 2**0.5 / 5)],
    ids=["neumann", "least_squares"],
)
def test_a_step_size_beyond_its_bound_is_doubted_by_its_name(
    make: Callable[[float], LinearSolver], bound: float
) -> None:
    problem = Quadratic()  # with eigenvalues up to 5
    data, outer = problem.data(5), problem.outer_init()
    right, wrong = (implicit(make(factor * bound)) for factor in (0.8, 2.0))

    def row(found: Estimate) -> dict[str, float]:
        return {name: float(value) for name, value in found.metrics.items()}

    assert right.doubts(row(estimate(right, problem, data, outer))) == {}
    doubts = wrong.doubts(row(estimate(wrong, problem, data, outer)))
    assert "Set method.linear_solver.step_size below" in doubts["adjoint_residual"]
    assert "solver.lr" in doubts["adjoint_residual"]


@pytest.mark.parametrize(
    ("share", "where"), [(1.0, "or indefinite: it kept"), (2 / 3, "in 66.7% of the")]
)
def test_conjugate_gradient_names_the_curvature_it_met_and_the_methods_for_it(
    share: float, where: str
) -> None:
    for method in (
        implicit(ConjugateGradient(10, 1e-6)),
        ImplicitMaml(ConjugateGradient(10, 1e-6), False, "hessian", None, 1.0),
    ):
        # Not the residual besides: that it is large is the same fact.
        for residual in (0.01, 0.9, 1e3):
            seen = {"adjoint_residual": residual, "adjoint_stopped": share}
            ((name, text),) = method.doubts(seen).items()
            assert name == "curvature"
            assert where in text
            assert f"adjoint_residual={residual:.3g}" in text
            named = re.findall(r"method=(\w+)", text)
            assert named == ["minres", "galet", "pseudo_inverse"]
            assert set(named) <= set(options("method"))
            assert re.findall(r"method/linear_solver=(\w+)", text) == ["minres"]
            assert "outer step size is not the cause" in text
