"""Models in bfloat16, all else in float32: what is rounded, what is kept, and what it costs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from runners import built
from torch import Tensor, nn
from torch.nn import functional

import bilevel_cli
from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.threads import on_cores
from bilevel_cli.core.trees import Params
from bilevel_cli.errors import UsageError
from bilevel_cli.machine.precision import precision, set_precision
from bilevel_cli.metrics.hypergradient_gap import relative_error
from bilevel_cli.metrics.precision_gap import COLUMN
from bilevel_cli.models import ConvNet, Mlp
from bilevel_cli.nn import autocasting
from bilevel_cli.nn.building import build
from bilevel_cli.nn.functional import Functional
from bilevel_cli.nn.functional import functional as functional_of
from bilevel_cli.runs import checkpoint
from bilevel_cli.vocabulary import CHECKPOINT

MIXED = "device.precision=bf16-mixed"
SMALL = ["device=cpu", "task=reweight", "data=breast_cancer", "data.train=40", "model=mlp"]
SMALL += ["model.width=8", "inner_steps=3", "solver.lr=0.1", "eval_every=100", "save_every=100"]
ROUNDING = 2**-9  # of a number in bfloat16, at most


@pytest.fixture(autouse=True)
def in_float32() -> Iterator[None]:
    """As runs compute; and torch's settings as they were, in the end."""
    torch.set_default_dtype(torch.float32)
    with precision(torch.get_float32_matmul_precision(), autocasting.used()):
        yield


def mlp() -> Functional:
    return functional_of(lambda: Mlp(30, 2, "relu", (20,), 5))


def start(model: Functional) -> Params:
    return {name: value.detach() for name, value in model.named_parameters()}


def slope(model: Functional, x: Tensor) -> Callable[[Params], Params]:
    return autodiff.grad(lambda params: model.apply(params, x).square().sum())


# ---- what is rounded


def test_a_model_computes_in_bfloat16_and_its_output_and_gradients_are_float32() -> None:
    seen: list[torch.dtype] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(20, 30), nn.Linear(30, 5)

        def forward(self, x: Tensor) -> Tensor:
            hidden: Tensor = self.layer(x)
            seen.append(hidden.dtype)
            output: Tensor = self.head(hidden.relu())
            return output

    model, x = functional_of(Watched), torch.rand(7, 20)
    exact = model.apply(start(model), x)
    set_precision("highest", autocasting.MIXED)
    rounded = model.apply(start(model), x)
    grads = slope(model, x)(start(model))
    assert seen == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert {rounded.dtype, *(value.dtype for value in grads.values())} == {torch.float32}
    assert 0 < (rounded - exact).norm() / exact.norm() < 5 * ROUNDING


def test_an_affine_layer_of_bfloat16_is_that_of_rounded_factors() -> None:
    # Products of two such numbers have no rounding in float32: what is left is that of the sum.
    model, x = functional_of(lambda: nn.Linear(600, 12)), torch.rand(1000, 600)
    params = start(model)
    set_precision("highest", autocasting.MIXED)
    found = model.apply(params, x)  # of a size that oneDNN's kernels of nn/affine would take
    w, b, x = (value.bfloat16().double() for value in (params["weight"], params["bias"], x))
    torch.testing.assert_close(found.double(), x @ w.t() + b, rtol=2 * ROUNDING, atol=1e-4)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (lambda: nn.BatchNorm2d(4, track_running_stats=False), (6, 4, 5, 5)),
        (lambda: nn.InstanceNorm2d(4, affine=True), (6, 4, 5, 5)),
        (lambda: nn.GroupNorm(2, 4), (6, 4, 5, 5)),
        (lambda: nn.LayerNorm(8), (6, 8)),
        (lambda: nn.RMSNorm(8), (6, 8)),
    ],
)
def test_statistics_of_a_normalisation_are_float32_also_where_it_is_mapped(
    norm: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    model, params = functional_of(norm), start(functional_of(norm))
    x = (100 + torch.rand(2, *shape)).bfloat16()  # a mean that bfloat16 has to 0.25
    expected = torch.stack([model.apply(params, one.float()) for one in x])
    set_precision("highest", autocasting.MIXED)
    each = torch.stack([model.apply(params, one) for one in x])
    assert torch.equal(each, expected.bfloat16().float())

    def loss(params: Params, x: Tensor) -> Tensor:
        return model.apply(params, x).pow(3).sum()

    alone = [autodiff.grad(loss)(params, one) for one in x]
    mapped = autodiff.vmap(autodiff.grad(loss), in_dims=(None, 0))(params, x)
    for name, value in mapped.items():
        stacked = torch.stack([one[name] for one in alone])
        torch.testing.assert_close(value, stacked, rtol=5 * ROUNDING, atol=0.5)


CALLS: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "linear": (functional.linear, [(5, 8), (3, 8), (3,)]),
    "conv1d": (functional.conv1d, [(5, 4, 8), (3, 4, 3), (3,)]),
    "conv2d": (functional.conv2d, [(5, 4, 8, 8), (3, 4, 3, 3), (3,)]),
    "conv_transpose2d": (functional.conv_transpose2d, [(5, 4, 8, 8), (4, 3, 3, 3), (3,)]),
    "attention": (functional.scaled_dot_product_attention, [(2, 5, 8)] * 3),
    "prelu": (functional.prelu, [(5, 3), (3,)]),
    "addmm": (torch.addmm, [(3,), (5, 8), (8, 3)]),
    "matmul": (torch.matmul, [(5, 8), (8, 3)]),
    "einsum": (lambda x, w: torch.einsum("bi,oi->bo", x, w), [(5, 8), (3, 8)]),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_what_a_mapped_model_calls_computes_in_bfloat16_as_it_does_unmapped(
    name: str, given: torch.dtype
) -> None:
    fn, shapes = CALLS[name]
    seen: list[torch.dtype] = []

    class Call(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rest = nn.ParameterList([nn.Parameter(torch.rand(one)) for one in shapes[1:]])

        def forward(self, x: Tensor) -> Tensor:
            output = fn(x.to(given), *self.rest)
            seen.append(output.dtype)
            return output

    model, x = functional_of(Call), torch.rand(2, *shapes[0])
    params = {n: torch.stack([v, v.flip(0)]) for n, v in start(model).items()}
    set_precision("highest", autocasting.MIXED)
    alone = [
        model.apply({n: v[number] for n, v in params.items()}, x[number]) for number in range(2)
    ]
    mapped = autodiff.vmap(model.apply)(params, x)
    assert seen == [torch.bfloat16] * 3
    torch.testing.assert_close(mapped, torch.stack(alone), rtol=4 * ROUNDING, atol=0.01)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found, _ = self.attention(x, x, x, need_weights=False)
        output: Tensor = found
        return output


class Normalising(nn.Module):
    """By a function of torch; autocast gives it bfloat16."""

    def __init__(self, fn: Callable[..., Tensor]) -> None:
        super().__init__()
        self.fn, self.weight = fn, nn.Parameter(torch.rand(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x.bfloat16(), self.weight)


def normalising(fn: Callable[..., Tensor]) -> Callable[[], nn.Module]:
    return lambda: Normalising(fn)


MAPPED: dict[str, Callable[[], nn.Module]] = {
    "attention": Attention,
    "encoder layer": lambda: nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True),
    "layer_norm": normalising(lambda x, w: functional.layer_norm(x, (6,), w)),
    "rms_norm": normalising(lambda x, w: functional.rms_norm(x, (6,), weight=w)),
    "group_norm": normalising(lambda x, w: functional.group_norm(x.mT, 2, w).mT),
    "batch_norm": normalising(
        lambda x, w: functional.batch_norm(x.mT, None, None, w, training=True).mT
    ),
}


@pytest.mark.parametrize("name", MAPPED)
def test_gradients_of_a_model_that_is_mapped_are_those_of_one_that_is_not(name: str) -> None:
    model = functional_of(MAPPED[name])
    params, x = start(model), torch.rand(4, 3, 6)

    def loss(params: Params) -> Tensor:
        return model.apply(params, x).pow(3).sum()

    exact = autodiff.grad(loss)(params)
    set_precision("highest", autocasting.MIXED)
    alone = autodiff.grad(loss)(params)
    mapped = autodiff.vmap(autodiff.grad(loss))({n: v[None] for n, v in params.items()})
    assert relative_error({n: v[0] for n, v in mapped.items()}, exact) < 10 * ROUNDING
    assert relative_error(alone, exact) < 10 * ROUNDING


def test_a_function_that_normalises_takes_statistics_in_float32_as_its_module_does() -> None:
    x = 100 + torch.rand(5, 4, 6)  # a mean that bfloat16 has to 0.25
    module = functional_of(lambda: nn.BatchNorm1d(4, affine=False, track_running_stats=False))

    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.rand(1))

        def forward(self, x: Tensor) -> Tensor:
            return functional.batch_norm(x, None, None, training=True)

    called = functional_of(Called)
    set_precision("highest", autocasting.MIXED)
    found, expected = called.apply(start(called), x.bfloat16()), module.apply({}, x.bfloat16())
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mixed", [None, autocasting.MIXED])
def test_a_model_that_returns_16_bits_gives_float32(dtype: torch.dtype, mixed: str | None) -> None:
    class Rounding(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).to(dtype)

    set_precision("highest", mixed)
    model, x = functional_of(lambda: Rounding(8, 1, "relu", (20,), 5)), torch.rand(7, 20)
    assert model.apply(start(model), x).dtype == torch.float32


def test_a_model_whose_types_meet_under_autocast_alone_is_served() -> None:
    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(20, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.head(self.body(x).bfloat16().relu())
            return output

    set_precision("highest", autocasting.MIXED)
    assert build(Narrow, (20,), 5, torch.device("cpu")).not_twice == ""


def test_a_model_whose_types_do_not_meet_is_told_of_bfloat16() -> None:
    class Scattering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(20, 5)

        def forward(self, x: Tensor) -> Tensor:
            output = torch.zeros(len(x), 5)
            output[:, [0, 1, 2, 3, 4]] = self.head(x)
            return output

    build(Scattering, (20,), 5, torch.device("cpu"))
    set_precision("highest", autocasting.MIXED)
    with pytest.raises(ValueError, match=r"convert where two meet, .* device.precision=null"):
        build(Scattering, (20,), 5, torch.device("cpu"))


def test_what_affine_layers_keep_for_the_derivative_takes_half_the_memory() -> None:
    model, batch = mlp(), 64

    def kept(mixed: str | None) -> int:
        sizes: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            if x.dim() and x.shape[0] == batch:  # activations, not weights
                sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        set_precision("highest", mixed)
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            params = {name: value.requires_grad_() for name, value in start(model).items()}
            output = model.apply(params, torch.rand(batch, 20))
        assert output.requires_grad
        return sum(sizes.values())

    # The inputs of three layers, each once: 20, 30 and 30 numbers an example.
    assert kept(None) == batch * (20 + 30 + 30) * 4
    assert kept(autocasting.MIXED) == batch * (20 + 30 + 30) * 2


def test_the_threads_of_episodes_round_as_their_caller_does() -> None:
    model, x = mlp(), torch.rand(3, 7, 20)
    params = start(model)
    exact = torch.stack([model.apply(params, one) for one in x])
    set_precision("highest", autocasting.MIXED)
    threaded = torch.stack(on_cores(lambda one: model.apply(params, one), list(x), workers=2))
    assert torch.equal(threaded, torch.stack([model.apply(params, one) for one in x]))
    assert not torch.equal(threaded, exact)
    assert not torch.is_autocast_enabled("cpu")


def test_a_gradient_moves_as_much_as_with_parameters_moved_by_the_same_rounding() -> None:
    # So what a convolutional network makes of it is its own doing: it is this sensitive.
    model = functional_of(lambda: ConvNet(16, 3, (1, 28, 28), 5))
    params, x = start(model), torch.rand(5, 1, 28, 28)
    exact = slope(model, x)(params)
    moved = trees.map_leaves(lambda v: v * (1 + ROUNDING * torch.randn(v.shape)), params)
    inherent = relative_error(slope(model, x)(moved), exact)
    set_precision("highest", autocasting.MIXED)
    found = relative_error(slope(model, x)(params), exact)
    assert inherent / 4 < found < 4 * inherent


# ---- runs


def ran(folder: Path, *overrides: str) -> bilevel_cli.Run:
    return bilevel_cli.run(*SMALL, *overrides, folder=folder, progress=False)


def test_a_first_order_method_loses_little_and_the_process_forgets_it(tmp_path: Path) -> None:
    chosen = ["method=bsg1", "metrics=precision_gap", "outer_steps=2", "log_every=1"]
    gaps = ran(tmp_path / "run", *chosen, MIXED).train[COLUMN]
    assert gaps.between(0, 0.1, inclusive="neither").all()
    assert autocasting.used() is None


def test_master_copies_are_float32_and_a_run_ends_where_its_twin_does(tmp_path: Path) -> None:
    chosen = ["method=f2sa", "outer_steps=10", "log_every=5"]
    exact, mixed = ran(tmp_path / "exact", *chosen), ran(tmp_path / "mixed", *chosen, MIXED)
    saved = checkpoint.load(tmp_path / "mixed" / CHECKPOINT)
    for name in ("outer", "carry", "optimizer"):
        floats = [x for x in tensors(saved[name]) if x.is_floating_point()]
        assert floats
        assert {x.dtype for x in floats} == {torch.float32}
    losses = mixed.train["outer_loss"]
    assert losses.iloc[-1] < losses.iloc[0]
    assert losses.iloc[-1] == pytest.approx(exact.train["outer_loss"].iloc[-1], rel=0.02)
    accuracies = [one.eval["test_accuracy"].iloc[-1] for one in (exact, mixed)]
    assert accuracies[1] == pytest.approx(accuracies[0], abs=0.03)


def tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    for part in tree.values() if isinstance(tree, dict) else ():
        yield from tensors(part)


# ---- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("capture", ["null", "cuda_graph"])
def test_a_convolutional_network_mapped_over_episodes_on_a_gpu_computes_in_bfloat16(
    capture: str, tmp_path: Path
) -> None:
    chosen = ["task=meta", "task.episodes=2", "task.eval_episodes=2", "method=fomaml"]
    chosen += ["model=conv4_32", "model.width=4", "solver.lr=0.001", "inner_steps=2"]
    chosen += ["outer_steps=2", "log_every=1", "metrics=precision_gap", "device=cuda", MIXED]
    rows = bilevel_cli.run(*chosen, f"device.capture={capture}", folder=tmp_path / "a").train
    # A gradient of this network, rounded: 0.1 in the test above of parameters that are moved.
    assert rows[COLUMN].between(1e-3, 0.5).all()


# ---- what is refused


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["task=quadratic"],
            "needs a task with a model that .* made, got Quadratic, which holds none: nothing of",
        ),
        (
            [*SMALL, "device.dtype=float64"],
            "needs dtype=float32 for precision=bf16-mixed, got dtype=",
        ),
    ],
)
def test_a_precision_that_would_do_nothing_is_refused(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        built(tmp_path, *overrides, MIXED)


def test_float16_is_not_offered(tmp_path: Path) -> None:
    message = "A device needs precision to be one of null, bf16-mixed, got 16-mixed."
    with pytest.raises(UsageError, match=message):
        built(tmp_path, *SMALL, "device.precision=16-mixed")
