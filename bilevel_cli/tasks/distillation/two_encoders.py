"""Two encoders as one network, and what they are trained and judged by."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from bilevel_cli.nn.building import Shape, build, sized
from bilevel_cli.nn.functional import Functional, Make, logits

TINY = 1e-12  # below the square of any length of an embedding


class TwoEncoders(nn.Module):
    """An encoder for each view; the parameters of both, and of the temperature, are one dict.

        x, y  ->  (u, v) / sqrt(temperature),    u = encoder(x) / |encoder(x)|,  v likewise

    A pair is one row: its two views flattened, one after the other. So is what comes out, and the
    product of its two halves is the similarity u.v / temperature.

    Args:
        encoders: Construct the encoders of both views.
        shapes: Of one example of each view.
        temperature: > 0.
        learn_temperature: Whether it is trained, by its logarithm, and else stays as it is.
    """

    def __init__(
        self,
        encoders: tuple[Make, Make],
        shapes: tuple[Shape, Shape],
        temperature: float,
        learn_temperature: bool,
    ) -> None:
        super().__init__()
        self.x, self.y = (make() for make in encoders)
        scale = torch.tensor(-0.5 * math.log(temperature))
        self.log_scale = nn.Parameter(scale, requires_grad=learn_temperature)
        self.shapes, self.sizes = shapes, [math.prod(shape) for shape in shapes]

    def forward(self, pairs: Tensor) -> Tensor:
        views = torch.split(pairs, self.sizes, 1)
        x, y = (v.reshape(-1, *shape) for v, shape in zip(views, self.shapes, strict=True))
        both = torch.stack([logits(self.x(x)), logits(self.y(y))], 1)
        length = both.square().sum(2, keepdim=True).add(TINY).sqrt()
        return (self.log_scale.exp() * both / length).flatten(1)


def build_encoders(
    models: tuple[Callable[..., nn.Module], Callable[..., nn.Module]],
    views: tuple[Tensor, Tensor],
    dim: int,
    temperature: float,
    learn_temperature: bool,
    generator: torch.Generator,
) -> Functional:
    """Builds `TwoEncoders`, after each encoder was checked by itself.

    Args:
        models: The models of the two views, as conf/model builds them.
        views: Examples of both, [n, ...], on the device where the network will live.
        dim: Length of an embedding.
        temperature: As of `TwoEncoders`.
        learn_temperature: Likewise.
        generator: As of `build`.

    Raises:
        ValueError: An encoder fails a check, or gives zeros at its start.
    """
    device, shapes = views[0].device, (tuple(views[0].shape[1:]), tuple(views[1].shape[1:]))
    sides = [
        build(model, shape, dim, device, generator, view)
        for model, shape, view in zip(models, shapes, views, strict=True)
    ]
    encoders = (sized(models[0], shapes[0], dim), sized(models[1], shapes[1], dim))
    make = partial(TwoEncoders, encoders, shapes, temperature, learn_temperature)
    rows = joined(views[0][:2], views[1][:2])
    both = build(make, tuple(rows.shape[1:]), 2 * dim, device, generator, rows)
    for name, side, view in zip("xy", sides, views, strict=True):
        with torch.no_grad():
            start = side.apply(dict(side.named_parameters()), view[:2])
        if not start.any():
            raise ValueError(
                f"TwoEncoders needs encoders whose outputs are not zero at the start, got "
                f"{type(side.module).__name__} for {name}: a zero has no direction. Use model=mlp "
                "or model=projection."
            )
    return replace(
        both,
        attends=any(side.attends for side in sides),
        corrects=any(side.corrects for side in sides),
        not_twice=next((side.not_twice for side in sides if side.not_twice), ""),
    )


def joined(x: Tensor, y: Tensor) -> Tensor:
    """Pairs as `TwoEncoders` takes them, of shape [n, all numbers of a pair]."""
    return torch.cat([x.flatten(1), y.flatten(1)], 1)


def contrastive_loss(outputs: Tensor) -> Tensor:
    """Symmetric InfoNCE among the pairs of a batch (van den Oord et al., 2018, arXiv:1807.03748).

        - mean_i (log softmax_j(s_ij) + log softmax_j(s_ji))_{j=i} / 2,    s_ij = u_i.v_j / T

    as in CLIP (Radford et al., 2021, arXiv:2103.00020): each view has to find the other among all.

    Args:
        outputs: Of `TwoEncoders`, for the pairs of the batch.
    """
    u, v = outputs.chunk(2, 1)
    similar = u @ v.mT
    found = similar.log_softmax(1).diagonal() + similar.log_softmax(0).diagonal()
    return -0.5 * found.mean()


def recall_at_1(outputs: Tensor, gallery: int) -> Tensor:
    """How often the most similar of `gallery` candidates is the right one: from x to y, and back.

    Pairs that are left over by the last full gallery do not count.

    Args:
        outputs: Of `TwoEncoders`, for the pairs that are sought, at least `gallery` of them.
        gallery: Pairs among which one is sought, in the order of `outputs`.

    Returns:
        Two shares, of shape [2].
    """
    full = len(outputs) // gallery * gallery
    u, v = outputs[:full].reshape(-1, gallery, outputs.shape[1]).chunk(2, 2)
    partner = torch.arange(gallery, device=outputs.device)
    hits = [(u @ v.mT).argmax(dim) == partner for dim in (2, 1)]
    return torch.stack([hit.to(outputs.dtype).mean() for hit in hits])
