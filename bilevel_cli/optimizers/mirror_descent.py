"""Mirror descent, for outer parameters that are weights on a simplex."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from bilevel_cli.errors import UsageError


class MirrorDescent(Optimizer):
    """Exponentiated gradient, w <- w exp(-lr g) sum(w) / sum(w exp(-lr g)), for weights >= 0.

    Mirror descent with the entropy (Kivinen & Warmuth, 1997). The weights keep their sum, and one
    that is 0 stays 0. For n weights of sum n, lr is the step size for their distribution divided
    by n (Ivanova & Ablin, 2023).

    Args:
        params: Tensors of shape [n], n as may be, each of which keeps its sum.
        lr: Step size, > 0.

    Raises:
        ValueError: lr is out of its range.
        UsageError: At the first step, a tensor has another shape or a negative entry.
    """

    def __init__(self, params: list[Tensor], lr: float) -> None:
        if not 0 < lr < math.inf:
            raise ValueError(
                f"MirrorDescent needs a finite step size lr > 0, got lr={lr}. Set optimizer.lr."
            )
        super().__init__(params, {"lr": lr})
        self.checked = False

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        if not self.checked:
            self._check()
        for group in self.param_groups:
            for w in group["params"]:
                w.copy_(_moved(w, w.grad, group["lr"]))
        return None if closure is None else closure()

    def pure(self, group: dict[str, Any]) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
        """The step as a pure function (`runs.pure_optimizer`)."""
        del group
        return lambda w, grad, memory, lr: (_moved(w, grad, lr), memory)

    def _check(self) -> None:
        for w in (w for group in self.param_groups for w in group["params"]):
            if w.dim() != 1 or not bool((w >= 0).all() & (w > 0).any()):
                raise UsageError(
                    "MirrorDescent needs weights on a simplex, got outer parameters of shape "
                    f"{list(w.shape)} that are none. Use task=reweight task/weights=simplex, "
                    "and no learned start or solver; or optimizer=adam."
                )
        self.checked = True


def _moved(w: Tensor, grad: Tensor, lr: float | Tensor) -> Tensor:
    # softmax subtracts the largest exponent, so that none overflows.
    return w.sum() * torch.softmax(w.log() - lr * grad, 0)
