"""bilevel-check: what holds is ok, what does not is named, and the exit code says so."""

import csv
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from commands import exit_code
from configs import composed, one_in, options
from plugins import FILES
from problems import Quadratic
from torch import Tensor

from bilevel_cli.checks.verdict import Finding
from bilevel_cli.checks.verdict import check as hold
from bilevel_cli.commands import check
from bilevel_cli.config.objects import parts
from bilevel_cli.core import references
from bilevel_cli.core.claim import Claim, NoSolution, Trial
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import CannotServe, Carry, Estimate
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.cold import Cold
from bilevel_cli.tasks.examples import quadratic

Captured = pytest.CaptureFixture[str]
run = partial(exit_code, "bilevel-check", check.main)


def held(method: Reverse) -> Finding:
    generator = torch.Generator().manual_seed(0)
    task = quadratic.Quadratic(6, 3, 0.1, torch.device("cpu"), generator)
    return hold(method, InnerLoop(task, GradientDescent(0.1), Cold()), task, 10, seed=0)


class Wrong(Reverse):
    """One entry of the hypergradient is off by a thousandth."""

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        found = super().estimate(loop, outer, data, carry)
        spoiled = found.grad["lam"].clone()
        spoiled[0] *= 1.001
        return found._replace(grad={"lam": spoiled})


class Noisy(Reverse):
    """The right mean, or one that is off by `bias`, under noise of the size of the gradient."""

    bias = 0.0

    def draw(self, outer: Params, generator: torch.Generator) -> Params:
        return {n: torch.randn(v.shape, generator=generator) for n, v in outer.items()}

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        found = super().estimate(loop, outer, data, carry)
        grad = found.grad["lam"] * (1 + self.bias + data.noise["lam"])
        return found._replace(grad={"lam": grad})

    def claim(self) -> Claim:
        return Claim("its mean", references.unrolled, 4.5, "mean", repeats=1000)


class Biased(Noisy):
    bias = 0.3


class Hopeless(Noisy):
    def claim(self) -> Claim:
        return Noisy.claim(self)._replace(repeats=2)


SOME = [one_in(4, number, name) for number, name in enumerate(options("method"))]


@pytest.mark.parametrize(
    "task",
    [
        "quadratic",
        pytest.param("ridge", marks=pytest.mark.slow),
        pytest.param("logistic", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("method", SOME)
def test_every_method_is_what_it_claims_to_be(task: str, method: str) -> None:
    config = composed(f"task={task}", f"method={method}", "device=cpu", "device.dtype=float64")
    _, _, built, loop, estimator = parts(config, {})
    found = hold(estimator, loop, built, config.inner_steps, config.seed)
    # Refused: Reptile and its like need a learned start, which these tasks have not.
    assert found.verdict == "ok" or (found.verdict == "refused" and "method=" in found.reason)


def test_an_exact_method_is_exact_and_costs_what_it_declares() -> None:
    found = held(Reverse(None, None))
    assert (found.verdict, found.inner_grads, found.hvps) == ("ok", 10, 10)
    assert found.relative_error < 1e-9
    assert found.cosine == pytest.approx(1)
    # Ten steps of GD contract by 0.9 at most: near the exact hypergradient, but not at it.
    assert 1e-3 < found.exact_error < 1


class Broken(Reverse):
    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        raise TypeError("no such\nthing")


def test_a_broken_method_is_named_and_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    found = held(Broken(None, None))
    assert (found.verdict, found.reason.partition(". ")[0]) == (
        "failed",
        "TypeError: no such thing",
    )
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(TypeError):
        held(Broken(None, None))


class Unable(Reverse):
    error: RuntimeError = CannotServe("needs another problem")

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        raise self.error


class Torn(Unable):
    error = RuntimeError("Use method=reverse.")


def test_a_method_that_cannot_serve_refuses_by_its_error_and_not_by_its_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    refused, failed = held(Unable(None, None)), held(Torn(None, None))
    assert (refused.verdict, refused.reason) == ("refused", "needs another problem")
    assert failed.verdict == "failed"


def test_an_error_of_a_thousandth_in_one_entry_is_wrong() -> None:
    found = held(Wrong(None, None))
    assert found.verdict == "WRONG"
    assert "dF(z_K)/dlambda, and misses it" in found.reason


def test_a_mean_is_tested_against_its_noise() -> None:
    assert held(Noisy(None, None)).verdict == "ok"
    assert held(Biased(None, None)).verdict == "WRONG"  # ten standard errors
    assert held(Hopeless(None, None)).verdict == "WRONG"  # two draws prove nothing


def trial(problem: Any, last: Params | None = None) -> Trial:
    data = problem.data(5)
    loop = InnerLoop(problem, GradientDescent(0.1), Cold())
    carry = {"inner": loop.fresh(problem.outer_init(), data)}
    return Trial(loop, problem.outer_init(), data, carry, last or data.init)


def test_the_reference_of_all_is_the_closed_form() -> None:
    problem = Quadratic()
    found = references.solution(trial(problem))
    torch.testing.assert_close(
        found, problem.hypergradient(problem.outer_init()), rtol=1e-8, atol=0
    )


def test_a_flat_inner_problem_has_no_reference() -> None:
    problem = Quadratic()
    problem.hessian = torch.zeros(6, 6)
    with pytest.raises(NoSolution):
        references.solution(trial(problem))


def test_many_entries_are_differenced_by_reverse_mode_and_checked() -> None:
    few, many = torch.randn(5), torch.randn(references.FEW + 1)
    for point in (few, many):
        found = references.differenced(lambda p: (p["x"] ** 3).sum(), {"x": point})["x"]
        torch.testing.assert_close(found, 3 * point**2, rtol=1e-8, atol=1e-8)
    with pytest.raises(AssertionError, match="disagree"):
        references.differenced(lambda p: (p["x"].detach() * p["x"]).sum(), {"x": many})


def logistic_map(params: Params) -> Tensor:
    x = params["x"].sigmoid()
    for _ in range(60):  # which doubles a small difference each time
        x = 4 * x * (1 - x)
    return x.sum()


@pytest.mark.parametrize("count", [2, references.FEW + 1])
def test_a_slope_that_depends_on_the_step_is_no_reference(count: int) -> None:
    with pytest.raises(references.Chaotic, match="1e-06 and 1e-07 find slopes"):
        references.differenced(logistic_map, {"x": torch.linspace(-1, 1, count)})


def test_a_kink_is_no_reference_where_it_lies_and_does_not_matter_beside() -> None:
    def kinked(params: Params) -> Tensor:
        return params["x"].abs().sum() + 3 * params["x"].square().sum()

    with pytest.raises(references.Chaotic, match="or a kink"):
        references.differenced(kinked, {"x": torch.tensor([1.0, 0.0])})
    beside = torch.tensor([1.0, 3e-6])  # within the first step, and not the second
    found = references.differenced(kinked, {"x": beside})["x"]
    torch.testing.assert_close(found, 1 + 6 * beside, rtol=1e-8, atol=0)


def test_a_steep_and_a_flat_function_are_believed_to_what_rounding_leaves() -> None:
    with references.doubts() as doubts:
        flat = references.differenced(lambda p: 1e6 + 0 * p["x"].sum(), {"x": torch.ones(3)})
        steep = references.differenced(lambda p: (1e3 * p["x"]).sin().sum(), {"x": torch.ones(3)})
    assert flat["x"].norm() <= doubts[0] < 1e-2  # a slope of 1e-2 would be seen beside 1e6
    torch.testing.assert_close(
        steep["x"], 1e3 * torch.tensor(1e3).cos().expand(3), rtol=1e-6, atol=0
    )


class Elsewhere(Reverse):
    """Has a claim that cannot be tried."""

    def claim(self) -> Claim:
        return Claim(
            "chaos", lambda trial: references.differenced(logistic_map, {"x": torch.ones(1)})
        )


def test_chaos_is_a_verdict_of_its_own() -> None:
    found = held(Elsewhere(None, None))
    assert found.verdict == "chaotic"
    assert "Lower solver.lr or inner_steps" in found.reason


def test_a_chaotic_inner_loop_proves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    far = ["task=toy", "solver=gd", "solver.lr=100", "inner_steps=100"]
    assert run(monkeypatch, "method=reverse", *far) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("chaotic")


class Nothing(Reverse):
    """Claims that its hypergradient is that of a loss in which the outer parameters cancel."""

    def estimate(self, loop: InnerLoop, outer: Params, data: StepData, carry: Carry) -> Estimate:
        found = super().estimate(loop, outer, data, carry)
        return found._replace(grad={"lam": torch.zeros(3)})

    def claim(self) -> Claim:
        def rounded(outer: Params) -> Tensor:
            return (outer["lam"] + 0.1).sum() - outer["lam"].sum()

        return Claim("zero", lambda trial: references.differenced(rounded, trial.outer))


def test_a_reference_of_zero_is_held_to_its_rounding() -> None:
    found = held(Nothing(None, None))
    assert (found.verdict, found.measured) in (("ok", "0, to rounding"), ("ok", "0.0e+00"))


def test_the_table_and_the_csv(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, tmp_path: Path
) -> None:
    path = tmp_path / "check.csv"
    assert run(monkeypatch, "method=reverse,forward", "--csv", str(path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["method", "reverse", "forward"]
    assert all(line.endswith("ok") for line in lines[1:])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["reverse", "forward"]
    assert all(float(row["relative_error"]) < 1e-6 for row in rows)
    assert run(monkeypatch, "method=reverse", "--markdown") == 0
    assert capsys.readouterr().out.startswith("| method | claim |")


def test_rows_are_named_by_what_differs(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    assert run(monkeypatch, "method=reverse", "inner_steps=3,4") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["inner_steps=3", "inner_steps=4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method=revers"], "Did you mean 'reverse'?"),
        (["method=glob(x*)"], "method has no option that matches glob(x*)"),
        (["solver.lrr=1"], "there is no setting 'solver.lrr'"),
        (["method=reverse", "solver.lr=-1"], "needs a finite step size lr > 0"),
        (["--config-dir", "nowhere"], "--config-dir needs a folder, got nowhere"),
        (["--csv", "nowhere/x.csv"], "--csv needs a file in a folder that is there, got nowhere"),
    ],
)
def test_a_mistake_gets_one_message_and_exit_code_2(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert run(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") <= 3


def test_a_method_that_cannot_serve_refuses_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert run(monkeypatch, "method=cg", "task=meta", "model=linear") == 0
    out = capsys.readouterr().out
    assert "refused" in out
    assert "cg: Implicit needs losses that depend on the outer parameters" in out


def test_a_strangers_wrong_method_is_found_out(tmp_path: Path) -> None:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    command = [
        sys.executable,
        "-m",
        "bilevel_cli.commands.check",
        "--config-dir",
        "conf",
        "task=follow",
    ]
    environment = {"PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}", "PATH": ""}

    def run(methods: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*command, methods],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            check=False,
        )

    for methods, right in (("method=sign,reverse", 1), ("method=glob(sig*)", 0)):
        found = run(methods)
        assert found.returncode == 1, found.stderr
        # The sign is not the derivative that it does not say it is not.
        assert "outside of its tolerance: sign\n" in found.stderr
        assert found.stdout.count("ok") == right


class Counted(Noisy):
    """Counts the estimates for which it draws."""

    drawn: ClassVar[list[int]] = []

    def draw(self, outer: Params, generator: torch.Generator) -> Params:
        self.drawn.append(1)
        return super().draw(outer, generator)

    def claim(self) -> Claim:
        def none(trial: Trial) -> Params:
            raise NoSolution("too many")

        return Claim("a mean", none, 4.5, "mean", repeats=1000)


def test_where_there_is_no_reference_nothing_is_drawn_to_compare_with_it() -> None:
    Counted.drawn.clear()
    assert held(Counted(None, None)).verdict == "no reference"
    assert len(Counted.drawn) == 2  # of 1000


def test_a_long_check_says_how_far_it_is_where_there_is_no_terminal(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    told = check._Told(SimpleNamespace(disable=True), "es")
    for number in range(1, 31):
        now += 1.0
        told(number, 30)
    assert capsys.readouterr().err.splitlines() == [
        f"bilevel-check: es, part {number} of 30" for number in (10, 20, 30)
    ]
