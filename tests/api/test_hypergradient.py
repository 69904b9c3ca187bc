"""bilevel_cli.hypergradient equals autograd written by hand, and says what it cannot serve."""

from collections.abc import Callable
from typing import Any, NamedTuple

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from torch import Tensor, nn
from torch.nn import functional as nnf

from bilevel_cli import CannotServe, UsageError, hypergradient
from bilevel_cli.config import options
from bilevel_cli.config.options import CONF

TOLERANCE = 1e-10  # relative, in float64: some thousand roundings
Vector = Callable[[Tensor, Tensor], Tensor]


class Written(NamedTuple):
    """A problem twice: as a user hands it over, and as functions of two flat vectors.

    Attributes:
        inner_loss: For `hypergradient`.
        outer_loss: For `hypergradient`.
        inner: For `hypergradient`.
        outer: For `hypergradient`.
        f: The inner loss of flat vectors, written without a module and without a dict.
        F: The outer loss, likewise.
        lr: A step size with which gradient descent reaches the solution.
    """

    inner_loss: Any
    outer_loss: Any
    inner: Any
    outer: Any
    f: Vector
    F: Vector
    lr: float


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ridge() -> Written:
    """A penalty for each feature: tensors."""
    X, y, Xv, yv = (numbers(*s, seed=i) for i, s in enumerate([(30, 4), (30,), (20, 4), (20,)]))

    def f(w: Tensor, penalty: Tensor) -> Tensor:
        return (X @ w - y).square().mean() + (penalty.exp() * w.square()).sum()

    def F(w: Tensor, penalty: Tensor) -> Tensor:
        return (Xv @ w - yv).square().mean()

    return Written(f, F, torch.zeros(4), numbers(4, seed=9) - 2, f, F, 0.15)


def logistic() -> Written:
    """A logistic regression with a penalty for each feature: dicts."""
    X, Xv = numbers(40, 3, seed=1), numbers(20, 3, seed=2)
    y, yv = (X[:, 0] > 0).double(), (Xv[:, 0] > 0.2).double()
    loss = nnf.binary_cross_entropy_with_logits

    def f(v: Tensor, penalty: Tensor) -> Tensor:
        return loss(X @ v[:3] + v[3], y) + (penalty.exp() * v[:3].square()).sum()

    def F(v: Tensor, penalty: Tensor) -> Tensor:
        return loss(Xv @ v[:3] + v[3], yv)

    def inner_loss(inner: Any, outer: Any) -> Tensor:
        penalty = (outer["log_penalty"].exp() * inner["w"].square()).sum()
        return loss(X @ inner["w"] + inner["b"], y) + penalty

    def outer_loss(inner: Any, outer: Any) -> Tensor:
        return loss(Xv @ inner["w"] + inner["b"], yv)

    inner = {"w": torch.zeros(3), "b": torch.zeros(())}
    return Written(inner_loss, outer_loss, inner, {"log_penalty": numbers(3, seed=3)}, f, F, 0.1)


def quadratic() -> Written:
    """A quadratic whose outer loss contains the outer parameters: lists."""
    root, B, target = numbers(5, 5, seed=1), numbers(5, 3, seed=2), numbers(5, seed=3)
    A = root @ root.T / 5 + torch.eye(5)

    def f(z: Tensor, lam: Tensor) -> Tensor:
        return 0.5 * z @ A @ z - z @ B @ lam

    def F(z: Tensor, lam: Tensor) -> Tensor:
        return 0.5 * (z - target).square().sum() + 0.1 * lam.square().sum()

    def joined(loss: Vector) -> Any:
        return lambda z, lam: loss(torch.cat(list(z)), lam)

    inner = [torch.zeros(2), torch.zeros(3)]
    return Written(joined(f), joined(F), inner, numbers(3, seed=4), f, F, 0.2)


def network() -> Written:
    """A small network as a module, with a weight for each example."""
    X, Xv, y, yv = (numbers(*s, seed=i) for i, s in enumerate([(12, 3), (9, 3), (12,), (9,)]))
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def by_hand(v: Tensor, x: Tensor) -> Tensor:
        first, bias, second, last = torch.split(v, [12, 4, 4, 1])
        return (x @ first.view(4, 3).T + bias).tanh() @ second + last

    def f(v: Tensor, weights: Tensor) -> Tensor:
        errors = (by_hand(v, X) - y).square()
        return (weights.sigmoid() * errors).mean() + 0.5 * v.square().sum()

    def F(v: Tensor, weights: Tensor) -> Tensor:
        return (by_hand(v, Xv) - yv).square().mean()

    def inner_loss(model: Any, weights: Tensor) -> Tensor:
        errors = (model(X).squeeze(-1) - y).square()
        decay = sum(p.square().sum() for p in model.parameters())
        return (weights.sigmoid() * errors).mean() + 0.5 * decay

    def outer_loss(model: Any, weights: Tensor) -> Tensor:
        return (model(Xv).squeeze(-1) - yv).square().mean()

    return Written(inner_loss, outer_loss, model, numbers(12, seed=8), f, F, 0.2)


def distillation() -> Written:
    """Two examples learned such that a linear model fitted to them is good: a module as outer."""
    Xv, yv = numbers(15, 3, seed=1), numbers(15, seed=2)
    labels = torch.tensor([1.0, -1.0])

    class Examples(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Parameter(numbers(2, 3, seed=3))

    def f(w: Tensor, x: Tensor) -> Tensor:
        return (x.view(2, 3) @ w - labels).square().mean() + 0.1 * w.square().sum()

    def F(w: Tensor, x: Tensor) -> Tensor:
        return (Xv @ w - yv).square().mean()

    def inner_loss(w: Tensor, examples: Any) -> Tensor:
        return (examples.x @ w - labels).square().mean() + 0.1 * w.square().sum()

    def outer_loss(w: Tensor, examples: Any) -> Tensor:
        return (Xv @ w - yv).square().mean()

    return Written(inner_loss, outer_loss, torch.zeros(3), Examples(), f, F, 0.1)


PROBLEMS = [ridge, logistic, quadratic, network, distillation]
each_problem = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda make: make.__name__)


def flat(given: Any) -> Tensor:
    if isinstance(given, nn.Module):
        given = dict(given.named_parameters())
    values = given.values() if isinstance(given, dict) else given
    parts = [given] if isinstance(given, Tensor) else values
    return torch.cat([value.detach().reshape(-1) for value in parts])


def by_hand(problem: Written, steps: int, truncated: bool = False) -> tuple[Tensor, Tensor]:
    """(dF/dlambda, z_K): torch.autograd through a loop of gradient descent."""
    with torch.enable_grad():
        outer = flat(problem.outer).requires_grad_()
        z = flat(problem.inner).requires_grad_()
        for _ in range(steps):
            z = z - problem.lr * torch.autograd.grad(problem.f(z, outer), z, create_graph=True)[0]
        (grad,) = torch.autograd.grad(problem.F(z, outer), outer)
    return grad, z.detach()


def densely(problem: Written, z: Tensor) -> Tensor:
    """d_lambda F - (d_lambda d_z f)^T H^-1 d_z F, by torch.autograd.functional.hessian."""
    outer = flat(problem.outer)
    with torch.enable_grad():
        (H, cross), _ = torch.autograd.functional.hessian(problem.f, (z, outer))  # type: ignore[no-untyped-call]
        at, lam = z.clone().requires_grad_(), outer.clone().requires_grad_()
        rhs, direct = torch.autograd.grad(problem.F(at, lam), (at, lam), materialize_grads=True)
    return direct - cross.T @ torch.linalg.solve(H, rhs)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@each_problem
def test_reverse_mode_is_autograd_through_a_loop_by_hand(problem: Callable[[], Written]) -> None:
    p = problem()
    found = hypergradient(*p[:4], "reverse", "gd", 30, lr=p.lr)
    grad, last = by_hand(p, 30)
    assert error(flat(found.grad), grad) < TOLERANCE
    assert error(flat(found.inner), last) < TOLERANCE
    assert float(found.loss) == pytest.approx(float(p.F(last, flat(p.outer))), rel=TOLERANCE)


@each_problem
@pytest.mark.parametrize("method", ["cg", "exact"])
def test_implicit_methods_are_the_dense_formula(
    problem: Callable[[], Written], method: str
) -> None:
    p = problem()
    precise = {"method.linear_solver.max_steps": 100, "method.linear_solver.rtol": 1e-13}
    settings = precise if method == "cg" else {}
    found = hypergradient(*p[:4], method, steps=30, lr=p.lr, settings=settings)
    assert error(flat(found.grad), densely(p, flat(found.inner))) < TOLERANCE


@each_problem
def test_answers_have_the_form_of_what_was_given(problem: Callable[[], Written]) -> None:
    p = problem()
    found = hypergradient(*p[:4], steps=2)
    for given, answer in ((p.inner, found.inner), (p.outer, found.grad)):
        if isinstance(given, nn.Module):
            given = dict(given.named_parameters())
        assert type(answer) is type(given)
        assert isinstance(given, Tensor | list) or list(answer) == list(given)
        assert flat(answer).shape == flat(given).shape
    assert not any(x.requires_grad for x in (found.loss, flat(found.grad), flat(found.inner)))


# ---- step sizes, solved problems, memory


def test_without_a_step_size_it_is_one_over_the_largest_curvature() -> None:
    p = quadratic()
    H = torch.autograd.functional.hessian(lambda z: p.f(z, p.outer), flat(p.inner))  # type: ignore[no-untyped-call]
    found = hypergradient(*p[:4])
    # Products tell the largest eigenvalue L from below; gradient descent converges below 2 / L.
    assert 1 <= float(found.metrics["lr"] * torch.linalg.eigvalsh(H)[-1]) < 1.5
    assert float(found.metrics["inner_grad_norm"]) < 1e-6
    # Adam's yaml has a step size of its own.
    assert "lr" not in hypergradient(*p[:4], "reverse", "adam", 2).metrics


def test_no_steps_say_that_the_inner_problem_is_solved() -> None:
    p = ridge()
    solved = hypergradient(*p[:4], steps=500)
    found = hypergradient(*p[:2], solved.inner, p.outer, steps=0)
    assert error(found.grad, solved.grad) < 1e-6
    assert torch.equal(found.inner, solved.inner)
    with pytest.raises(UsageError, match="method=reverse needs inner steps"):
        hypergradient(*p[:4], "reverse", steps=0)


def test_a_memory_that_is_handed_on_settles_the_adjoint() -> None:
    p, carry = ridge(), None
    exact = densely(p, flat(hypergradient(*p[:4], steps=1000).inner))
    errors = []
    for _ in range(30):
        found = hypergradient(*p[:4], "amigo", steps=10, carry=carry)
        carry = found.carry
        errors.append(error(found.grad, exact))
    assert errors[-1] < 1e-6 < errors[0]


def test_a_learned_start_has_a_gradient_of_its_own() -> None:
    p = quadratic()

    def outer_loss(z: Any, nothing: Any) -> Tensor:
        return p.F(torch.cat(z), p.outer)

    def inner_loss(z: Any, nothing: Any) -> Tensor:
        return p.f(torch.cat(z), p.outer)

    found = hypergradient(
        inner_loss, outer_loss, p.inner, {}, "reverse", "gd", 3, lr=p.lr, start="learned"
    )
    A = torch.autograd.functional.hessian(lambda z: p.f(z, p.outer), flat(p.inner))  # type: ignore[no-untyped-call]
    shrunk = torch.linalg.matrix_power(torch.eye(5) - p.lr * A, 3)  # dz_3/dz_0
    target = torch.autograd.functional.jacobian(lambda z: p.F(z, p.outer), flat(found.inner))  # type: ignore[no-untyped-call]
    assert error(torch.cat(list(found.learned.values())), shrunk.T @ target) < TOLERANCE
    assert list(found.learned) == ["init.0", "init.1"]
    with pytest.raises(UsageError, match=r"method=fomaml learns where .* Give outer=\{\}"):
        hypergradient(*p[:4], "fomaml")


def test_settings_have_the_names_of_the_command_line() -> None:
    p = quadratic()
    identity = hypergradient(*p[:4], "identity").grad
    same = hypergradient(*p[:4], "implicit", settings={"method/linear_solver": "identity"}).grad
    assert torch.equal(identity, same)
    longer = hypergradient(*p[:4], "neumann", settings={"method.linear_solver.max_steps": 200})
    assert longer.metrics["adjoint_residual"] < 1e-9
    assert longer.cost.hvps > 200


# ---- what it leaves alone


def test_nothing_outside_changes() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)).float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    X, y = torch.randn(6, 2).float(), torch.randn(6, 1).float()
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    with torch.enable_grad():
        penalty = torch.zeros((), dtype=torch.float32, requires_grad=True)
        found = hypergradient(
            lambda m, p: (m(X) - y).square().mean() + p.exp() * m[0].weight.square().sum(),
            lambda m, p: (m(X) - y).abs().mean(),
            model,
            penalty,
            "es",
            steps=3,
        )
    assert found.grad.dtype == found.loss.dtype == torch.float32
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == dtype
    assert penalty.grad is None
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_it_serves_within_a_program_of_hydra() -> None:
    p = quadratic()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        hypergradient(*p[:4], "minres", steps=1, settings={"method.linear_solver.rtol": 1e-7})
        assert GlobalHydra.instance().hydra is before


def test_one_seed_is_one_estimate() -> None:
    p = quadratic()
    one, same, other = (hypergradient(*p[:4], "es", steps=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.grad, same.grad)
    assert not torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("method", options.names("method"))
def test_every_method_serves_or_says_why_not(method: str) -> None:
    p = quadratic()
    try:
        found = hypergradient(*p[:4], method, steps=3)
    except (UsageError, CannotServe) as error:
        refusal = str(error)
        assert method in ("fomaml", "reptile")
        assert "Give outer={}" in refusal
    else:
        assert found.grad.shape == p.outer.shape
        assert bool(found.grad.isfinite().all())


# ---- what it refuses


def product(z: Any, lam: Any) -> Tensor:
    return 0.5 * (z - lam).square().sum()


one, two = torch.full((2,), 1.0).double(), torch.full((2,), 2.0).double()


def without(z: Any, lam: Any) -> Tensor:
    return z.square().sum()


REFUSED: dict[str, tuple[Any, ...]] = {
    r"inner_loss to return a floating 0-dim tensor, got a tensor of shape \[2\]": (
        lambda z, lam: z - lam,
        product,
        one,
        one,
    ),
    "outer_loss to return a floating 0-dim tensor, got 1.0": (product, lambda *_: 1.0, one, one),
    "inner_loss to depend on inner": (lambda z, lam: lam.sum(), product, one, one),
    "outer_loss to depend on inner": (product, lambda z, lam: lam.sum(), one, one),
    "a loss that depends on outer": (without, without, one, one),
    "float32 or float64, got outer of int64": (product, product, one, one.long()),
    r"on a CPU or a GPU of CUDA, got inner on meta\. .* Move it: \.cpu\(\)": (
        product,
        product,
        one.to("meta"),
        one.to("meta"),
    ),
    "of one type, got float32 and float64": (product, product, one, one.float()),
    r"got inner\['a'\], a list": (product, product, {"a": [one]}, one),
    "needs outer to be a tensor, .* got None": (product, product, one, None),
    "needs inner parameters, got none": (product, product, {}, one),
    "a module with a parameter that requires": (product, product, nn.ReLU(), one),
    "gives two values in two calls": (lambda z, _: z.sum() * torch.rand(()), product, two, one),
    "losses that are finite where": (lambda z, lam: product(z, lam) / 0, product, one, one),
    r"method has no option 'cgg'\. Did you mean 'cg'": (product, product, one, one, "cgg"),
    "solver has no option 'sgd'": (product, product, one, one, "cg", "sgd"),
    "steps to be a whole number >= 0, got -1": (product, product, one, one, "cg", "gd", -1),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_serve_is_refused_in_one_message(message: str) -> None:
    with pytest.raises(UsageError, match=message):
        hypergradient(*REFUSED[message])


def test_wrong_settings_are_refused_with_what_was_meant() -> None:
    with pytest.raises(UsageError, match=r"Did you mean 'method.linear_solver.max_steps'\?"):
        hypergradient(product, product, one, one, settings={"method.linear_solver.max_step": 3})
    with pytest.raises(UsageError, match=r"linear_solver has no option 'cgs'\. Did you mean 'cg'"):
        hypergradient(product, product, one, one, settings={"method/linear_solver": "cgs"})
    with pytest.raises(UsageError, match="Settings are those of method, solver and start"):
        hypergradient(product, product, one, one, settings={"optimizer/x": 1})
    with pytest.raises(UsageError, match="max_steps needs a whole number"):
        hypergradient(product, product, one, one, settings={"method.linear_solver.max_steps": 1.5})


def test_a_step_that_is_too_long_is_named() -> None:
    with pytest.raises(UsageError, match=r"outer loss of nan after 2000 steps of lr=5. Lower lr"):
        hypergradient(product, product, 3 * one, one, steps=2000, lr=5.0)


def test_a_module_in_training_mode_is_refused_where_it_draws_or_counts() -> None:
    X = torch.randn(6, 3)
    for layer in (nn.Dropout(0.5), nn.BatchNorm1d(3)):
        model = nn.Sequential(layer, nn.Linear(3, 1)).double()

        def loss(m: Any, lam: Tensor) -> Tensor:
            return (m(X) - lam.sum()).square().mean()

        with pytest.raises(UsageError, match=r"Call .eval\(\) on a module"):
            hypergradient(loss, loss, model, one)
        assert hypergradient(loss, loss, model.eval(), one).grad.shape == (2,)
