"""Torch's functions have the derivatives of their differences, or fail; WRONG lists the others.

Three derivatives along directions, in float64, by the modes that methods take: reverse over reverse
over reverse, mapped or not, and forward over one or two reverse ones. What fails is loud: a run
with such a model is refused, or ends. What is wrong says nothing, and is corrected in
`nn.corrections`, or named in docs/models.md.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bilevel_cli.core import autodiff
from bilevel_cli.nn.attention import exact_attention
from bilevel_cli.nn.corrections import Corrected

Scalar = Callable[[Tensor], Tensor]
Function = Callable[[Tensor], Tensor]

IMAGE, TABLE, SQUARE, SEQUENCE = (2, 2, 6, 6), (3, 4), (3, 3), (2, 3, 4)
TARGETS, SOFT = torch.tensor([0, 3, 1]), torch.tensor([0.1, 0.4, 0.3, 0.2], dtype=torch.float64)
ROWS = torch.tensor([[0, 2, 1], [1, 1, 0]])
COLUMNS = torch.tensor([[0, 1, 1, 0]] * 3)

ACTIVATIONS = "gelu silu mish elu selu celu softplus hardswish hardsigmoid sigmoid tanh tanhshrink "
ACTIVATIONS += "softsign logsigmoid relu leaky_relu hardtanh relu6 softshrink hardshrink"


def positive(x: Tensor) -> Tensor:
    return x @ x.mT + torch.eye(len(x), dtype=x.dtype)


def cases() -> dict[str, tuple[Function, tuple[int, ...]]]:
    tables: dict[str, Function] = {name: getattr(F, name) for name in ACTIVATIONS.split()}
    tables |= {
        "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
        "glu": F.glu,
        "softmax": lambda x: F.softmax(x, -1),
        "logsumexp": lambda x: x.logsumexp(-1),
        "logcumsumexp": lambda x: x.logcumsumexp(-1),
        "norm": lambda x: x.norm(dim=-1),
        "norm of order 3": lambda x: x.norm(3, dim=-1),
        "prod": lambda x: x.prod(-1),
        "prod with a zero": lambda x: (x * x.new_tensor([1, 0, 1, 1])).prod(-1),
        "cumprod": lambda x: x.cumprod(-1),
        "std": lambda x: x.std(-1),
        "var": lambda x: x.var(-1),
        "cosine_similarity": lambda x: F.cosine_similarity(x, x.flip(0) * 2 + 1, -1),
        "normalize": lambda x: F.normalize(x, dim=-1),
        "cdist": lambda x: torch.cdist(x, x.sin() * 2 + 1),
        "pdist": F.pdist,
        "pairwise_distance": lambda x: F.pairwise_distance(x, x.sin() + 1),
        "cross_entropy": lambda x: F.cross_entropy(x, TARGETS),
        "label_smoothing": lambda x: F.cross_entropy(x, TARGETS, SOFT, label_smoothing=0.1),
        "soft targets": lambda x: F.cross_entropy(x, x.flip(0).softmax(-1)),
        "kl_div": lambda x: F.kl_div(x.log_softmax(-1), x.flip(0).exp(), reduction="sum"),
        "huber": lambda x: F.huber_loss(3 * x, x.sin()),
        "smooth_l1": lambda x: F.smooth_l1_loss(3 * x, x.sin()),
        "bce": lambda x: F.binary_cross_entropy_with_logits(x, x.flip(0).sigmoid()),
        "soft_margin": lambda x: F.soft_margin_loss(x, torch.ones_like(x)),
        "triplet": lambda x: F.triplet_margin_loss(x, x.sin(), x.cos()),
        "multi_margin": lambda x: F.multi_margin_loss(x**2, TARGETS),
        "embedding": lambda x: F.embedding(ROWS, x) ** 2,
        "embedding_bag": lambda x: F.embedding_bag(ROWS, x) ** 2,
        "layer_norm": lambda x: F.layer_norm(x, (4,), x[0], x[1]),
        "rms_norm": lambda x: F.rms_norm(x, (4,), x[0]),
        "batch_norm": lambda x: F.batch_norm(x, None, None, x[0], x[1], training=True),
        "weight_norm": lambda x: torch._weight_norm(x, x[:, :1], 0),
        "amax": lambda x: x.amax(-1) ** 2,
        "topk": lambda x: x.topk(2)[0] ** 3,
        "logaddexp": lambda x: torch.logaddexp(x, x.flip(0)),
        "fft": lambda x: torch.fft.fft(x).abs(),
        "scatter_add": lambda x: x.scatter_add(1, COLUMNS, x**2) ** 2,
        "scatter_reduce prod": lambda x: x.scatter_reduce(1, COLUMNS, x**2, "prod"),
        "scatter_reduce mean": lambda x: x.scatter_reduce(1, COLUMNS, x**2, "mean"),
    }
    images: dict[str, Function] = {
        "max_pool2d": lambda x: F.max_pool2d(x, 2) ** 2,
        "avg_pool2d": lambda x: F.avg_pool2d(x, 2) ** 2,
        "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, (4, 3)) ** 2,
        "reflect": lambda x: F.pad(x, (1, 2, 1, 1), mode="reflect") ** 2,
        "replicate": lambda x: F.pad(x, (1, 2, 1, 1), mode="replicate") ** 2,
        "bilinear": lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear") ** 2,
        "bicubic": lambda x: F.interpolate(x, scale_factor=1.5, mode="bicubic") ** 2,
        "grid_sample": lambda x: F.grid_sample(
            x, x[:, :, :3].permute(0, 2, 3, 1)[..., :2].tanh(), align_corners=True
        ),
        "unfold": lambda x: F.unfold(x, 2) ** 2,
        "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2) ** 2,
        "conv2d": lambda x: F.conv2d(x, x[:, :, :3, :3]),
        "conv_transpose2d": lambda x: F.conv_transpose2d(x, x[:, :, :3, :3], stride=2),
        "instance_norm": F.instance_norm,
        "group_norm": lambda x: F.group_norm(x, 1),
        "local_response_norm": lambda x: F.local_response_norm(x, 2),
    }
    squares: dict[str, Function] = {
        "det": torch.linalg.det,
        "slogdet": lambda x: torch.linalg.slogdet(x)[1],
        "solve": lambda x: torch.linalg.solve(x, x.sin()),
        "cholesky": lambda x: torch.linalg.cholesky(positive(x)),
        "cholesky_inverse": lambda x: torch.cholesky_inverse(torch.linalg.cholesky(positive(x))),
        "eigvalsh": lambda x: torch.linalg.eigvalsh(positive(x)),
        "svdvals": torch.linalg.svdvals,
        "qr": lambda x: torch.linalg.qr(x)[0],
        "matrix_exp": torch.linalg.matrix_exp,
    }
    torch.manual_seed(0)
    attention, lstm = nn.MultiheadAttention(4, 2, batch_first=True).double(), nn.LSTM(4, 5).double()
    sequences: dict[str, Function] = {
        "attention": lambda x: F.scaled_dot_product_attention(x, x.sin(), x.cos()),
        "MultiheadAttention": lambda x: attention(x, x, x, need_weights=False)[0],
        "LSTM": lambda x: lstm(x)[0],
    }
    found: dict[str, tuple[Function, tuple[int, ...]]]
    found = {name: (fn, TABLE) for name, fn in tables.items()}
    found |= {name: (fn, IMAGE) for name, fn in images.items()}
    found |= {name: (fn, SQUARE) for name, fn in squares.items()}
    return found | {name: (fn, SEQUENCE) for name, fn in sequences.items()}


CASES = cases()
SAMPLE = ["gelu", "layer_norm", "weight_norm", "cross_entropy", "solve"]
# Wrong without a word in forward mode alone: the modes in which they are.
WRONG = {
    "cholesky_inverse": {"forward over reverse", "forward over two reverse"},
    "scatter_reduce prod": {"forward over reverse", "forward over two reverse"},
}


def slope(fn: Scalar, along: Tensor) -> Scalar:
    """The derivative along a direction, by reverse mode."""
    return lambda x: (autodiff.grad(fn)(x) * along).sum()


def tangent(fn: Scalar, along: Tensor) -> Scalar:
    """The same by forward mode."""
    return lambda x: autodiff.jacfwd(lambda t: fn(x + t * along))(torch.zeros((), dtype=x.dtype))


def mapped(fn: Scalar) -> Scalar:
    return lambda x: autodiff.vmap(fn)(torch.stack([x, x]))[0]


def difference(fn: Scalar, x: Tensor, along: Tensor, step: float = 1e-4) -> Tensor:
    """Of fourth order: it is off by step^4 = 1e-16 times a fifth derivative, and by rounding."""
    near, far = (fn(x + k * step * along) - fn(x - k * step * along) for k in (1, 2))
    return (8 * near - far) / (12 * step)


def silently_wrong(name: str) -> set[str]:
    """The modes in which a finite derivative differs from the difference of the one below it."""
    fn, shape = CASES[name]
    torch.manual_seed(1)
    x, *along = (torch.randn(shape, dtype=torch.float64) for _ in range(4))

    def value(x: Tensor) -> Tensor:
        with Corrected():
            output = fn(x)
        weight = torch.arange(output.numel(), dtype=x.dtype).reshape(output.shape).cos() + 0.3
        return (weight * (output + 0.1 * output**3)).sum()

    first = slope(value, along[0])
    second = slope(first, along[1])
    pairs = {
        "reverse": (value, first, along[0]),
        "two reverse": (first, second, along[1]),
        "three reverse": (second, slope(second, along[2]), along[2]),
        "mapped": (second, mapped(slope(second, along[2])), along[2]),
        "forward over reverse": (first, tangent(first, along[1]), along[1]),
        "forward over two reverse": (second, tangent(second, along[2]), along[2]),
    }
    wrong = set()
    for mode, (lower, upper, direction) in pairs.items():
        try:
            with exact_attention():
                found, expected = upper(x), difference(lower, x, direction)
        except (RuntimeError, NotImplementedError):  # which a user would see
            continue
        if found.isfinite() and (found - expected).abs() > 1e-5 * (expected.abs() + 1e-2):
            wrong.add(mode)
    return wrong


def names() -> list[object]:
    return [n if n in SAMPLE else pytest.param(n, marks=pytest.mark.slow) for n in CASES]


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of what no mapping reaches
@pytest.mark.parametrize("name", names())
def test_a_derivative_is_that_of_differences_or_fails_or_is_known_to_be_wrong(name: str) -> None:
    assert silently_wrong(name) == WRONG.get(name, set())
