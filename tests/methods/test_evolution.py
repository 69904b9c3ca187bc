"""Methods that perturb the outer parameters: exact on designed noise, and as noisy as theory says.

Gaussian noise enters an estimate that is bilinear in it through its second moments alone. So noise
with exactly those moments, `design`, gives the mean over all noise from a single estimate, wherever
F(z_K(lambda), lambda) is quadratic.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from configs import composed
from problems import Plane, Quadratic, estimate
from runners import runner_in
from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.start import Start
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.es import Es
from bilevel_cli.methods.es_single import EsSingle
from bilevel_cli.methods.fg2u import Fg2u
from bilevel_cli.methods.none import NoHypergradient
from bilevel_cli.methods.pes import Pes
from bilevel_cli.methods.pzobo import Pzobo
from bilevel_cli.methods.random_search import RandomSearch
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.momentum import Momentum
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.learned import Learned
from bilevel_cli.starts.warm import Warm
from bilevel_cli.tasks.examples.iaptt_toy import Toy
from bilevel_cli.tasks.examples.quadratic import Quadratic as QuadraticTask
from reproductions.items import evolution

FULL = Reverse(window=None, segment=None)
PLANE = Plane()
OUTER = {"x": Plane.x}
Z = 4.5  # standard errors; passed by chance once in 10^5 numbers


def design(outer: Params, std: float, signs: tuple[float, ...] = (1.0,)) -> Params:
    """Perturbations with mean square std^2 * identity: the scaled axes, once for each sign."""
    vector, unravel = trees.ravel(outer)
    axes = torch.eye(len(vector)) * std * len(vector) ** 0.5
    return autodiff.vmap(unravel)(torch.cat([sign * axes for sign in signs]))


def designed(
    method: Hypergradient[Any],
    problem: Any,
    data: StepData,
    outer: Params,
    start: Start | None = None,
) -> Params:
    std = getattr(method, "std", 1.0)  # the directions of a forward gradient have variance 1
    return estimate(method, problem, data._replace(noise=design(outer, std)), outer, start).grad


def close(found: Any, expected: Any, rtol: float = 1e-9) -> None:
    torch.testing.assert_close(found, expected, rtol=rtol, atol=1e-11)


def z_scores(samples: Tensor, expected: Tensor) -> Tensor:
    """By how many standard errors the mean over the leading dimension is off."""
    return (samples.mean(0) - expected).abs() / (samples.std(0) / len(samples) ** 0.5)


# Exact answers in the plane, from test_cases.
@pytest.mark.parametrize(("steps", "expected"), [(1, (0.82, 1.21)), (3, (1.221425, 1.514025))])
@pytest.mark.parametrize(
    "method", [Es(2, 0.01), Es(2, 1.0), Pzobo(2, 0.01), Pzobo(2, 1.0), Fg2u(2)]
)
def test_the_mean_is_the_unrolled_hypergradient(
    method: Hypergradient[Any], steps: int, expected: tuple[float, float]
) -> None:
    close(designed(method, PLANE, PLANE.data(steps), OUTER)["x"], torch.tensor(expected))


@pytest.mark.parametrize("method", [Es(9, 0.1), Pzobo(9, 0.1), Fg2u(9)])
def test_the_mean_reaches_a_learned_start(method: Hypergradient[Any]) -> None:
    problem = Quadratic()
    data = problem.data(5)
    outer = {**problem.outer_init(), "init.z": torch.linspace(-1, 1, 6)}
    expected = estimate(FULL, problem, data, outer, Learned()).grad
    close(designed(method, problem, data, outer, Learned()), expected)


@pytest.mark.parametrize("method", [Pes(2, 0.1, 3), EsSingle(2, 0.1, 3)])
def test_the_first_window_is_es_on_the_mean_of_its_losses(method: Hypergradient[Any]) -> None:
    grads = [estimate(FULL, PLANE, PLANE.data(steps), OUTER).grad["x"] for steps in (1, 2, 3, 4)]
    close(designed(method, PLANE, PLANE.data(4), OUTER)["x"], torch.stack(grads).mean(0))


def test_windows_of_one_step_in_problems_of_one_window_are_es() -> None:
    problem, outer = Quadratic(), Quadratic().outer_init()
    data = problem.data(1)._replace(noise=Es(4, 0.1).draw(outer, torch.Generator()))
    expected = estimate(Es(4, 0.1), problem, data, outer).grad
    for method in (Pes(4, 0.1, 1), EsSingle(4, 0.1, 1)):
        close(estimate(method, problem, data, outer).grad, expected)


def test_both_particles_of_a_pair_see_the_data_of_the_step() -> None:
    problem, outer, std = Quadratic(), {"lam": torch.tensor([1.0, -0.5, 2.0])}, 0.3
    data = problem.data(6)._replace(inner={"scale": torch.linspace(0.2, 3.0, 6)})
    noise = Es(2, std).draw(outer, torch.Generator().manual_seed(1))
    loop = InnerLoop(problem, GradientDescent(0.1), Cold())

    def loss(lam: Tensor) -> Tensor:
        state = loop.run(loop.fresh({"lam": lam}, data), {"lam": lam}, data)
        return problem.outer_loss(state["inner"], {"lam": lam}, data.outer)

    pairs = [
        eps * (loss(outer["lam"] + eps) - loss(outer["lam"] - eps)) / (2 * std**2)
        for eps in noise["lam"]
    ]
    found = estimate(Es(2, std), problem, data._replace(noise=noise), outer)
    close(found.grad["lam"], torch.stack(pairs).mean(0))
    close(found.loss, loss(outer["lam"]))


@pytest.mark.parametrize("method", [Es(3, 0.1), Pes(3, 0.1, 2), EsSingle(3, 0.1, 2), Pzobo(3, 0.1)])
def test_the_task_evaluates_an_unperturbed_trajectory(method: Hypergradient[Any]) -> None:
    problem, outer = Quadratic(), Quadratic().outer_init()
    loop = InnerLoop(problem, Momentum(0.05, 0.5), Warm())
    generator, data = torch.Generator(), problem.data(4)
    carry: Any = method.init(outer, loop.fresh(outer, data))
    plain: Any = {"inner": loop.fresh(outer, data)}
    for _ in range(3):
        found = method.estimate(
            loop, outer, data._replace(noise=method.draw(outer, generator)), carry
        )
        expected = NoHypergradient().estimate(loop, outer, data, plain)
        carry, plain = found.carry, expected.carry
        close((found.loss, carry["inner"]), (expected.loss, plain["inner"]))


@pytest.mark.parametrize("method", [Es(1, 1.0), Pzobo(2, 1.0)])
def test_the_bias_falls_with_the_square_of_the_deviation(method: Any) -> None:
    toy, outer = Toy([3.0, 1.0], 1, torch.device("cpu")), {"x": torch.tensor(3.0)}
    data, solver = toy.sample(10, torch.Generator()), GradientDescent(0.005)
    exact = estimate(FULL, toy, data, outer, solver=solver).grad["x"]

    def error(std: float) -> Tensor:
        noise = {"x": torch.tensor([std, -std][: 2 if isinstance(method, Pzobo) else 1])}
        moved = data._replace(noise=noise)
        found = estimate(replace(method, std=std), toy, moved, outer, solver=solver)
        return found.grad["x"] - exact

    # The next term is of the fourth power: about a thousandth of the leading one here.
    assert float(error(0.1) / error(0.05)) == pytest.approx(4.0, rel=0.02)


def second_window(start: Start, method: Any, noises: list[Params], problem: Any) -> Params:
    """The gradient of a second window of four steps, with momentum."""
    loop, outer = InnerLoop(problem, Momentum(0.1, 0.5), start), problem.outer_init()
    data = problem.data(4)
    carry = method.init(outer, loop.fresh(outer, data))
    for noise in noises:
        found = method.estimate(loop, outer, data._replace(noise=noise), carry)
        carry = found.carry
    return found.grad


def second_window_through_both(problem: Any) -> Params:
    loop, data = InnerLoop(problem, Momentum(0.1, 0.5), Cold()), problem.data(8)

    def mean_loss(outer: Params) -> Tensor:
        state, losses = loop.fresh(outer, data), []
        for t in range(8):
            state = loop.step(state, outer, data, t)
            losses.append(problem.outer_loss(state["inner"], outer, data.outer))
        return torch.stack(losses[4:]).mean()

    return autodiff.grad(mean_loss)(problem.outer_init())


def test_persistent_strategies_have_the_mean_of_the_whole_problem_in_its_second_window() -> None:
    problem, outer = Quadratic(), Quadratic().outer_init()
    # The perturbations of the two windows are uncorrelated: their products cancel over the pairs.
    noises = [design(outer, 0.1, (1.0, 1.0)), design(outer, 0.1, (1.0, -1.0))]
    expected = second_window_through_both(problem)
    close(second_window(Cold(), Pes(6, 0.1, 2), noises, problem), expected)
    close(second_window(Cold(), EsSingle(6, 0.1, 2), noises, problem), expected)
    # Windows that forget are another matter: what the first did to the second is missing.
    naive = second_window(Warm(), Pes(6, 0.1, 1), noises, problem)
    assert trees.norm(trees.axpy(-1.0, expected, naive)) > 0.2 * trees.norm(expected)


def test_what_draw_draws_is_unbiased_in_the_second_window_and_truncation_is_not() -> None:
    problem, outer = Quadratic(), Quadratic().outer_init()
    draws, generator = 40_000, torch.Generator().manual_seed(0)
    expected = second_window_through_both(problem)["lam"]

    def scores(start: Start, method: Any) -> Tensor:
        noise = replace(method, pairs=2 * draws).draw(outer, generator)["lam"]

        def of_one_pair(noise: Tensor) -> Tensor:
            noises = [{"lam": noise[:1]}, {"lam": noise[1:]}]
            return second_window(start, method, noises, problem)["lam"]

        return z_scores(autodiff.vmap(of_one_pair)(noise.reshape(draws, 2, 3)), expected)

    assert scores(Cold(), Pes(1, 0.1, 2)).max() < Z
    assert scores(Cold(), EsSingle(1, 0.1, 2)).max() < Z
    assert scores(Warm(), Pes(1, 0.1, 1)).max() > 5 * Z


@pytest.mark.parametrize("windows", [1, 3, 11])
def test_the_variance_of_es_single_does_not_grow_with_the_windows_and_that_of_pes_does(
    windows: int,
) -> None:
    theory = evolution.expected(windows)
    for name, method in (("ES-Single", EsSingle(1, 0.1, windows)), ("PES", Pes(1, 0.1, windows))):
        # The sampling error is about one percent.
        assert evolution.variance(method, windows) == pytest.approx(theory[name], rel=0.06)


@pytest.mark.parametrize("start", [Cold(), Warm()], ids=["cold", "warm"])
@pytest.mark.parametrize("method", [Pes(3, 0.1, 2), EsSingle(3, 0.1, 2)], ids=["pes", "es_single"])
def test_after_the_horizon_a_problem_begins_as_the_start_policy_says(
    method: Any, start: Start
) -> None:
    problem, outer, generator = Quadratic(), Quadratic().outer_init(), torch.Generator()
    loop = InnerLoop(problem, Momentum(0.05, 0.5), start)
    carry = method.init(outer, loop.fresh(outer, problem.data(3)))
    for window in range(5):
        data = problem.data(3)._replace(noise=method.draw(outer, generator))
        found = method.estimate(loop, outer, data, carry)
        # A carry without history, but for where the unperturbed particle stopped.
        anew = method.estimate(loop, outer, data, method.init(outer, carry["inner"]))
        assert torch.equal(found.grad["lam"], anew.grad["lam"]) == (window % 2 == 0)
        assert found.metrics["window"] == window % 2 + 1
        carry = found.carry


def test_es_single_draws_when_a_problem_begins_and_pes_in_every_window() -> None:
    problem, outer = Quadratic(), Quadratic().outer_init()
    first, one, other = (
        Es(2, 0.1).draw(outer, torch.Generator().manual_seed(seed)) for seed in (0, 1, 2)
    )

    def differs(method: Any) -> bool:
        grads = [second_window(Cold(), method, [first, second], problem) for second in (one, other)]
        return not torch.equal(grads[0]["lam"], grads[1]["lam"])

    assert not differs(EsSingle(2, 0.1, 2))
    assert differs(Pes(2, 0.1, 2))


def test_forward_gradients_have_the_mean_and_the_covariance_of_their_theory() -> None:
    problem, method, draws = Quadratic(), Fg2u(directions=2), 4000
    outer, data = {"lam": torch.tensor([1.0, -0.5, 2.0])}, problem.data(3)
    exact = estimate(FULL, problem, data, outer).grad["lam"]
    noise = replace(method, directions=2 * draws).draw(outer, torch.Generator().manual_seed(0))
    assert torch.equal(noise["lam"].abs(), torch.ones(2 * draws, 3))

    def of_two(noise: Tensor) -> Tensor:
        return estimate(method, problem, data._replace(noise={"lam": noise}), outer).grad["lam"]

    grads = autodiff.vmap(of_two)(noise["lam"].reshape(draws, 2, 3))
    assert z_scores(grads, exact).max() < Z
    square = exact @ exact
    theory = (square * torch.eye(3) + exact.outer(exact) - 2 * exact.square().diag()) / 2
    # 4000 draws leave a relative sampling error of about 0.03.
    assert (grads.T.cov() - theory).norm() < 0.12 * theory.norm()


def search(
    method: RandomSearch, loop: InnerLoop, outer: Params, datas: list[StepData]
) -> list[tuple[Params, Any]]:
    """The outer parameters that gradient descent with step size 1 is led to, and the estimates."""
    carry: Any = method.init(outer, loop.fresh(outer, datas[0]))
    path = []
    for data in datas:
        found = method.estimate(loop, outer, data, carry)
        outer, carry = trees.axpy(-1.0, found.grad, outer), found.carry
        path.append((outer, found))
    return path


def test_random_search_is_the_loop_that_anyone_would_write() -> None:
    problem, method = Quadratic(), RandomSearch(candidates=3, std=0.5)
    first, generator = {"lam": torch.tensor([1.0, -0.5, 2.0])}, torch.Generator().manual_seed(0)
    loop = InnerLoop(problem, GradientDescent(0.1), Cold())
    datas = [problem.data(5)._replace(noise=method.draw(first, generator)) for _ in range(8)]
    best, least, moves = first["lam"], torch.tensor(torch.inf), 0
    for data, (outer, found) in zip(datas, search(method, loop, first, datas), strict=True):
        candidates = [first["lam"] + eps for eps in data.noise["lam"]]
        if data is datas[0]:
            candidates = [first["lam"], *candidates[:2]]
        for lam in candidates:
            state = loop.run(loop.fresh({"lam": lam}, data), {"lam": lam}, data)
            loss = problem.outer_loss(state["inner"], {"lam": lam}, data.outer)
            if loss < least:
                best, least, inner, moves = lam, loss, state["inner"], moves + 1
        close(outer["lam"], best)
        close(found.loss, least)
        close(found.carry["inner"]["inner"], inner)
    assert moves > 2  # or the test would show little


def test_a_candidate_that_diverges_is_never_best() -> None:
    task = QuadraticTask(4, 1, 0.0, torch.device("cpu"), torch.Generator().manual_seed(0))
    loop, outer = InnerLoop(task, GradientDescent(0.1), Cold()), {"lam": torch.zeros(1)}
    data = task.sample(3, torch.Generator())
    noise = torch.tensor([[torch.nan], [torch.inf], [0.0]])
    (moved, found), *_ = search(
        RandomSearch(3, 1.0), loop, outer, [data._replace(noise={"lam": noise})]
    )
    assert torch.equal(moved["lam"], outer["lam"])
    assert found.loss.isfinite()


def test_candidates_are_admissible() -> None:
    toy, outer = Toy([3.0, 1.0], 1, torch.device("cpu")), {"x": torch.tensor(3.0)}
    loop = InnerLoop(toy, GradientDescent(0.005), Cold())
    data = toy.sample(4, torch.Generator())._replace(noise={"x": torch.tensor([-50.0, 0.0])})
    (_, _), (moved, found) = search(RandomSearch(2, 1.0), loop, outer, [data, data])
    # F = x (1 + y) with y near 1 is least at the smallest x of the box.
    close((moved["x"], found.carry["best"]["x"]), (torch.tensor(1.0), torch.tensor(1.0)))


def run(directory: Path, *overrides: str) -> Any:
    config = composed(
        *overrides,
        "device=cpu",
        "device.dtype=float64",
        "task=quadratic",
        "task.noise=0",
        "log_every=1",
        "task.outer_dim=2",
    )
    runner = runner_in(config, directory)
    runner.run()
    return runner


def test_a_run_of_random_search_never_gets_worse_and_ends_at_its_best(tmp_path: Path) -> None:
    runner = run(tmp_path, "method=random_search", "outer_steps=12")
    losses = [
        float(line.split(",")[2]) for line in (tmp_path / "train.csv").read_text().split()[1:]
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    close(runner.state.outer, runner.state.carry["best"])
    # What the task evaluates is the best candidate, too.
    inner, task = runner.state.carry["inner"]["inner"], runner.experiment.task
    assert float(task.outer_loss(inner, runner.state.outer, {})) == pytest.approx(losses[-1])


def test_a_method_brings_the_optimizer_of_random_search_and_the_user_overrules_it() -> None:
    config = composed("task=reweight", "method=random_search")
    assert config.optimizer._target_ == "torch.optim.SGD"
    assert config.optimizer.lr == 1.0
    assert config.start._target_.endswith("Cold")
    config = composed("task=reweight", "method=random_search", "optimizer=adam", "optimizer.lr=0.1")
    assert config.optimizer._target_ == "torch.optim.Adam"
    assert config.optimizer.lr == 0.1


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Es(0, 0.1), "Es needs pairs >= 1, got pairs=0"),
        (lambda: Es(1, 0.0), "Es needs a finite std > 0, got std=0"),
        (lambda: Pes(0, 0.1, 1), "Pes needs pairs >= 1, got pairs=0"),
        (lambda: Pes(1, 0.1, 0), "Pes needs horizon >= 1, got horizon=0"),
        (lambda: EsSingle(1, float("inf"), 1), "EsSingle needs a finite std > 0, got std=inf"),
        (lambda: Pzobo(0, 0.1), "Pzobo needs directions >= 1, got directions=0"),
        (lambda: Pzobo(1, -1.0), "Pzobo needs a finite std > 0, got std=-1"),
        (lambda: Fg2u(0), "Fg2u needs directions >= 1, got directions=0"),
        (lambda: RandomSearch(0, 1.0), "RandomSearch needs candidates >= 1, got candidates=0"),
        (lambda: RandomSearch(1, 0.0), "RandomSearch needs a finite std > 0, got std=0"),
    ],
)
def test_a_setting_that_cannot_be_is_named(make: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()
