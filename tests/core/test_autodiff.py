"""Both engines of autodiff, torch.autograd and torch.func, give the derivatives of calculus."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakSet

import pytest
import torch
from problems import Quadratic
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves, tree_map

from bilevel_cli.core import autodiff
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.momentum import Momentum
from bilevel_cli.starts.cold import Cold

Tree = Any


def value(inner: Tree, scale: Tensor) -> Tensor:
    """No polynomial, and without symmetry between its arguments; does not use inner["unused"]."""
    w = inner["w"]
    return scale.exp() * w[0].sin() * w[1] + (scale * w.square().sum()).tanh()


def with_aux(inner: Tree, scale: Tensor) -> tuple[Tensor, Tree]:
    return value(inner, scale), {"doubled": 2 * inner["w"], "scale": (scale,)}


def outputs(inner: Tree, scale: Tensor) -> Tree:
    return {"first": inner["w"] * scale, "second": inner["w"][0] * inner["w"][1]}


COTANGENT = {
    "first": torch.tensor([0.3, -1.0], dtype=torch.float64),
    "second": torch.tensor(0.7, dtype=torch.float64),
}


def pulled(inner: Tree, scale: Tensor, *wanted: tuple[int, ...] | None) -> Tree:
    output, pullback = autodiff.vjp(outputs, inner, scale)
    return output, *(pullback(COTANGENT, argnums) for argnums in wanted)


def descent(inner: Tree, scale: Tensor) -> Tensor:
    """The value after two gradient steps, to be differentiated through them."""
    for _ in range(2):
        slope = autodiff.grad(value)(inner, scale)
        inner = {name: z - 0.1 * slope[name] for name, z in inner.items()}
    return value(inner, scale)


def twice(inner: Tree, scale: Tensor) -> Tree:
    """A product with the second derivatives, from a pullback through a gradient."""
    slope, pullback = autodiff.vjp(autodiff.grad(value), inner, scale)
    return pullback(slope), pullback(slope, (1,))


CASES: dict[str, Callable[..., Tree]] = {
    "grad": lambda *at: autodiff.grad(value)(*at),
    "grad in the second argument": lambda *at: autodiff.grad(value, 1)(*at),
    "grad in both": lambda *at: autodiff.grad(value, (0, 1))(*at),
    "grad in both, the other way round": lambda *at: autodiff.grad(value, (1, 0))(*at),
    "grad and value": lambda *at: autodiff.grad_and_value(value)(*at),
    "with aux": lambda *at: autodiff.grad_and_value(with_aux, (1,), has_aux=True)(*at),
    "vjp": lambda *at: pulled(*at, None),
    "vjp of some primals": lambda *at: pulled(*at, (1,), (1, 0)),
    "vjp repeated": lambda *at: pulled(*at, None, (0,), None),
    "vjp with aux": lambda *at: autodiff.vjp(with_aux, *at, has_aux=True)[::2],
    "grad through descent": lambda *at: autodiff.grad(descent, (0, 1))(*at),
    "vjp of a grad": twice,
    "grad of a vjp": lambda *at: autodiff.grad(lambda *at: pulled(*at, (1,))[1][0], 0)(*at),
}


def points() -> list[tuple[Tree, Tensor]]:
    return [
        ({"w": torch.tensor([a, 0.5]), "unused": torch.ones(2)}, torch.tensor(b))
        for a, b in ((0.2, -0.4), (1.1, 0.3), (-0.7, 0.9))
    ]


def stack(trees: list[Tree]) -> Tree:
    return tree_map(lambda *leaves: torch.stack(leaves), *trees)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_torch_func_inside_vmap_gives_the_numbers_of_torch_autograd_in_a_loop(
    case: Callable[..., Tree],
) -> None:
    stacked = stack(points())
    single = stack([case(*point) for point in points()])
    torch.testing.assert_close(autodiff.vmap(case)(*stacked), single, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", ["grad in both", "grad through descent", "vjp of a grad"])
def test_forward_mode_gives_the_derivative_of_reverse_mode(case: str) -> None:
    inner, scale = points()[1]

    def first_entry(w: Tensor) -> Tensor:
        found = CASES[case]({**inner, "w": w}, scale)
        return found[0]["w"][0] if case != "vjp of a grad" else found[0][0]["w"][0]

    forward, reverse = autodiff.jacfwd(first_entry), autodiff.grad(first_entry)
    torch.testing.assert_close(forward(inner["w"]), reverse(inner["w"]), rtol=1e-12, atol=1e-14)


def engines() -> list[Callable[..., Tree]]:
    def mapped(fn: Callable[..., Tree]) -> Callable[..., Tree]:
        several = autodiff.vmap(lambda args, _: fn(*args), in_dims=(None, 0))
        return lambda *args: tree_map(lambda x: x[1], several(args, torch.zeros(2)))

    return [lambda fn: fn, mapped]


both_engines = pytest.mark.parametrize("engine", engines(), ids=["torch.autograd", "torch.func"])


@both_engines
def test_derivatives_of_a_cubic_are_those_of_the_textbook(engine: Callable[..., Tree]) -> None:
    z, lam = torch.tensor(0.5), torch.tensor(3.0)

    def cubic(z: Tensor, lam: Tensor) -> Tensor:
        return lam * z**3

    def slope(z: Tensor, lam: Tensor) -> Tensor:
        return autodiff.grad(cubic)(z, lam)

    def curvature(z: Tensor, lam: Tensor) -> Tensor:
        return autodiff.grad(slope)(z, lam)

    for fn, expected in (
        (slope, 3 * lam * z**2),
        (curvature, 6 * lam * z),
        (lambda *at: autodiff.grad(slope, 1)(*at), 3 * z**2),
        (lambda *at: autodiff.grad(curvature, 0)(*at), 6 * lam),
        (lambda z, lam: autodiff.jacfwd(lambda lam: curvature(z, lam))(lam), 6 * z),
        # d/dlam (slope^2 / 2) = slope * dslope/dlam
        (lambda *at: autodiff.grad(lambda *at: slope(*at) ** 2 / 2, 1)(*at), 9 * lam * z**4),
    ):
        torch.testing.assert_close(engine(fn)(z, lam), expected, rtol=1e-14, atol=0)


@both_engines
def test_a_derivative_is_in_its_own_argument_only(engine: Callable[..., Tree]) -> None:
    # d/dx (x * d/dy (x * y) at y = x) = d/dx x^2: the inner derivative holds x fixed, though y
    # is the same tensor. Defect elsewhere: perturbation confusion (Siskind & Pearlmutter, 2005).
    def outer(x: Tensor) -> Tensor:
        return x * autodiff.grad(lambda y: x * y)(x)

    found = engine(lambda x: autodiff.grad(outer)(x))(torch.tensor(3.0))
    assert found == 6.0


@both_engines
def test_what_a_function_does_not_use_has_derivative_zero(engine: Callable[..., Tree]) -> None:
    x, y = torch.ones(2), {"used": torch.ones(3), "unused": torch.ones(4)}

    def partly(x: Tensor, y: Tree) -> Tensor:
        return y["used"].sum()

    def constant(x: Tensor, y: Tree) -> Tensor:
        return torch.tensor(5.0)

    zeros = torch.zeros(2), {"used": torch.zeros(3), "unused": torch.zeros(4)}
    ones = {**zeros[1], "used": torch.ones(3)}
    for fn, expected in ((partly, (zeros[0], ones)), (constant, zeros)):
        gradient = engine(lambda *at, fn=fn: autodiff.grad(fn, (0, 1))(*at))(x, y)
        pulled = engine(lambda *at, fn=fn: autodiff.vjp(fn, *at)[1](torch.tensor(1.0)))(x, y)
        for found in (gradient, pulled):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
    # The gradient of `partly` is constant, so the function zero is what is differentiated here.
    second = engine(
        lambda *at: autodiff.grad(lambda x, y: autodiff.grad(partly, 1)(x, y)["used"].sum())(*at)
    )
    torch.testing.assert_close(second(x, y), zeros[0], rtol=0, atol=0)


@both_engines
def test_a_pullback_made_outside_of_a_derivative_can_be_differentiated(
    engine: Callable[..., Tree],
) -> None:
    x, direction = torch.tensor([0.2, -0.4]), torch.tensor([1.0, 3.0])

    def curve(x: Tensor) -> Tensor:
        return torch.stack([x.sin().sum(), x[0] * x[1] ** 2, x[0].exp()])

    def pushed(x: Tensor) -> Tensor:
        output, pullback = autodiff.vjp(curve, x)
        return autodiff.grad(lambda c: pullback(c)[0] @ direction)(torch.zeros_like(output))

    # d/dc (J' c)' u = J u.
    expected = autodiff.jacfwd(curve)(x) @ direction
    torch.testing.assert_close(engine(pushed)(x), expected, rtol=1e-14, atol=0)


@both_engines
def test_an_output_may_be_an_input(engine: Callable[..., Tree]) -> None:
    x = torch.tensor([2.0, 3.0])

    def itself(x: Tensor) -> tuple[Tree, Tensor]:
        return {"same": x, "again": x, "part": x[0]}, x

    def pull(x: Tensor) -> Tree:
        output, pullback, aux = autodiff.vjp(itself, x, has_aux=True)
        part = torch.tensor(10.0)
        return output, aux, pullback({"same": x, "again": 4 * x, "part": part})

    output, aux, (found,) = engine(pull)(x)
    assert torch.equal(found, torch.tensor([10.0 + 10.0, 15.0]))  # x + 4 x, and 10 for the part
    assert torch.equal(output["same"], x)
    assert torch.equal(aux, x)
    slope, (same, (alias,)) = engine(
        lambda x: autodiff.grad_and_value(lambda x: (x, (x,)), has_aux=True)(x)
    )(x[0])
    assert (slope, same, alias) == (1.0, 2.0, 2.0)
    assert not any(tensor.requires_grad for tensor in (x, *output.values(), aux, same, alias))


@both_engines
def test_arguments_that_are_not_differentiated_may_be_integers(engine: Callable[..., Tree]) -> None:
    w, index = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2, 0, 2])

    def chosen(w: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return w[index].square().sum() / 2, index + 1

    found, (total, aux) = engine(lambda *at: autodiff.grad_and_value(chosen, has_aux=True)(*at))(
        w, index
    )
    assert torch.equal(found, torch.tensor([1.0, 0.0, 6.0]))
    assert total == 9.5
    assert torch.equal(aux, torch.tensor([3, 1, 3]))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_without_an_enclosing_derivative_nothing_returned_is_attached(
    case: Callable[..., Tree],
) -> None:
    for tensor in tree_leaves(case(*points()[0])):
        assert not tensor.requires_grad
        assert tensor.grad_fn is None


class Saved:
    """Stands for a tensor that a graph has saved, and is gone when the graph is."""

    def __init__(self, tensor: Tensor, alive: "WeakSet[Saved]") -> None:
        self.tensor = tensor
        alive.add(self)


def most_saved(run: Callable[[], Tree]) -> tuple[int, int]:
    """The most tensors saved for backward passes at once during `run`, and those left after."""
    alive: WeakSet[Saved] = WeakSet()
    most = 0

    def pack(tensor: Tensor) -> Saved:
        nonlocal most
        saved = Saved(tensor, alive)
        most = max(most, len(alive))
        return saved

    with saved_tensors_hooks(pack, lambda saved: saved.tensor):
        result = run()
        left = len(alive)
        del result
    return most, left


def test_an_inner_loop_that_nobody_differentiates_stores_no_graph() -> None:
    problem = Quadratic()
    outer = problem.outer_init()
    loop = InnerLoop(problem, Momentum(0.1, 0.9), Cold())

    def run(steps: int) -> Callable[[], Tree]:
        data = problem.data(steps)
        return lambda: loop.run(loop.fresh(outer, data), outer, data)

    def estimate(steps: int) -> Callable[[], Tree]:
        data = problem.data(steps)
        carry: Carry = {"inner": loop.fresh(outer, data)}
        return lambda: Reverse(None, None).estimate(loop, outer, data, carry)

    few, many = most_saved(run(2)), most_saved(run(20))
    assert few == many
    assert few[0] > 0  # of the one gradient at hand
    assert few[1] == 0
    # The instrument would have seen a graph: backpropagation keeps one of every step.
    assert most_saved(estimate(20))[0] >= 20
    assert most_saved(estimate(20))[1] == 0


def test_forward_mode_keeps_the_precision_of_its_argument() -> None:
    # torch 2.13 gives float64 here, of a 0-dim tangent times a number of Python.
    def halves(x: Tensor) -> tuple[Tensor, Tensor]:
        return 0.5 * x.sum(), x.sum()

    for dtype in (torch.float32, torch.float64):
        found, aux = autodiff.jacfwd(halves, has_aux=True)(torch.ones(2, dtype=dtype))
        torch.testing.assert_close(found, torch.full((2,), 0.5, dtype=dtype), rtol=0, atol=0)
        torch.testing.assert_close(aux, torch.tensor(2.0, dtype=dtype), rtol=0, atol=0)


@pytest.mark.parametrize("at_once", [None, 1])
def test_a_matrix_product_follows_a_scalar_times_a_number_in_forward_mode(
    at_once: int | None,
) -> None:
    # As in an inner step on a loss that multiplies an outer parameter by a number, before a layer.
    def scaled(x: Tensor) -> Tensor:
        return matrix @ ((0.5 * x[0] - 3.0) * 0.1 - x[1]).expand(3)

    def stepped(x: Tensor) -> Tensor:
        one = torch.ones((), dtype=x.dtype)
        slope = autodiff.grad(lambda z: 0.5 * x[0] * (z - 3.0) ** 2 + x[1] * z)(one)
        return matrix @ (one - 0.1 * slope).expand(3)

    matrix, x = torch.arange(9.0).view(3, 3).float(), torch.tensor([0.3, -0.7]).float()
    for fn, slopes in ((scaled, [0.05, -1.0]), (stepped, [0.2, -0.1])):
        found = autodiff.jacfwd(fn, at_once=at_once)(x)
        expected = matrix.sum(1, keepdim=True) * torch.tensor([slopes]).float()
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_mapping_ends_where_it_raises() -> None:
    def fail(x: Tensor) -> Tensor:
        assert autodiff.mapped()
        raise KeyError("inside")

    for transform in (autodiff.vmap, autodiff.jacfwd):
        with pytest.raises(KeyError, match="inside"):
            transform(fail)(torch.zeros(2))
        assert not autodiff.mapped()


def test_a_mapping_inside_a_mapping_leaves_the_outer_one_active() -> None:
    def row(x: Tensor) -> Tensor:
        doubled = autodiff.vmap(lambda x: 2 * x)(x)
        assert autodiff.mapped()
        return doubled

    x = torch.randn(3, 2)
    assert torch.equal(autodiff.vmap(row)(x), 2 * x)
    assert not autodiff.mapped()


def test_a_mapping_is_not_seen_by_other_threads() -> None:
    def here(x: Tensor) -> Tensor:
        seen: list[bool] = []
        other = threading.Thread(target=lambda: seen.append(autodiff.mapped()))
        other.start()
        other.join()
        assert seen == [False]
        return x**2

    assert autodiff.jacfwd(here)(torch.tensor(3.0)) == 6.0


def test_threads_that_differentiate_in_both_modes_at_once_do_not_disturb_each_other() -> None:
    # The levels of forward mode belong to the process. Without the lock every run of this raised
    # or returned wrong numbers; the pause makes sure that they meet.
    def quartic(x: Tensor) -> Tensor:
        time.sleep(1e-4)
        return (x**4).sum()

    def slope(x: Tensor) -> Tensor:
        return autodiff.grad(quartic)(x)

    def work(number: int) -> bool:
        with torch.no_grad():
            x = torch.tensor([0.1 * number, 1.0])
            forward = number % 3 == 0
            found = autodiff.jacfwd(slope)(x) if forward else slope(x)
            expected = torch.diag(12 * x**2) if forward else 4 * x**3
            return torch.allclose(found, expected, rtol=1e-12, atol=1e-14)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(120)))


def test_a_derivative_built_outside_of_a_mapping_can_be_mapped() -> None:
    points = torch.randn(4, 3)
    slopes = autodiff.vmap(autodiff.grad(lambda x: (x**3).sum()))(points)
    torch.testing.assert_close(slopes, 3 * points**2)


def test_what_graphs_share_counts_once_and_what_is_freed_counts_no_more() -> None:
    x, y = torch.randn(100), torch.randn(100)
    meter = autodiff.HeldBytes()

    def product(x: Tensor, y: Tensor) -> Tensor:
        return x * y  # saves both

    def held(*factors: Tensor) -> Any:
        with meter:
            return autodiff.vjp(product, *factors)

    vector = 100 * 8
    assert meter.total() == 0
    first = held(x, y)
    assert meter.total() == 2 * vector
    second = held(x, y.clone())
    assert meter.total() == 3 * vector
    third = held(x[:50], x[50:])  # one storage, known already
    assert meter.total() == 3 * vector
    del first, third
    assert meter.total() == 2 * vector
    del second
    assert meter.total() == 0


def test_a_meter_knows_its_own_graphs_alone() -> None:
    x, meter = torch.randn(100), autodiff.HeldBytes()
    before = autodiff.vjp(torch.sin, x.clone())
    with meter:
        first = autodiff.vjp(torch.sin, x)
    after = autodiff.vjp(torch.sin, x.clone())
    with meter:
        again = autodiff.vjp(torch.exp, x.clone())  # saves its result
    assert meter.total() == 2 * x.nbytes
    for output, pullback in (before, first, after, again):
        assert pullback(torch.ones_like(output))[0].isfinite().all()
