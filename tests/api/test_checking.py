"""bilevel_cli.check answers as bilevel-check does, and holds own losses to finite differences."""

from typing import Any

import pytest
import torch
from test_hypergradient import each_problem, network, ridge
from torch import Tensor

from bilevel_cli import UsageError, check, hypergradient
from bilevel_cli.commands.check import rows


def test_settings_are_the_question_of_the_command() -> None:
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    asked = ["method=cg,neumann", "task=ridge"]
    table = check(asked[0], asked[1])
    told = rows(asked, None)
    assert list(table["method"]) == [name for name, _ in told] == ["cg", "neumann"]
    for column in ("claim", "verdict", "measured", "relative_error", "exact_error", "hvps"):
        assert list(table[column]) == [getattr(finding, column) for _, finding in told]
    assert list(table["verdict"]) == ["ok", "ok"]
    assert (threads, dtype) == (torch.get_num_threads(), torch.get_default_dtype())


@each_problem
def test_own_losses_are_held_to_central_differences(problem: Any) -> None:
    p = problem()
    f, F, inner, outer = p[:4]
    table = check(f, F, inner, outer, ["reverse", "exact"], steps=20, lr=p.lr)
    assert list(table["verdict"]) == ["ok", "ok"], list(table["reason"])
    assert (table["relative_error"] < 1e-6).all()


def test_the_error_to_the_exact_solution_tells_of_too_few_steps() -> None:
    p = ridge()
    errors = [
        check(*p[:4], "cg", steps=steps, lr=p.lr)["exact_error"].iloc[0] for steps in (5, 20, 80)
    ]
    # f is 2 e^-5-strongly convex at least: each step shrinks what is left by a constant factor.
    assert errors[0] > 5 * errors[1] > 25 * errors[2]


def test_a_derivative_that_a_loss_cuts_off_is_wrong() -> None:
    p = ridge()

    class Halved(torch.autograd.Function):
        """x squared, with half of its derivative."""

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        def backward(ctx: Any, cotangent: Tensor) -> Tensor:
            return ctx.saved_tensors[0] * cotangent

    def outer_loss(w: Tensor, penalty: Tensor) -> Tensor:
        squares: Tensor = Halved.apply(w)  # type: ignore[no-untyped-call]
        return squares.sum()

    table = check(p.inner_loss, outer_loss, p.inner, p.outer, "reverse", steps=10, lr=p.lr)
    assert table["verdict"].iloc[0] == "WRONG"
    # Half of the derivative is missing, and central differences see all of it.
    assert table["relative_error"].iloc[0] == pytest.approx(0.5, rel=1e-6)


def test_a_method_that_cannot_serve_is_a_row_that_says_why() -> None:
    p = ridge()
    table = check(*p[:4], ["direct", "cg"], steps=5, lr=p.lr)
    assert list(table["verdict"]) == ["refused", "ok"]
    assert "Direct needs an outer loss that contains" in table["reason"].iloc[0]
    with pytest.raises(UsageError, match="Direct needs an outer loss that contains"):
        hypergradient(*p[:4], "direct", steps=5)


def test_wrong_questions_are_refused() -> None:
    with pytest.raises(UsageError, match="check needs settings such as 'method=cg', or two losses"):
        check("cg")
    with pytest.raises(UsageError, match=r"method has no option 'cgg'\. Did you mean 'cg'"):
        check("method=cgg")
    with pytest.raises(UsageError, match=r"there is no setting 'solver\.lrr'"):
        check("method=cg", "solver.lrr=1")
    p = network()
    with pytest.raises(UsageError, match="check needs tensors of float64, got float32"):
        check(*p[:2], p.inner.float(), p.outer.float())
