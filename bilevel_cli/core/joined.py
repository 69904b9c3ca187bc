"""Losses of a batch whose examples several processes share.

Each process computes the loss of its part of the examples, and the gradient of that. One sum over
processes of [loss, gradient] gives all of them the loss and the gradient of the whole batch.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.problem import Batch, ProblemWrapper
from bilevel_cli.core.trees import Params, Tree

Loss = Callable[[Params, Params, Batch], Tensor]


class Company:
    """The processes that share the examples, as one of them sees them.

    All of them compute the same from what they have added up. So all make the same calls in the
    same order, also where the loss of one fails: it goes on with numbers that are none, and tells
    its error when the outer step is over.

    Args:
        part: This process's rows of a tree of tensors.
        total: The sum over processes of a tensor, the same bits on all of them.

    Attributes:
        together: Whether losses are shared now, and not computed in whole.
        error: What a loss has raised since they were last shared.
    """

    def __init__(self, part: Callable[[Tree], Tree], total: Callable[[Tensor], Tensor]) -> None:
        self.part, self.total = part, total
        self.together = False
        self.error: Exception | None = None

    @contextlib.contextmanager
    def sharing(self) -> Iterator[None]:
        """Has losses shared."""
        self.together, self.error = True, None
        try:
            yield
        finally:
            self.together = False


class DerivedTwice(RuntimeError):
    """A derivative of a gradient that processes have added up was asked for."""


@dataclass(frozen=True)
class JoinedProblem(ProblemWrapper):
    """A problem whose losses a company of processes shares, as far as first derivatives go.

    For a loss that is a mean over examples, plus terms that see no example,

        f(batch) = sum_r n_r / n f(part_r),

    where process r has n_r of the n examples (`differing` asks whether it is one). A gradient takes
    one sum over processes, of the loss together with the gradient in what it is wanted of; a loss
    alone takes one of a single number.

    Args:
        base: The problem, with a single inner problem.
        company: Who shares them.
    """

    company: Company

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self._joined(self.base.inner_loss, inner, outer, batch)

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self._joined(self.base.outer_loss, inner, outer, batch)

    def _joined(self, loss: Loss, inner: Params, outer: Params, batch: Batch) -> Tensor:
        if not self.company.together:
            return loss(inner, outer, batch)
        share, part = own_share(batch, self.company.part(batch))

        def own(*values: Tensor) -> Tensor:
            supply = iter(values)
            z, at = trees.map_leaves(lambda _: next(supply), (inner, outer))
            return share * loss(z, at, part)

        values = trees.leaves((inner, outer))
        wanted = [torch.is_grad_enabled() and value.requires_grad for value in values]
        found: Tensor = _Joined.apply(self.company, own, wanted, *values)[0]  # type: ignore[no-untyped-call]
        return found

    def __getattr__(self, name: str) -> Any:
        if name in ("base", "company") or name.startswith("__"):  # while it is copied
            raise AttributeError(name)
        return getattr(self.base, name)


def examples_of(batch: Batch) -> int | None:
    """n, the leading dimension of all tensors of a batch that have one; None without a common n."""
    sizes = {value.shape[0] for value in batch.values() if value.dim()}
    return sizes.pop() if len(sizes) == 1 else None


def own_share(batch: Batch, part: Batch) -> tuple[float, Batch]:
    """The share n_r / n of a part of a batch, and the part as a batch of its own.

    Where examples have weights (`blocks.mean` adds up losses times weights), those of the part are
    scaled such that its weighted sum stands for its mean.

    Args:
        batch: Tensors of shape [n, ...], and others of no dimension.
        part: The same tensors, those of shape [n, ...] cut to [n_r, ...].
    """
    count, whole = examples_of(part), examples_of(batch)
    assert count
    assert whole
    share = count / whole
    return share, part | {n: value / share for n, value in part.items() if n == "weight"}


def differing(
    loss: Loss, inner: Params, outer: Params, batch: Batch, parts: list[Batch]
) -> str | None:
    """How a loss of a whole batch differs from that of its parts together; None where it does not.

    Args:
        loss: The loss.
        inner: Where it is compared; a point at which examples differ.
        outer: Likewise.
        batch: The batch.
        parts: Its parts, of all processes.
    """
    whole = float(loss(inner, outer, batch))
    shares = [own_share(batch, part) for part in parts]
    found = [share * float(loss(inner, outer, part)) for share, part in shares]
    if not math.isfinite(whole) or not all(map(math.isfinite, found)):
        return None if not math.isfinite(whole) else "a loss that is no number"
    eps = torch.finfo(next(iter(inner.values())).dtype).eps
    if abs(sum(found) - whole) <= 1000 * eps * (abs(whole) + sum(map(abs, found))):
        return None
    return f"{sum(found):.6g} from the parts for {whole:.6g} of the whole"


def _packed(own: Callable[..., Tensor], wanted: list[bool], *values: Tensor) -> Tensor:
    """The loss of a part, and behind it its gradient in the values that are wanted, one vector."""
    numbers = tuple(number for number, want in enumerate(wanted) if want)
    if not numbers:
        return own(*values).reshape(1)
    slopes, loss = autodiff.grad_and_value(own, numbers)(*values)
    return torch.cat([loss.reshape(1), *(slope.reshape(-1) for slope in slopes)])


def _added(company: Company, compute: Callable[[], Tensor], shape: list[int], x: Tensor) -> Tensor:
    """The sum over processes of what each computes; no number from one where that has failed.

    Args:
        company: The processes.
        compute: Computes this one's part.
        shape: Of the result.
        x: Decides where it is, and its dtype: one that has failed cannot know that of its loss.
    """
    if company.error is None:
        try:
            return company.total(compute().detach().to(x.dtype).contiguous())
        except ConnectionError:  # another process is lost, and nothing can be added up
            raise
        except Exception as error:
            company.error = error
    return company.total(x.new_full(shape, math.nan))


class _Joined(torch.autograd.Function):
    """[loss, gradients]: only the loss is differentiable, and only once."""

    @staticmethod
    def forward(
        company: Company, own: Callable[..., Tensor], wanted: list[bool], *values: Tensor
    ) -> tuple[Tensor, ...]:
        some = [value for value, want in zip(values, wanted, strict=True) if want]
        sizes = [1, *(value.numel() for value in some)]
        compute = partial(_packed, own, wanted, *values)
        packed = _added(company, compute, [sum(sizes)], values[0])
        loss, *slopes = torch.split(packed, sizes)
        return loss[0], *(s.reshape(x.shape).to(x) for s, x in zip(slopes, some, strict=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, _, wanted, *values = inputs
        slopes = output[1:]
        ctx.wanted = wanted
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*slopes)
        ctx.save_for_backward(
            *slopes, *(value for value, want in zip(values, wanted, strict=True) if want)
        )

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        cotangent, saved = cotangents[0], ctx.saved_tensors
        count = len(saved) // 2
        slopes = [slope * cotangent for slope in saved[:count]]
        if torch.is_grad_enabled():  # something may be differentiated again
            slopes = list(_Once.apply(*slopes, *saved[count:]))  # type: ignore[no-untyped-call]
        supply = iter(slopes)
        return None, None, None, *(next(supply) if want else None for want in ctx.wanted)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        company: Company,
        own: Callable[..., Tensor],
        wanted: list[bool],
        *values: Tensor,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Many losses at once, of many values: one sum over processes all the same."""
        count, dims = info.batch_size, in_dims[3:]
        each = autodiff.vmap(partial(_packed, own, wanted), in_dims=dims)
        shapes = [
            value.shape if dim is None else value.movedim(dim, 0).shape[1:]
            for value, dim, want in zip(values, dims, wanted, strict=True)
            if want
        ]
        sizes = [1, *(shape.numel() for shape in shapes)]
        packed = _added(company, lambda: each(*values), [count, sum(sizes)], values[0])
        loss, *slopes = torch.split(packed, sizes, 1)
        some = [s.reshape(count, *shape) for s, shape in zip(slopes, shapes, strict=True)]
        return (loss[:, 0], *some), (0,) * (1 + len(some))


class _Once(torch.autograd.Function):
    """Gradients as they are, whose derivative in the values nobody has: each process has a part."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*both: Tensor) -> tuple[Tensor, ...]:
        return tuple(slope.clone() for slope in both[: len(both) // 2])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, ...]:
        raise DerivedTwice(
            "Minibatches that several processes share have first derivatives alone, got a second "
            "one. Use one process, or method=sama, method=f2sa or method=darts with solver=gd."
        )
