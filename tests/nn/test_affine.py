"""Affine layers through oneDNN: torch's numbers to rounding, at every order and in any layout."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from configs import composed
from runners import runner_in
from torch import Tensor, nn
from torch.nn import functional as F

from bilevel_cli.core import autodiff
from bilevel_cli.nn import affine as module
from bilevel_cli.nn import choosing
from bilevel_cli.nn.affine import affine
from bilevel_cli.nn.functional import Functional, functional

UNIT = 2.0**-24  # the largest relative error of one rounding to float32
SHAPES = [(600, 784, 10), (300, 2000, 5), (600, 784, 3), (20, 784, 600), (2, 600, 784)]
Layer = Callable[..., Tensor]
Orders = list[tuple[Tensor, ...]]


class Counted:
    """A kernel that counts its calls, and refuses second factors with which oneDNN is slow.

    It takes those whose rows and columns are both apart a thousand times as long as others.
    """

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.calls = kernel, 0

    def __call__(self, a: Tensor, b: Tensor, *others: Any) -> Tensor:
        self.calls += 1
        assert b.is_contiguous() or b.t().is_contiguous()
        return self.kernel(a, b, *others)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """oneDNN's, counted, of a process that uses it until the end of the test, by shapes alone."""
    found = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if found is None or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        pytest.skip("this build of torch has no kernel of oneDNN for affine layers")
    counted = Counted(found)
    monkeypatch.setattr(module, "_kernel", None)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", counted)
    module.use("fixed")
    return counted


def drawn(rows: int, inputs: int, outputs: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x, W and b, with outputs of size one, in float32."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inputs, generator=random)
    weight = torch.randn(outputs, inputs, generator=random) / inputs**0.5
    return x.float(), weight.float(), torch.randn(outputs, generator=random).float()


def whole_numbers(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """-1, 0 and 1, a quarter of them not 0."""
    dice = torch.randint(8, shape, generator=generator)
    return (dice == 1).long() - (dice == 0).long()


def derivatives(
    layer: Layer,
    *variables: Tensor,
    of: Callable[[Tensor], Tensor] = torch.cos,
    along: Callable[..., Tensor] = torch.randn,
) -> Orders:
    """A layer's value, and the first three derivatives of a function of it, in all variables.

    The second and the third are taken along directions, the same ones for all dtypes.
    """
    random = torch.Generator().manual_seed(7)
    every = tuple(range(len(variables)))

    def along_some_direction(fn: Layer) -> Layer:
        directions = [along(z.shape, generator=random).to(z.dtype) for z in variables]

        def slope(*at: Tensor) -> Tensor:
            parts = zip(directions, autodiff.grad(fn, every)(*at), strict=True)
            return torch.stack([(v * part).sum() for v, part in parts]).sum()

        return slope

    def first(*at: Tensor) -> Tensor:
        return of(layer(*at)).sum()

    second = along_some_direction(first)
    third = along_some_direction(second)
    slopes = [autodiff.grad(fn, every)(*variables) for fn in (first, second, third)]
    return [(layer(*variables),), *slopes]


def same(once: Orders, again: Orders) -> bool:
    """Whether they agree bit for bit."""
    pairs = zip(sum(once, ()), sum(again, ()), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def assert_product(
    found: Tensor, a: Tensor, b: Tensor, c: Tensor | None = None, random: bool = False
) -> None:
    """That `found` is a b^T + c, but for rounding.

    In whatever order n terms are added, the sum is off by gamma = n u / (1 - n u) times the sum of
    their absolute values at most (Higham, 2002, section 3.1). Where the terms are `random`, their
    errors are of either sign, and 8 sqrt(n) u in place of n u holds for all of 10^6 sums but with
    probability 10^-6 (Higham and Mary, 2019, theorem 2.4).
    """
    a, b = a.double(), b.double()
    c = torch.zeros(len(b)) if c is None else c.double()
    terms = a.shape[1] + 1
    gamma = 8 * terms**0.5 * UNIT if random else terms * UNIT / (1 - terms * UNIT)
    assert found.dtype == torch.float32
    off = (found.double() - a @ b.t() - c).abs()
    assert (off <= gamma * (a.abs() @ b.abs().t() + c.abs())).all()


# --- values and derivatives -----------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_three_orders_of_derivatives_of_whole_numbers_are_exact(
    shape: tuple[int, int, int], kernel: Counted
) -> None:
    """float32 adds whole numbers below 2^24 without rounding, in any order and by any kernel."""
    (rows, inputs, outputs), random = shape, torch.Generator().manual_seed(0)
    shapes = [(rows, inputs), (outputs, inputs), (outputs,)]
    variables = [whole_numbers(one, random).float() for one in shapes]
    found = derivatives(affine, *variables, of=torch.square, along=whole_numbers)
    assert kernel.calls > 0
    exact = derivatives(
        F.linear, *(z.double() for z in variables), of=torch.square, along=whole_numbers
    )
    largest = derivatives(
        F.linear,
        *(z.double().abs() for z in variables),
        of=torch.square,
        along=lambda *given, **more: whole_numbers(*given, **more).abs(),
    )
    for order, (ours, right, bound) in enumerate(zip(found, exact, largest, strict=True)):
        assert same([ours], [tuple(part.float() for part in right)]), order
        # Of absolute values, whose sums bound all that is added on the way.
        assert max(float(part.max()) for part in bound) < 2**24
        assert all(part.any() for part in right), order


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_of_random_factors_are_those_of_float32(
    shape: tuple[int, int, int], kernel: Counted
) -> None:
    """The 11 bits of TF32 and the 8 of bfloat16 would be 2^13 and 2^16 times as far off."""
    x, weight, bias = drawn(*shape)
    grad = torch.randn(shape[0], shape[2]).float()
    value, pullback = autodiff.vjp(affine, x, weight, bias)
    in_x, in_weight, in_bias = pullback(grad)
    assert kernel.calls >= 2  # one of three is small, if two of the sizes are
    assert_product(value, x, weight, bias, random=True)
    assert_product(in_x, grad, weight.t(), random=True)
    assert_product(in_weight, grad.t(), x.t(), random=True)
    assert_product(in_bias[:, None], grad.t(), torch.ones(1, len(x)), random=True)


def test_a_call_repeats_bit_for_bit(kernel: Counted) -> None:
    for shape in SHAPES:
        once, again = (derivatives(affine, *drawn(*shape)) for _ in range(2))
        assert kernel.calls > 0
        assert same(once, again)


@pytest.mark.parametrize("leaves", [True, False])
def test_only_derivatives_that_are_asked_for_cost_a_product(leaves: bool, kernel: Counted) -> None:
    variables, grad = drawn(600, 784, 10), torch.randn(600, 10).float()

    def layer(*z: Tensor) -> Tensor:
        return affine(*(z if leaves else [1 * part for part in z]))

    _, pullback = autodiff.vjp(layer, *variables)
    whole = pullback(grad)
    for wanted, products in (((0,), 1), ((1,), 1), ((2,), 0), ((0, 1, 2), 2)):
        kernel.calls = 0
        found = pullback(grad, wanted)
        assert kernel.calls == products
        assert same([found], [tuple(whole[number] for number in wanted)])


def test_a_gradient_in_the_weights_alone_costs_one_product_where_the_inputs_are_learned(
    kernel: Counted,
) -> None:
    random = torch.Generator().manual_seed(0)
    # Whole numbers, of which float32 rounds no sum.
    x, weight, bias = (
        whole_numbers(shape, random).float() for shape in ((600, 784), (10, 784), (10,))
    )

    def inner_slope(x: Tensor) -> Tensor:
        return autodiff.grad(lambda weight: affine(x, weight, bias).sum())(weight).square().sum()

    found = autodiff.grad(inner_slope)(x)
    # Forward, slope, and the slope's own derivative in x; the sum has no derivative in G.
    assert kernel.calls == 3
    expected = autodiff.grad(lambda x: 10 * x.sum(0).square().sum())(x)
    assert torch.equal(found, expected)


# --- layouts --------------------------------------------------------------------------------------

FACTORS = ("x", "weight", "grad", "cotangents")
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda x: x,
    "transposed": lambda x: x.t().contiguous().t(),
    "part of wider rows": lambda x: torch.cat([x, x + 1], 1)[:, : x.shape[1]],
    "every other column": lambda x: torch.stack([x, x + 1], 2)[..., 0],
    "one row": lambda x: x[:1].expand_as(x),
    "one column": lambda x: x[:, :1].expand_as(x),
    "one number": lambda x: x[:1, :1].expand_as(x),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[3]], ids=str)
def test_factors_of_any_layout_give_the_products_of_theirs(
    shape: tuple[int, int, int], factor: str, layout: str, kernel: Counted
) -> None:
    laid = {name: LAYOUTS[layout if name == factor else "dense"] for name in FACTORS}
    (x, weight, bias), (u, v, _) = drawn(*shape), drawn(*shape, seed=1)
    x, weight = laid["x"](x), laid["weight"](weight)
    u, v = laid["cotangents"](u), laid["cotangents"](v)
    grad = laid["grad"](torch.randn(shape[0], shape[2]).float())

    def backward(x: Tensor, weight: Tensor, grad: Tensor) -> Any:
        return autodiff.vjp(affine, x, weight, bias)[1](grad)

    assert_product(affine(x, weight, bias), x, weight, bias)
    (in_x, in_weight, in_bias), pullback = autodiff.vjp(backward, x, weight, grad)
    assert_product(in_x, grad, weight.t())
    assert_product(in_weight, grad.t(), x.t())
    assert_product(in_bias[:, None], grad.t(), torch.ones(1, len(x)))
    # Those of <u, G W> + <v, G^T x>.
    in_x, in_weight, in_grad = pullback((u, v, torch.zeros_like(bias)))
    assert_product(in_x, grad, v.t())
    assert_product(in_weight, grad.t(), u.t())
    assert_product(in_grad, torch.cat([u, x], 1), torch.cat([weight, v], 1))
    assert kernel.calls > 0


@pytest.mark.parametrize("layout", ["dense", "transposed"])
@pytest.mark.parametrize("bias", ["none", "one number", "every other entry", "part"])
def test_a_bias_may_be_absent_or_have_its_entries_apart(
    bias: str, layout: str, kernel: Counted
) -> None:
    x, weight, some = drawn(600, 784, 10)
    x = LAYOUTS[layout](x)
    biases: dict[str, Tensor | None] = {
        "none": None,
        "one number": some[:1].expand(10),
        "every other entry": torch.stack([some, some + 1], 1)[:, 0],
        "part": torch.cat([some + 1, some])[10:],
    }
    given = biases[bias]
    assert_product(affine(x, weight, given), x, weight, given)
    assert kernel.calls == 1
    slopes = autodiff.grad(lambda x, weight: affine(x, weight, given).sum(), (0, 1))(x, weight)
    ones = torch.ones(600, 10)
    assert_product(slopes[0], ones, weight.t())
    assert_product(slopes[1], ones.t(), x.t())


# --- where torch computes -------------------------------------------------------------------------


def test_torch_computes_what_is_small_or_not_float32_or_not_two_dimensional(
    kernel: Counted,
) -> None:
    def parts(shape: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> list[Tensor]:
        return [z.to(dtype) for z in drawn(*shape)]

    x, weight, bias = parts((600, 784, 10))
    for case in (
        parts((600, 784, 10), torch.float64),
        parts((600, 784, 10), torch.bfloat16),
        parts((511, 512, 10)),  # one row less than 2^18 entries
        parts((100, 784, 10)),
        parts((1, 784, 600)),
        parts((600, 784, 1)),
        [x[0], weight, bias],
        [x.view(2, 300, 784), weight, bias],
    ):
        assert same(derivatives(affine, *case), derivatives(F.linear, *case))
    assert kernel.calls == 0
    affine(*parts((512, 512, 10)))
    assert kernel.calls == 1


def test_torch_computes_all_where_it_is_told_to(kernel: Counted) -> None:
    variables = drawn(600, 784, 10)
    module.use("torch")
    assert same(derivatives(affine, *variables), derivatives(F.linear, *variables))
    assert kernel.calls == 0


def test_torch_computes_all_where_it_has_no_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = drawn(600, 784, 10)
    monkeypatch.setattr(module, "_kernel", None)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    module.use("auto")
    assert same(derivatives(affine, *variables), derivatives(F.linear, *variables))
    assert not choosing.current().taken


def test_mapped_layers_and_their_gradients_are_those_of_each_by_itself(kernel: Counted) -> None:
    x, weight, bias = drawn(600, 784, 10)
    weights = torch.stack([weight, 2 * weight.flip(0)])

    def both(weight: Tensor) -> tuple[Tensor, Tensor]:
        def loss(weight: Tensor) -> Tensor:
            return affine(x, weight, bias).sum()

        return affine(x, weight, bias), autodiff.grad(loss)(weight)

    for value, slope, own in zip(*autodiff.vmap(both)(weights), weights, strict=True):
        assert_product(value, x, own, bias)
        assert_product(slope, torch.ones(10, 600), x.t())
    assert kernel.calls == 0


def test_the_forward_mode_of_a_layer_follows_both_of_its_factors(kernel: Counted) -> None:
    x, weight, bias = drawn(600, 784, 10)
    slope = autodiff.jacfwd(lambda s: affine(s * x, s * weight, bias))(torch.ones(()).float())
    assert_product(slope / 2, x, weight)  # of s^2 x W^T + b at s = 1
    assert kernel.calls == 0


def test_a_compiled_layer_is_torchs(kernel: Counted) -> None:
    model = functional(lambda: nn.Linear(784, 10).float())
    x, weight, bias = drawn(600, 784, 10)
    applied = model.apply
    applied({"weight": weight, "bias": bias}, x)  # makes the module, as `build` does
    kernel.calls = 0
    compiled = torch.compile(applied, backend="eager", fullgraph=True, dynamic=False)
    assert torch.equal(compiled({"weight": weight, "bias": bias}, x), F.linear(x, weight, bias))
    assert kernel.calls == 0


# --- threads --------------------------------------------------------------------------------------


def test_two_threads_at_once_get_the_answers_of_one(kernel: Counted) -> None:
    model = functional(lambda: nn.Linear(784, 10).float())
    meet = Barrier(2, timeout=600)

    def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return model.apply({"weight": weight, "bias": bias}, x)

    # Of whole numbers, whose sums do not depend on the cores that a thread gets.
    def answers(seed: int) -> Orders:
        random = torch.Generator().manual_seed(seed)
        shapes = ((600, 784), (10, 784), (10,))
        variables = [whole_numbers(shape, random).float() for shape in shapes]
        return derivatives(layer, *variables, of=torch.square, along=whole_numbers)

    @torch.no_grad()  # each thread has a mode of its own
    def rounds(seed: int) -> list[Any]:
        found = []
        for _ in range(5):
            meet.wait()
            found.append(answers(seed))
        return found

    alone = [answers(seed) for seed in (0, 1)]
    assert not same(*alone)
    with ThreadPoolExecutor(2) as pool:
        for found, expected in zip(pool.map(rounds, (0, 1)), alone, strict=True):
            assert all(same(one, expected) for one in found)
    assert kernel.calls > 0


def test_a_thread_takes_the_kernel_while_another_one_maps(kernel: Counted) -> None:
    x, weight, bias = drawn(600, 784, 10)
    elsewhere: list[Tensor] = []

    with ThreadPoolExecutor(1) as pool:

        def waiting(mapped: Tensor) -> Tensor:
            elsewhere.append(pool.submit(affine, x, weight, bias).result())
            return affine(x, mapped, bias)

        (found,) = autodiff.vmap(waiting)(weight[None])
    assert kernel.calls == 1
    assert_product(found, x, weight, bias)
    assert_product(elsewhere[0], x, weight, bias)


# --- modules --------------------------------------------------------------------------------------


class Scaled(nn.Linear):
    """A layer of a user who computes something else."""

    def forward(self, input: Tensor) -> Tensor:
        return 3 * F.linear(input, self.weight)


class Named(nn.Linear):
    """A subclass that computes what its parent computes."""


class Net(nn.Module):
    """A user's own module around some layer of 784 inputs and 10 outputs."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"layer": layer})

    def forward(self, x: Tensor) -> Tensor:
        return self.body["layer"](x.flatten(1))


def applied(model: Functional, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    values = dict(zip(("weight", "bias"), (weight, bias), strict=True))
    names = [name for name, _ in model.named_parameters()]
    # A mode of torch would find the counting kernel by its name, and count it once more.
    model = replace(model, corrects=False)
    return model.apply({name: values[name.rpartition(".")[2]] for name in names}, x)


@pytest.mark.parametrize("kind", [nn.Linear, Named])
def test_the_affine_layers_of_a_users_module_are_routed(
    kind: type[nn.Linear], kernel: Counted
) -> None:
    x, weight, bias = drawn(600, 784, 10)
    for model in (
        functional(lambda: Net(kind(784, 10))),
        functional(lambda: nn.Sequential(kind(784, 10))),
    ):
        kernel.calls = 0
        assert_product(applied(model, x, weight, bias), x, weight, bias)
        assert kernel.calls == 1
    without = functional(lambda: Net(kind(784, 10, bias=False)))
    assert_product(applied(without, x, weight, bias), x, weight)


def test_a_layer_with_a_forward_of_its_own_keeps_it(kernel: Counted) -> None:
    x, weight, bias = drawn(600, 784, 10)
    replaced = nn.Linear(784, 10)
    vars(replaced)["forward"] = lambda x: 3 * F.linear(x, weight)
    for layer in (Scaled(784, 10), replaced):
        model = functional(partial(Net, layer))
        assert torch.equal(applied(model, x, weight, bias), 3 * F.linear(x, weight))
    assert kernel.calls == 0


def test_a_scripted_part_is_left_alone(kernel: Counted) -> None:
    x, weight, bias = drawn(600, 784, 10)
    net = nn.Sequential(nn.Linear(784, 10), torch.jit.script(nn.Tanh()))
    found = applied(functional(lambda: net), x, weight, bias)
    assert torch.equal(found, affine(x, weight, bias).tanh())
    assert kernel.calls == 2


def test_a_copy_of_a_routed_module_has_weights_of_its_own(kernel: Counted) -> None:
    x, _, _ = drawn(600, 784, 10)
    routed = module.routed(Net(nn.Linear(784, 10).float()))
    before, copied = routed(x), copy.deepcopy(routed)
    for parameter in copied.parameters():
        parameter.fill_(2)
    assert_product(copied(x), x, torch.full((10, 784), 2), torch.full((10,), 2))
    assert torch.equal(routed(x), before)
    assert kernel.calls == 3


# --- hypergradients -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand noisy images of ten classes, of the size of MNIST's."""
    random, y = np.random.default_rng(0), np.arange(1000) % 10
    x = 60 * random.integers(0, 2, (10, 784))[y] + random.integers(0, 120, (1000, 784))
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, x=x.astype(np.uint8), y=y)
    return path


def hypergradient(images: Path, kernels: str, *overrides: str) -> Tensor:
    """That of the first outer step of hyper-cleaning, with 600 training examples."""
    data = ["data=npz", f"data.path={images}", "data.train=600", "data.validation=350"]
    step = ["task=reweight", "inner_steps=10", "solver.lr=0.05", *overrides]
    config = composed("device=cpu", f"device.linear={kernels}", *data, *step)
    run = runner_in(config, images.parent)
    grad = run.estimate(*next(run._advance())).grad
    return torch.cat([value.flatten() for value in grad.values()])


# Of a smooth activation: the slope of a ReLU may change with the sign of a rounding error.
MLP = ["model=mlp", "model.width=32", "model.activation=tanh"]
# Up to thirty products in ten contracting steps, one behind the other, and each off by sqrt(n) u of
# its factors, in both of the runs that are compared.
ROUNDING = 2 * 30 * 784**0.5 * UNIT


@pytest.mark.parametrize(
    "choice",
    [
        ["method=reverse"],
        ["method=reverse", *MLP],
        ["method=reverse", "solver=momentum"],
        ["method=cg", "task.l2=0.05"],  # without it H is singular, and rounding is amplified
        ["method=iaptt"],
        ["method=iaptt", *MLP],
    ],
    ids=" ".join,
)
def test_hypergradients_are_those_of_torchs_kernels_and_repeat_bit_for_bit(
    choice: list[str], images: Path, kernel: Counted
) -> None:
    usual = hypergradient(images, "torch", *choice)
    assert kernel.calls == 0
    found = hypergradient(images, "fixed", *choice)
    assert kernel.calls > 0
    assert (found - usual).norm() <= ROUNDING * usual.norm()
    assert torch.equal(found, hypergradient(images, "fixed", *choice))


def test_forward_mode_leaves_the_kernel_alone_and_agrees_with_reverse_mode_through_it(
    images: Path, kernel: Counted
) -> None:
    forward = hypergradient(images, "fixed", "method=forward", "inner_steps=2")
    measured = kernel.calls  # in reverse mode, to know how much the budget holds at once
    hypergradient(images, "fixed", "method=forward", "inner_steps=4")
    assert kernel.calls == 2 * measured  # once for each run, and at no step
    reverse = hypergradient(images, "fixed", "method=reverse", "inner_steps=2")
    assert kernel.calls > 2 * measured
    assert (forward - reverse).norm() <= ROUNDING * reverse.norm()
