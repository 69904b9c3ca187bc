"""A bilevel problem of two losses that a user wrote, checked before any work."""

from typing import Any

import torch
from torch import Tensor

from bilevel_cli.api.forms import Form, Loss, called
from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params
from bilevel_cli.errors import UsageError
from bilevel_cli.nn import randomness
from bilevel_cli.nn.corrections import corrected


class Given(Task):
    """Two losses of a user as a task. Every inner step sees the same loss.

    Args:
        inner_loss: f(inner, outer), 0-dim.
        outer_loss: F(inner, outer), 0-dim.
        inner: Where the inner solve begins, and in which form losses see inner parameters.
        outer: The outer parameters, likewise.
    """

    def __init__(self, inner_loss: Loss, outer_loss: Loss, inner: Form, outer: Form) -> None:
        self.inner, self.outer = inner, outer
        self._losses = {
            "inner_loss": corrected(called(inner_loss, inner, outer)),
            "outer_loss": corrected(called(outer_loss, inner, outer)),
        }

    def init_outer(self, generator: torch.Generator) -> Params:
        return dict(self.outer.params)

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        some = next(iter(self.inner.params.values()))
        return StepData(dict(self.inner.params), {"step": some.new_zeros(num_steps)}, {})

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self._losses["inner_loss"](inner, outer)

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self._losses["outer_loss"](inner, outer)

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        return {"outer_loss": self.outer_loss(inner, outer, {})}


def check_tensors(inner: Form, outer: Form) -> None:
    """Raises UsageError unless all tensors are on one device and of one type."""
    everything = [*inner.params.values(), *outer.params.values()]
    for what, found in (
        ("type", {str(value.dtype).removeprefix("torch.") for value in everything}),
        ("device", {str(value.device) for value in everything}),
    ):
        if len(found) > 1:
            got = " and ".join(sorted(found))
            raise UsageError(
                f"hypergradient needs inner and outer of one {what}, got {got}. Convert one of "
                "them with .to(...)."
            )


def check_losses(task: Given, learned: bool) -> None:
    """Checks what the losses return, that they repeat, and that they depend on what they should.

    Args:
        task: The problem.
        learned: Whether the inner solve begins at outer parameters or learns other settings, so
            that losses need not contain outer parameters themselves.

    Raises:
        UsageError: They fail.
    """
    inner, outer = task.inner.params, task.outer.params
    with randomness.apart(0):
        for name in ("inner_loss", "outer_loss"):
            _check_value(task, name, inner, outer)
        slopes = _slopes(task, inner, outer)
        if not all(slopes.values()):  # perhaps a symmetry hides it here
            generator = torch.Generator().manual_seed(0)
            away = {
                name: value + torch.randn(value.shape, generator=generator).to(value)
                for name, value in inner.items()
            }
            found = _slopes(task, away, outer)
            slopes = {name: slopes[name] or found[name] for name in slopes}
    cut = ".detach(), .item(), torch.tensor(...) and torch.no_grad() cut derivatives off"
    for name in ("inner_loss", "outer_loss"):
        if not slopes[name, "inner"]:
            raise UsageError(
                f"hypergradient needs {name} to depend on inner, got a derivative of zero in all "
                f"of it. Use the argument that the loss is given; {cut}."
            )
    if not learned and not (slopes["inner_loss", "outer"] or slopes["outer_loss", "outer"]):
        raise UsageError(
            "hypergradient needs a loss that depends on outer, got derivatives of zero in all of "
            f"it. Use the argument that the losses are given; {cut}. To learn where the inner "
            'solve begins, use start="learned".'
        )


def _check_value(task: Given, name: str, inner: Params, outer: Params) -> None:
    forms = (task.inner, task.outer)
    before = [_buffers(form) for form in forms]
    value, again = (getattr(task, name)(inner, outer, {}) for _ in range(2))
    if not (isinstance(value, Tensor) and value.shape == () and value.is_floating_point()):
        got = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        whole = isinstance(value, Tensor) and value.shape == ()
        raise UsageError(
            f"hypergradient needs {name} to return a floating 0-dim tensor, got "
            f"{f'one of {value.dtype}' if whole else got}. Return a mean or a sum of losses."
        )
    if not bool(value.isfinite()):
        raise UsageError(
            f"hypergradient needs losses that are finite where they begin, got "
            f"{name}={float(value)}. Begin at other inner or outer parameters."
        )
    changed = any(
        not torch.equal(now[key], then[key])
        for now, then in zip([_buffers(form) for form in forms], before, strict=True)
        for key in then
    )
    if changed or not torch.equal(value, again):
        raise UsageError(
            f"hypergradient needs losses that depend on their arguments alone, got {name}, which "
            + ("changes a buffer of a module. " if changed else "gives two values in two calls. ")
            + "Call .eval() on a module with dropout or batch normalisation, and draw random "
            "numbers outside of the loss."
        )


def _slopes(task: Given, inner: Params, outer: Params) -> dict[Any, bool]:
    """Which losses have a derivative other than zero, in inner and in outer parameters."""
    found: dict[Any, bool] = {}
    for name in ("inner_loss", "outer_loss"):
        slopes = autodiff.grad(getattr(task, name), (0, 1))(inner, outer, {})
        for who, slope in zip(("inner", "outer"), slopes, strict=True):
            found[name, who] = any(bool(value.any()) for value in trees.leaves(slope))
    return found


def _buffers(form: Form) -> Params:
    module = form.module
    return {} if module is None else {n: x.clone() for n, x in module.named_buffers()}
