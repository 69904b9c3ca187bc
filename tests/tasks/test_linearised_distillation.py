"""RCIG: linearised networks, a lesson that has no last layer, an implicit part that is clipped."""

from pathlib import Path

import pytest
import torch
from claims import Logistic, held_to_its_claim
from configs import composed, small
from runners import runner_in
from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.methods.parts.clipping import clipped
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.models import ConvNet, Mlp
from bilevel_cli.nn.functional import functional
from bilevel_cli.nn.linearised import Linearised
from bilevel_cli.runs.runner import Runner
from bilevel_cli.solvers.gd import GradientDescent

RCIG = ["task/objective=kernel_ridge", "task/lesson=ridge", "task.linearised=true"]
PENALTIES = ["task.lesson.penalty=10", "task.objective.penalty=0.1"]
SIZES = ["model=mlp", "model.width=3", "model.activation=tanh"]


def build(directory: Path, *overrides: str) -> Runner:
    first = ["task=distill", "device=cpu", "device.dtype=float64", *small("distill")]
    return runner_in(composed(*first, *SIZES, *overrides), directory)


@pytest.mark.parametrize("module", [ConvNet(3, 2, (1, 8, 8), 3), Mlp(4, 1, "tanh", (1, 8, 8), 3)])
def test_a_linearised_network_is_its_central_difference_and_linear(
    module: torch.nn.Module,
) -> None:
    network = functional(lambda: module)
    at = network.init(torch.Generator().manual_seed(0))
    x = torch.randn(5, 1, 8, 8)
    direction = {name: torch.randn(z.shape) for name, z in at.items()}
    made = Linearised.around(network, at)

    for ours, theirs in ((made.apply, network.apply), (made.features, network.features)):
        ahead, behind = (theirs(trees.axpy(step, direction, at), x) for step in (1e-6, -1e-6))
        slope = (ahead - behind) / 2e-6
        # Ten steps are ten times one, however far.
        for length in (0.0, 1.0, 10.0):
            found = ours(trees.axpy(length, direction, at), x)
            torch.testing.assert_close(found, theirs(at, x) + length * slope, rtol=1e-6, atol=1e-6)

        def along(params: Params, of: object = ours) -> Tensor:
            return of(params, x).sum()  # type: ignore[operator]

        # The gradient in z is the same everywhere: that of the network at z_0.
        there = autodiff.grad(lambda z, of=theirs: of(z, x).sum())(at)
        for name, value in autodiff.grad(along)(trees.axpy(3.0, direction, at)).items():
            torch.testing.assert_close(value, there[name])


def test_the_implicit_gradient_of_the_ridge_lesson_is_that_of_the_solved_problem(
    tmp_path: Path,
) -> None:
    words = [*RCIG, "task.learn_labels=true", "task.l2=20", *PENALTIES]
    runner = build(tmp_path, *words, "method=exact", "inner_steps=22", "suggest.inner_lr=0.02")
    loop, method = runner.experiment.loop, runner.experiment.method
    outer, data = runner.state.outer, loop.problem.sample(22, torch.Generator().manual_seed(0))  # type: ignore[attr-defined]
    carry = method.init(outer, loop.fresh(outer, data))
    implicit = method.estimate(loop, outer, data, carry)
    unrolled = Reverse(None, None).estimate(loop, outer, data, {"inner": carry["inner"]})
    direct = autodiff.grad(loop.problem.outer_loss, 1)(
        implicit.carry["inner"]["inner"], outer, data.outer
    )
    # The squared norm has curvature 40, which outweighs that of the lesson: steps contract.
    for name, part in direct.items():
        ours, theirs = implicit.grad[name] - part, unrolled.grad[name] - part
        assert theirs.norm() > 0
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()


def test_with_a_body_that_does_not_move_rcig_is_frepo(tmp_path: Path) -> None:
    (tmp_path / "frepo").mkdir()
    (tmp_path / "rcig").mkdir()
    frozen = build(tmp_path / "rcig", *RCIG, "method=pseudo_inverse", "task.adapt=head")
    frepo = build(tmp_path / "frepo", "task/objective=kernel_ridge", "method=direct")
    found = []
    for runner in (frozen, frepo):
        loop, method = runner.experiment.loop, runner.experiment.method
        outer = runner.state.outer
        data = loop.problem.sample(2, torch.Generator().manual_seed(0))  # type: ignore[attr-defined]
        found.append(
            method.estimate(loop, outer, data, method.init(outer, loop.fresh(outer, data)))
        )
    torch.testing.assert_close(found[0].loss, found[1].loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(found[0].grad["images"], found[1].grad["images"])


def test_a_clipped_part_is_as_long_as_the_direct_one_and_others_stay() -> None:
    implicit = {"long": torch.tensor([3.0, 4.0]), "short": torch.tensor([0.1, 0.0])}
    implicit["none"] = torch.zeros(2)
    direct = {"long": torch.tensor([0.0, 2.0]), "short": torch.ones(2), "none": torch.zeros(2)}
    found, metrics = clipped(implicit, direct)
    torch.testing.assert_close(found["long"], torch.tensor([1.2, 1.6]))
    assert torch.equal(found["short"], implicit["short"])
    assert torch.equal(found["none"], implicit["none"])
    torch.testing.assert_close(metrics["implicit_clipped"], torch.tensor(1 / 3))
    torch.testing.assert_close(metrics["implicit_scale"], torch.tensor(0.4))


def test_a_clipped_estimate_is_what_it_claims_and_not_the_hypergradient() -> None:
    problem = Logistic()
    data, outer = problem.data(5), problem.outer()
    whole, kept = (Implicit(Exact(0.0, None), False, "hessian", clip) for clip in (None, "direct"))
    solver = GradientDescent(0.5)
    held_to_its_claim(kept, problem, data, outer, solver)
    assert "clipped" in kept.claim().text
    with pytest.raises(AssertionError):
        held_to_its_claim(_claiming(kept, whole), problem, data, outer, solver)


def _claiming(method: Implicit, other: Implicit) -> Implicit:
    """`method`, with the claim of another one."""
    made = type("Claiming", (Implicit,), {"claim": lambda self: other.claim()})
    return made(method.linear_solver, method.warm_adjoint, method.curvature, method.clip)


def test_clipping_refuses_what_has_no_direct_part(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="clip to be null or direct"):
        Implicit(Exact(0.0, None), False, "hessian", "all")
    with pytest.raises(Exception, match="clip=direct needs an outer loss that contains"):
        build(tmp_path, "task/objective=validation", "method=cg", "method.clip=direct")
