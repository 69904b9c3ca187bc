"""Stochastic methods on sums of quadratics, where every one of their formulas is dense algebra."""

from typing import Any

import pytest
import torch
from configs import composed
from hydra.utils import instantiate
from torch import Tensor

from bilevel_cli.core import autodiff, episodes, trees
from bilevel_cli.core.episodes import refuse_memory
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Estimate, Hypergradient
from bilevel_cli.core.oracle import FixedOracle
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.schedules import PowerLaw
from bilevel_cli.core.trees import Params
from bilevel_cli.methods.amigo import Amigo
from bilevel_cli.methods.fsla import Fsla
from bilevel_cli.methods.parts.series import RandomTerm, WholeSeries
from bilevel_cli.methods.recursive_momentum import RecursiveMomentum
from bilevel_cli.methods.saba import Saba
from bilevel_cli.methods.soba import Soba
from bilevel_cli.methods.srba import Srba
from bilevel_cli.methods.stochastic_implicit import StochasticImplicit
from bilevel_cli.methods.vrbo import Vrbo
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.gd_decay import DecayingGradientDescent
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.warm import Warm

INNER, OUTER = 4, 3  # dimensions of z and x
LR = 0.2  # < 2 / 4: the Hessians of all blocks have eigenvalues between 1 and 4
CONSTANT = PowerLaw(LR, 0.0)


class Sum:
    """f_i = z'A_i z/2 - z'(B_i x + b_i) and F_j = (|z - t_j|^2 + |x - s_j|^2)/2, averaged."""

    blocks = (6, 4)

    def __init__(self) -> None:
        n, m = self.blocks
        vectors = torch.linalg.qr(torch.randn(n, INNER, INNER))[0]
        spectra = 1 + 3 * torch.rand(n, INNER)
        self.A = vectors * spectra[:, None] @ vectors.mT
        self.B, self.b = torch.randn(n, INNER, OUTER), torch.randn(n, INNER)
        self.t, self.s = torch.randn(m, INNER), torch.randn(m, OUTER)

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return data.init

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        z = inner["z"]
        return 0.5 * z @ batch["A"] @ z - z @ (batch["B"] @ outer["x"] + batch["b"])

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        gaps = inner["z"] - batch["t"], outer["x"] - batch["s"]
        return 0.5 * gaps[0].square().sum() + 0.5 * gaps[1].square().sum()

    def full(self, steps: int = 1, extra: int = 0, noise: Params | None = None) -> StepData:
        """Data all of whose minibatches are the whole sum."""
        mean = {name: getattr(self, name).mean(0) for name in "ABb"}
        inner = {name: value.expand(steps, *value.shape) for name, value in mean.items()}
        more = {name: value.expand(extra, *value.shape) for name, value in mean.items()}
        outer = {"t": self.t.mean(0), "s": self.s.mean(0)}
        return StepData(START, inner, outer, noise or {}, more if extra else {})

    def at(
        self,
        inner: list[int],
        outer: int,
        extra: list[int] | None = None,
        noise: Params | None = None,
    ) -> StepData:
        """Data with these blocks as minibatches."""

        def blocks(numbers: list[int]) -> Batch:
            chosen = {name: getattr(self, name)[numbers] for name in "ABb"}
            return {**chosen, "block": torch.tensor(numbers)}

        batch = {"t": self.t[outer], "s": self.s[outer], "block": torch.tensor(outer)}
        return StepData(START, blocks(inner), batch, noise or {}, blocks(extra) if extra else {})

    def whole(self) -> dict[str, Batch]:
        """The whole sums, as a task gives them."""
        data = self.full()
        return {"inner": data.inner_at(0), "outer": data.outer}

    def hypergradient(self, x: Tensor) -> Tensor:
        """Of the whole sum, at its solution."""
        A, B, b = (getattr(self, name).mean(0) for name in "ABb")
        adjoint = torch.linalg.solve(A, torch.linalg.solve(A, B @ x + b) - self.t.mean(0))
        return x - self.s.mean(0) + B.T @ adjoint


START = {"z": torch.linspace(-1.0, 2.0, INNER, dtype=torch.float64)}
X = {"x": torch.linspace(0.5, -1.0, OUTER, dtype=torch.float64)}
SERIES = [WholeSeries(4, LR), RandomTerm(4, LR)]
POWER = {"power": torch.tensor(2)}
EVERY: list[Hypergradient[Any]] = [
    Soba(CONSTANT),
    Saba(LR),
    Amigo(3, LR),
    Fsla(CONSTANT, PowerLaw(0.5, 0.5)),
    *(StochasticImplicit(series) for series in SERIES),
    *(RecursiveMomentum(series, PowerLaw(0.5, 0.5)) for series in SERIES),
    Srba(LR, 3),
    Vrbo(SERIES[0], 3),
]


def loop_of(problem: Sum, solver: Any = None) -> InnerLoop:
    return InnerLoop(problem, solver or GradientDescent(LR), Warm())


def begun(
    method: Hypergradient[Any], loop: InnerLoop, data: StepData, outer: Params
) -> tuple[Any, Any]:
    """The first carry, and estimate(data, carry, outer)."""

    def estimate(data: StepData, carry: Any, outer: Params = outer) -> Estimate:
        return method.estimate(loop, outer, data, carry)

    return method.begin(loop, outer, data, loop.fresh(outer, data)), estimate


def assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_soba_moves_z_v_and_x_at_once_at_step_sizes_that_fall() -> None:
    problem = Sum()
    inner_lr, adjoint_lr = PowerLaw(0.2, 0.5), PowerLaw(0.3, 0.4)
    loop = loop_of(problem, DecayingGradientDescent(inner_lr))
    carry, estimate = begun(Soba(adjoint_lr), loop, problem.at([0], 0), X)
    z, v, x = START["z"], torch.zeros(INNER), X["x"]
    for k, (i, j) in enumerate([(2, 1), (5, 0), (2, 3), (0, 0)]):
        found = estimate(problem.at([i], j), carry, {"x": x})
        A, B, b = problem.A[i], problem.B[i], problem.b[i]
        assert_equal(found.grad["x"], x - problem.s[j] + B.T @ v)
        z_gradient, v_gradient = A @ z - B @ x - b, A @ v - (z - problem.t[j])
        z = z - 0.2 / (k + 1) ** 0.5 * z_gradient
        v = v - 0.3 / (k + 1) ** 0.4 * v_gradient
        assert_equal(found.carry["inner"]["inner"]["z"], z)
        assert_equal(found.carry["adjoint"]["z"], v)
        batch = {"t": problem.t[j], "s": problem.s[j]}
        assert_equal(found.loss, problem.outer_loss({"z": z}, {"x": x}, batch))
        x, carry = x - 0.1 * found.grad["x"], found.carry


@pytest.mark.parametrize("method", [EVERY[0], EVERY[1], *EVERY[6:9]])
def test_a_single_loop_runs_its_other_inner_steps_first(method: Hypergradient[Any]) -> None:
    problem = Sum()
    loop, noise = loop_of(problem), POWER
    extra = [1] * method.extras(1)
    several = problem.at([3, 4, 0], 1, extra, noise)
    state = loop.run(loop.fresh(X, several), X, several, last=2)
    carry, estimate = begun(method, loop, several, X)
    expected = estimate(problem.at([0], 1, extra, noise), {**carry, "inner": state})
    torch.testing.assert_close(estimate(several, carry), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("option", "inner", "outer"),
    [
        ("soba", 1 / 2, 1 / 2),
        ("bsa", 1 / 2, 1 / 2),
        ("fsla", 1 / 2, 1 / 2),
        ("ttsa", 2 / 5, 3 / 5),
        ("mrbo", 1 / 3, 1 / 3),
        ("sustain", 1 / 3, 1 / 3),
        ("saba", 0, 0),
        ("srba", 0, 0),
        ("vrbo", 0, 0),
        ("amigo", 0, 0),
        ("stocbio", 0, 0),
    ],
)
def test_the_step_sizes_of_the_papers_reach_solver_and_optimizer(
    option: str, inner: float, outer: float
) -> None:
    config = composed("task=quadratic", f"method={option}", "optimizer=sgd")
    solver, parameter = instantiate(config.solver), torch.zeros(1, requires_grad=True)
    optimizer = instantiate(config.optimizer)([parameter])
    scheduler = instantiate(config.scheduler)(optimizer)
    oracle, state = FixedOracle({}, {"z": torch.ones(1)}), solver.init({"z": torch.zeros(1)})
    for k in range(5):
        moved = solver.step(oracle, state)
        step = state["inner"]["z"] - moved["inner"]["z"]
        assert_equal(step, torch.tensor([0.1 / (k + 1) ** inner]))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / (k + 1) ** outer, rel=1e-9)
        optimizer.step()
        scheduler.step()
        state = moved


@pytest.mark.parametrize("experiment", ["ijcnn1_bsa", "ijcnn1_f2sa", "covtype_bsa"])
def test_with_ten_inner_steps_the_benchmark_counts_the_outer_ones(experiment: str) -> None:
    config = composed(f"experiment=benchmark_{experiment}")
    assert config.inner_steps == 10
    schedule = instantiate(config.solver).lr
    # 0.5 / sqrt(k + 1) in all ten, up to how far they are apart.
    for k in (100, 10_000):
        for t in (0, 9):
            assert schedule(10 * k + t) == pytest.approx(0.5 / (k + 1) ** 0.5, rel=1e-2)
    if "bsa" in experiment:
        assert instantiate(config.method).series.step_size == 0.5


@pytest.mark.parametrize("option", ["soba", "saba", "srba", "fsla", "ttsa", "mrbo", "sustain"])
def test_a_single_loop_has_one_inner_step_unless_the_user_says_otherwise(option: str) -> None:
    method = f"method={option}"
    assert composed("task=quadratic", method).inner_steps == 1
    assert composed("task=quadratic", method, "inner_steps=7").inner_steps == 7
    chosen = composed("task=quadratic", method, "solver=adam", "scheduler=cosine", "start=cold")
    for node, name in (
        (chosen.solver, "Adam"),
        (chosen.scheduler, "Cosine"),
        (chosen.start, "Cold"),
    ):
        assert name in node._target_


def test_after_one_epoch_at_a_fixed_point_the_means_of_saba_are_the_full_derivatives() -> None:
    problem = Sum()
    carry, estimate = begun(Saba(LR), loop_of(problem), problem.at([0], 0), X)
    z, v, x = START["z"], torch.linspace(1.0, 2.0, INNER), X["x"]
    # All six blocks of f, and all four of F, of which two come twice.
    for i, j in zip([3, 0, 5, 1, 4, 2], [2, 0, 3, 1, 2, 0], strict=True):
        fixed = {**carry, "inner": {"inner": {"z": z}}, "adjoint": {"z": v}}
        carry = estimate(problem.at([i], j), fixed).carry
    A, B, b = problem.A, problem.B, problem.b
    expected = {
        "inner": {"z": A @ z - B @ x - b},
        "product": {"z": A @ v},
        "implicit": {"x": -B.mT @ v},
        "rhs": {"z": z - problem.t},
        "direct": {"x": x - problem.s},
    }
    assert carry["memory"].keys() == expected.keys()
    for name, rows in expected.items():
        for key, table in rows.items():
            assert_equal(carry["memory"][name]["table"][key], table)
            assert_equal(carry["memory"][name]["mean"][key], table.mean(0))


def test_saba_corrects_each_direction_by_what_its_block_said_before() -> None:
    problem = Sum()
    carry, estimate = begun(Saba(LR), loop_of(problem), problem.at([0], 0), X)
    first = estimate(problem.at([2], 1), carry)
    # Nothing is remembered: the directions are those of the minibatch, and a share of the memory.
    assert_equal(first.grad["x"], X["x"] - problem.s[1])
    g = problem.A[2] @ START["z"] - problem.B[2] @ X["x"] - problem.b[2]
    z = START["z"] - LR * g
    assert_equal(first.carry["inner"]["inner"]["z"], z)
    v = LR * (START["z"] - problem.t[1])
    assert_equal(first.carry["adjoint"]["z"], v)
    again = estimate(problem.at([2], 1), first.carry)
    new = problem.A[2] @ z - problem.B[2] @ X["x"] - problem.b[2]
    assert_equal(again.carry["inner"]["inner"]["z"], z - LR * (new - g + g / 6))
    # d_x F did not move, and had a quarter of the mean; the cross product was zero.
    assert_equal(again.grad["x"], (X["x"] - problem.s[1]) / 4 + problem.B[2].T @ v)


def test_saba_with_a_single_block_is_soba() -> None:
    problem = Sum()
    data, loop = problem.full(), loop_of(problem)
    one, saba = begun(Saba(LR), loop, data, X)
    other, soba = begun(Soba(CONSTANT), loop, data, X)
    assert one["memory"]["inner"]["table"]["z"].shape == (1, INNER)
    for _ in range(3):
        found, expected = saba(data, one), soba(data, other)
        one, other = found.carry, expected.carry
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-12, atol=1e-14)
        for name in ("inner", "adjoint"):
            torch.testing.assert_close(one[name], other[name], rtol=1e-12, atol=1e-14)


def test_saba_converges_linearly_at_the_steps_at_which_soba_stalls() -> None:
    problem = Sum()
    random = torch.Generator().manual_seed(0)
    orders = [
        torch.cat([torch.randperm(count, generator=random) for _ in range(300)]).tolist()
        for count in problem.blocks
    ]

    def norms(method: Hypergradient[Any]) -> list[float]:
        """The norm of the exact hypergradient after 0, 400 and 800 outer steps at rate 0.05."""
        carry, estimate = begun(method, loop_of(problem, GradientDescent(0.08)), data, X)
        x, found = X["x"], []
        for k in range(801):
            if k % 400 == 0:
                found.append(float(problem.hypergradient(x).norm()))
            step = estimate(problem.at([orders[0][k]], orders[1][k]), carry, {"x": x})
            x, carry = x - 0.05 * step.grad["x"], step.carry
        return found

    data = problem.at([0], 0)
    first, half, last = norms(Saba(0.08))
    # The outer problem is strongly convex with modulus 1 or more: 0.95^400 = 1e-9.
    assert half < 1e-5 * first
    assert last < 1e-5 * half
    # At constant steps the noise of SOBA does not fade: minibatches differ by order one.
    assert norms(Soba(PowerLaw(0.08, 0.0)))[-1] > 1e-3


def dense_series(problem: Sum, eta: float, extra: list[int], rhs: Tensor) -> list[Tensor]:
    """eta * prod_{i < j} (I - eta A_i) rhs for j = 0, 1, ..., with the blocks `extra`."""
    terms = [eta * rhs]
    for i in extra:
        terms.append(terms[-1] - eta * problem.A[i] @ terms[-1])
    return terms


def test_stocbio_takes_each_product_of_its_series_on_a_minibatch_of_its_own() -> None:
    problem, extra, eta = Sum(), [3, 0, 5, 1], 0.3
    data = problem.at([2, 4], 1, extra)
    carry, estimate = begun(StochasticImplicit(WholeSeries(4, eta)), loop_of(problem), data, X)
    found = estimate(data, carry)
    z = found.carry["inner"]["inner"]["z"]
    terms = dense_series(problem, eta, extra[:3], z - problem.t[1])
    expected = X["x"] - problem.s[1] + problem.B[extra[3]].T @ torch.stack(terms).sum(0)
    assert_equal(found.grad["x"], expected)


@pytest.mark.parametrize("terms", [1, 2, 7])
def test_a_whole_series_is_the_dense_polynomial(terms: int) -> None:
    A, rhs = Sum().A[0], torch.randn(INNER)
    total, last = WholeSeries(terms, LR).sum(lambda _, v: {"z": A @ v["z"]}, {"z": rhs}, {})
    found = total["z"]
    # sum_{j < Q} (I - eta A)^j eta = A^-1 (I - (I - eta A)^Q)
    remainder = torch.linalg.matrix_power(torch.eye(INNER) - LR * A, terms) @ rhs
    assert_equal(found, torch.linalg.solve(A, rhs - remainder))
    assert_equal(WholeSeries(terms, LR).matrix(A) @ rhs, found)
    # Without its last term, the sum leaves that of the right-hand side.
    assert_equal(last["z"], rhs - A @ (found - LR * last["z"]))


def test_the_mean_of_bsa_over_its_power_is_stocbio() -> None:
    problem, extra, terms, eta = Sum(), [3, 0, 5, 1], 4, 0.3
    loop, grads = loop_of(problem), []
    random, whole = RandomTerm(terms, eta), WholeSeries(terms, eta)
    for power in range(terms):
        data = problem.at([2], 1, extra, {"power": torch.tensor(power)})
        carry, estimate = begun(StochasticImplicit(random), loop, data, X)
        grads.append(estimate(data, carry).grad["x"])
        z = estimate(data, carry).carry["inner"]["inner"]["z"]
        term = dense_series(problem, eta, extra[:power], z - problem.t[1])[-1]
        cross = problem.B[extra[3]].T @ (terms * term)
        assert_equal(grads[-1], X["x"] - problem.s[1] + cross)
    carry, estimate = begun(StochasticImplicit(whole), loop, data, X)
    assert_equal(torch.stack(grads).mean(0), estimate(data, carry).grad["x"])


def test_the_power_of_bsa_is_uniform_below_the_number_of_terms() -> None:
    generator = torch.Generator().manual_seed(0)
    method = StochasticImplicit(RandomTerm(5, LR))
    drawn = torch.stack([method.draw(X, generator)["power"] for _ in range(2000)])
    counts = torch.bincount(drawn, minlength=5)
    # Binomial with mean 400 and standard deviation 18: five of them.
    assert len(counts) == 5
    assert ((counts - 400).abs() < 90).all()


def test_amigo_takes_each_step_of_the_adjoint_on_a_minibatch_of_its_own() -> None:
    problem, extra = Sum(), [3, 0, 5]
    data = problem.at([2, 4], 1, extra)
    carry, estimate = begun(Amigo(2, 0.3), loop_of(problem), data, X)
    v = torch.linspace(1.0, 2.0, INNER)
    found = estimate(data, {**carry, "adjoint": {"z": v}})
    z = found.carry["inner"]["inner"]["z"]
    for i in extra[:2]:
        v = v - 0.3 * (problem.A[i] @ v - (z - problem.t[1]))
    assert_equal(found.carry["adjoint"]["z"], v)
    assert_equal(found.grad["x"], X["x"] - problem.s[1] + problem.B[5].T @ v)


def test_the_adjoint_of_amigo_tends_to_the_solution_of_its_linear_system() -> None:
    problem = Sum()
    data = problem.full(steps=5, extra=6)
    carry, estimate = begun(Amigo(5, LR), loop_of(problem), data, X)
    for _ in range(40):  # 200 steps, which contract by 1 - 0.2 * 1 each: 1e-20
        found = estimate(data, carry)
        carry = found.carry
    A, rhs = problem.A.mean(0), carry["inner"]["inner"]["z"] - problem.t.mean(0)
    assert_equal(carry["adjoint"]["z"], torch.linalg.solve(A, rhs))
    assert_equal(found.grad["x"], problem.hypergradient(X["x"]))


def test_fsla_corrects_the_last_direction_at_the_last_point_on_the_present_minibatch() -> None:
    problem, momentum = Sum(), PowerLaw(0.5, 0.5)
    carry, estimate = begun(
        Fsla(PowerLaw(0.3, 0.4), momentum), loop_of(problem), problem.at([0], 0), X
    )
    z, v, x, m = START["z"], torch.zeros(INNER), X["x"], torch.zeros(OUTER)
    z_old, v_old, x_old = z, v, x
    for k, (i, j, (one, two)) in enumerate([(2, 1, (0, 3)), (5, 0, (1, 4)), (2, 3, (5, 2))]):
        found = estimate(problem.at([i], j, [one, two]), carry, {"x": x})
        z_old, v_old = z, v
        z = z - LR * (problem.A[i] @ z - problem.B[i] @ x - problem.b[i])
        v = v - 0.3 / (k + 1) ** 0.4 * (problem.A[one] @ v - (z - problem.t[j]))
        here = x - problem.s[j] + problem.B[two].T @ v
        there = x_old - problem.s[j] + problem.B[two].T @ v_old
        m = here if k == 0 else here + (1 - 0.5 / (k + 1) ** 0.5) * (m - there)
        assert_equal(found.carry["inner"]["inner"]["z"], z)
        assert_equal(found.carry["adjoint"]["z"], v)
        assert_equal(found.grad["x"], m)
        x_old, x, carry = x, x - 0.1 * found.grad["x"], found.carry
    assert not torch.equal(z_old, z)


@pytest.mark.parametrize("series", SERIES, ids=["MRBO", "SUSTAIN"])
def test_recursive_momentum_is_taken_on_both_gradients(series: Any) -> None:
    problem = Sum()
    method = RecursiveMomentum(series, PowerLaw(0.5, 2 / 3))
    carry, estimate = begun(method, loop_of(problem), problem.at([0], 0), X)

    def pair(z: Tensor, x: Tensor, i: int, j: int, extra: list[int]) -> tuple[Tensor, Tensor]:
        terms = dense_series(problem, LR, extra, z - problem.t[j])
        # The third of four terms, for all of them; or their sum.
        v = 4 * terms[2] if series.random else torch.stack(terms).sum(0)
        g = problem.A[i] @ z - problem.B[i] @ x - problem.b[i]
        return g, x - problem.s[j] + problem.B[i].T @ v

    z, x = START["z"], X["x"]
    z_old, x_old = z, x
    for k, (i, j, extra) in enumerate([(2, 1, [0, 3, 1]), (5, 0, [1, 4, 4]), (2, 3, [5, 2, 0])]):
        found = estimate(problem.at([i], j, extra, POWER), carry, {"x": x})
        here = pair(z, x, i, j, extra)
        if k == 0:
            m = here
        else:
            there, weight = pair(z_old, x_old, i, j, extra), 1 - 0.5 / (k + 1) ** (2 / 3)
            m = tuple(h + weight * (o - t) for h, t, o in zip(here, there, m, strict=True))
        z_old, x_old, z = z, x, z - LR * m[0]
        assert_equal(found.carry["inner"]["inner"]["z"], z)
        assert_equal(found.grad["x"], m[1])
        x, carry = x - 0.1 * found.grad["x"], found.carry


def mean_of(problem: Sum) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return tuple(getattr(problem, name).mean(0) for name in "ABbts")


def test_srba_corrects_its_directions_and_begins_them_anew_on_all_examples() -> None:
    problem, period = Sum(), 3
    carry, estimate = begun(Srba(0.3, period), loop_of(problem), problem.at([0], 0), X)

    def directions(
        z: Tensor, v: Tensor, x: Tensor, i: int | None, j: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        A, B, b, t, s = mean_of(problem)
        if i is not None and j is not None:
            A, B, b = problem.A[i], problem.B[i], problem.b[i]
            t, s = problem.t[j], problem.s[j]
        return A @ z - B @ x - b, A @ v - (z - t), x - s + B.T @ v

    point = START["z"], torch.zeros(INNER), X["x"]
    before, D = point, directions(*point, None, None)
    for k, (i, j) in enumerate([(2, 1), (5, 0), (2, 3), (4, 2), (1, 1)]):
        data = problem.at([i], j)
        if k % period == 0:
            data, D = data._replace(whole=problem.whole()), directions(*point, None, None)
        else:
            here, there = directions(*point, i, j), directions(*before, i, j)
            D = (D[0] + here[0] - there[0], D[1] + here[1] - there[1], D[2] + here[2] - there[2])
        found = estimate(data, carry, {"x": point[2]})
        assert_equal(found.grad["x"], D[2])
        before = point
        point = point[0] - LR * D[0], point[1] - 0.3 * D[1], point[2] - 0.1 * D[2]
        assert_equal(found.carry["inner"]["inner"]["z"], point[0])
        assert_equal(found.carry["adjoint"]["z"], point[1])
        carry = found.carry


def test_vrbo_corrects_its_directions_at_every_inner_step_and_once_more() -> None:
    problem, period, steps = Sum(), 2, 2
    method = Vrbo(WholeSeries(3, 0.3), period)
    data = problem.at([0, 0], 0, [0] * method.extras(steps))
    carry, estimate = begun(method, loop_of(problem), data, X)
    assert method.extras(steps) == 7  # two products each for three corrections, and one batch

    def pair(z: Tensor, x: Tensor, i: int, j: int, extra: list[int]) -> tuple[Tensor, Tensor]:
        v = torch.stack(dense_series(problem, 0.3, extra, z - problem.t[j])).sum(0)
        g = problem.A[i] @ z - problem.B[i] @ x - problem.b[i]
        return g, x - problem.s[j] + problem.B[i].T @ v

    def on_all(z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        A, B, b, t, s = mean_of(problem)
        v = WholeSeries(3, 0.3).matrix(A) @ (z - t)
        return A @ z - B @ x - b, x - s + B.T @ v

    z, x = START["z"], X["x"]
    z_old, x_old = z, x
    m = torch.zeros(INNER), torch.zeros(OUTER)
    for k, (inner, j, extra) in enumerate(
        [
            ([2, 1], 0, [0, 3, 1, 4, 5, 2, 0]),
            ([5, 0], 3, [1, 4, 4, 2, 0, 1, 3]),
            ([3, 3], 1, [2, 0, 1, 1, 5, 4, 2]),
            ([4, 1], 2, [5, 5, 0, 2, 3, 1, 1]),
        ]
    ):
        data = problem.at(inner, j, extra)
        if k % period == 0:
            data = data._replace(whole=problem.whole())
        for t, i in enumerate([*inner, extra[-1]]):
            if t == steps and k % period == 0:
                m = on_all(z, x)
                break
            own = extra[2 * t : 2 * t + 2]
            here, there = pair(z, x, i, j, own), pair(z_old, x_old, i, j, own)
            m = (m[0] + here[0] - there[0], m[1] + here[1] - there[1])
            z_old, x_old = z, x
            if t < steps:
                z = z - LR * m[0]
        z_old, x_old = z, x
        found = estimate(data, carry, {"x": x})
        assert_equal(found.carry["inner"]["inner"]["z"], z)
        assert_equal(found.grad["x"], m[1])
        x, carry = x - 0.1 * found.grad["x"], found.carry
    # Before the first sums on all examples nothing is known, and nothing moves.
    assert_equal(begun(method, loop_of(problem), data, X)[0]["inner"]["inner"]["z"], START["z"])


@pytest.mark.parametrize("method", EVERY[8:])
def test_without_all_examples_a_minibatch_stands_in_for_them(method: Any) -> None:
    problem = Sum()
    loop, extra = loop_of(problem), [1] * method.extras(1)
    data = problem.at([1], 2, extra)  # one inner block for all
    carry, estimate = begun(method, loop, data, X)
    given = {"inner": data.inner_at(0), "outer": data.outer}
    for _ in range(5):
        found = estimate(data, carry)
        kept, carry = carry, found.carry
    expected = estimate(data._replace(whole=given), kept)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("option", ["srba", "vrbo"])
def test_a_run_gives_all_examples_at_the_first_of_every_period(option: str) -> None:
    config = composed("task=logistic", "task.batch_size=60", f"method={option}", "method.period=4")
    offered = {"device": torch.device("cpu"), "generator": torch.Generator().manual_seed(0)}
    task, method = (
        instantiate(config.task, data=instantiate(config.data), **offered),
        instantiate(config.method),
    )
    given = [bool(episodes.whole(task, method, step)) for step in range(9)]
    assert given == [True, *[False] * 3, True, *[False] * 3, True]
    ahead = [episodes.until_whole(task, method, step) for step in range(5)]
    assert ahead == [0, 3, 2, 1, 0]
    assert episodes.until_whole(task, Soba(CONSTANT), 0) is None
    # The means of the losses on them are those over blocks, whose last one is filled up.
    whole = task.whole()
    outer = task.init_outer(offered["generator"])
    inner = {"weight": torch.randn(len(outer["log_l2"]))}
    blocks = [
        task.inner_loss(
            inner, outer, {n: value[i] for n, value in task.inner_blocks.tensors.items()}
        )
        for i in range(task.blocks[0])
    ]
    assert len(task.examples["train"]["y"]) % 60
    assert_equal(task.inner_loss(inner, outer, whole["inner"]), torch.stack(blocks).mean())
    assert_equal(
        task.outer_loss(inner, outer, whole["outer"]),
        task.outer_loss(inner, outer, task.examples["validation"]),
    )


def test_srba_and_vrbo_converge_at_the_steps_at_which_others_stall() -> None:
    problem, random = Sum(), torch.Generator().manual_seed(0)
    series = WholeSeries(2, LR)

    def distance(method: Hypergradient[Any], steps: int, matrix: Any) -> float:
        """The norm of the hypergradient with `matrix` for the inverse, at z*(x), at the end."""
        loop, every = loop_of(problem, GradientDescent(0.08)), method.whole_every
        carry, estimate = begun(method, loop, problem.at([0], 0), X)
        x = X["x"]
        for k in range(steps):
            drawn = torch.randint(6, (1 + method.extras(1),), generator=random).tolist()
            outer = int(torch.randint(4, (), generator=random))
            data = problem.at(drawn[:1], outer, drawn[1:])
            if every is not None and k % every == 0:
                data = data._replace(whole=problem.whole())
            step = estimate(data, carry, {"x": x})
            x, carry = x - 0.05 * step.grad["x"], step.carry
        A, B, b, t, s = mean_of(problem)
        rhs = torch.linalg.solve(A, B @ x + b) - t
        return float((x - s + B.T @ matrix(A) @ rhs).norm())

    # The outer problem is strongly convex with modulus 1 or more: 0.95^400 = 1e-9.
    assert distance(Srba(0.08, 10), 400, torch.linalg.inv) < 1e-7
    assert distance(Soba(PowerLaw(0.08, 0.0)), 400, torch.linalg.inv) > 1e-3
    # 0.95^150 = 5e-4, of what is of order one at the start.
    assert distance(Vrbo(series, 10), 150, series.matrix) < 1e-2
    assert distance(StochasticImplicit(series), 150, series.matrix) > 5e-2


class Curved(Sum):
    """Hessian and cross derivative depend on x and on z."""

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        curvature = 0.05 * outer["x"].sum().exp() * inner["z"].square().sum()
        return super().inner_loss(inner, outer, batch) + curvature


# Without noise, here - there cancels what is remembered, whatever its weight; x and z move.


@pytest.mark.parametrize("series", SERIES, ids=["MRBO", "SUSTAIN"])
def test_without_noise_recursive_momentum_is_its_base_method(series: Any) -> None:
    problem = Curved()
    data = problem.full(extra=4, noise=POWER)
    method, base = RecursiveMomentum(series, PowerLaw(0.3, 0.5)), StochasticImplicit(series)
    carry, estimate = begun(method, loop_of(problem), data, X)
    # The base method at the point before the inner step.
    still = loop_of(problem, GradientDescent(1e-300))
    z, x = START, X
    for _ in range(4):
        found = estimate(data, carry, x)
        assert_equal(
            found.grad["x"], base.estimate(still, x, data, {"inner": {"inner": z}}).grad["x"]
        )
        z = trees.axpy(-LR, autodiff.grad(problem.inner_loss)(z, x, data.inner_at(0)), z)
        assert_equal(found.carry["inner"]["inner"]["z"], z["z"])
        x, carry = trees.axpy(-0.1, found.grad, x), found.carry


def test_without_noise_fsla_is_amigo_with_one_step_of_each() -> None:
    problem = Curved()
    loop, data = loop_of(problem), problem.full(extra=2)
    one, fsla = begun(Fsla(CONSTANT, PowerLaw(0.3, 0.5)), loop, data, X)
    other, amigo = begun(Amigo(1, LR), loop, data, X)
    x = X
    for _ in range(4):
        found, expected = fsla(data, one, x), amigo(data, other, x)
        assert_equal(found.grad["x"], expected.grad["x"])
        assert_equal(found.carry["adjoint"]["z"], expected.carry["adjoint"]["z"])
        x, one, other = trees.axpy(-0.1, found.grad, x), found.carry, expected.carry


@pytest.mark.parametrize("method", EVERY)
def test_every_extra_minibatch_is_consumed_and_no_other(method: Hypergradient[Any]) -> None:
    problem, count = Sum(), method.extras(1)
    noise = {"power": torch.tensor(3)}  # the last term: all products count

    def grad(extra: list[int]) -> Tensor:
        loop, data = loop_of(problem), problem.at([0], 1, extra, noise)
        carry, estimate = begun(method, loop, data, X)
        # Away from the adjoint at which products are zero, and from the first step, at which
        # nothing is corrected.
        if "adjoint" in carry:
            carry = {**carry, "adjoint": {"z": torch.ones(INNER)}}
        if isinstance(method, Vrbo):
            before = {"inner": {"z": -START["z"]}, "outer": {"x": 2 * X["x"]}}
            carry = {**carry, "previous": before, "count": torch.tensor(1.0)}
        return estimate(data, carry).grad["x"]

    some = [1] * count
    for number in range(count):
        assert not torch.equal(grad(some), grad([*some[:number], 2, *some[number + 1 :]]))
    assert torch.equal(grad(some), grad([*some, 2]))


def test_extra_minibatches_are_not_those_of_the_inner_steps() -> None:
    config = composed("task=logistic", "task.batch_size=16", "method=stocbio")
    offered = {"device": torch.device("cpu"), "generator": torch.Generator().manual_seed(0)}
    task = instantiate(config.task, data=instantiate(config.data), **offered)
    inner, extra = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    method = instantiate(config.method)
    data = episodes.sample(task, method, 10, inner, extra)
    assert data.extra["block"].shape == (method.extra_batches,) == (11,)
    assert not torch.equal(data.extra["block"][:10], data.inner["block"])


@pytest.mark.parametrize("method", [EVERY[3], *EVERY[6:]])
def test_a_remembered_point_stays_when_the_optimizer_moves_the_outer_parameters(
    method: Hypergradient[Any],
) -> None:
    problem, outer = Sum(), {"x": X["x"].clone()}
    data = problem.full(extra=method.extras(1), noise=POWER)
    carry, estimate = begun(method, loop_of(problem), data, outer)
    carries: list[Any] = [carry, estimate(data, carry).carry]
    outer["x"].add_(1.0)
    for one in carries:
        kept = one["previous_outer"] if "previous_outer" in one else one["previous"]["outer"]
        assert torch.equal(kept["x"], X["x"])


class Fresh(Sum):
    episodes = 2


@pytest.mark.parametrize("method", [one for one in EVERY if one.remembers])
def test_a_memory_is_refused_where_every_step_brings_new_problems(
    method: Hypergradient[Any],
) -> None:
    problem: Any = Fresh()
    name = type(method).__name__
    with pytest.raises(ValueError, match=f"^{name} needs the same inner problem.* draws new"):
        refuse_memory(problem, InnerLoop(problem, GradientDescent(LR), Cold()), method)


def test_the_methods_that_remember_nothing_but_the_inner_state_are_no_others() -> None:
    assert [type(one) for one in EVERY if not one.remembers] == 2 * [StochasticImplicit]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WholeSeries(0, 0.1), "WholeSeries needs terms >= 1, got terms=0."),
        (lambda: RandomTerm(3, -1.0), "RandomTerm needs a finite step_size > 0, got"),
        (lambda: Amigo(0, 0.1), "Amigo needs adjoint_steps >= 1, got adjoint_steps=0."),
        (lambda: Amigo(1, 0.0), "Amigo needs a finite adjoint_lr > 0, got adjoint_lr=0.0."),
        (lambda: Saba(float("inf")), "Saba needs a finite adjoint_lr > 0, got adjoint_lr=inf."),
        (lambda: Fsla(CONSTANT, PowerLaw(1.5, 0.0)), "Fsla needs a momentum weight <= 1, got"),
        (lambda: Srba(0.0, 3), "Srba needs a finite adjoint_lr > 0, got adjoint_lr=0.0."),
        (lambda: Srba(0.1, 0), "Srba needs period >= 1, got period=0."),
        (lambda: Vrbo(SERIES[0], -1), "Vrbo needs period >= 1, got period=-1."),
        (lambda: Vrbo(SERIES[1], 3), "Vrbo needs a whole series, got RandomTerm,"),
        (
            lambda: RecursiveMomentum(SERIES[0], PowerLaw(1.5, 0.0)),
            "RecursiveMomentum needs a momentum weight <= 1, got",
        ),
    ],
)
def test_a_setting_that_cannot_work_is_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make()
