"""What every outer step notes on the device, for the next row to read: no step waits for it."""

import math

import torch
from torch import Tensor

from bilevel_cli.core.trees import Params, Scalar
from bilevel_cli.records.table import Row

Noted = dict[str, Tensor]
"""`first`: the first step with numbers that are not finite, of each of WHAT. `moved`: whether an
outer parameter ever had another hypergradient than zero."""

WHAT = ("hypergradient", "outer parameter")
TOGETHER = 64  # steps that are noted at once: their numbers are all that is kept until then


class Flags:
    """Of all outer steps, those without a row too: which numbers were not finite, which all zero.

    A run reads a number only where it writes a row or a checkpoint. A step in between whose
    hypergradient is not a number may be forgotten by then: by an optimizer that leaves such entries
    out, by a projection, by outer parameters that act no more. A step costs a norm of each outer
    parameter and of its hypergradient; up to 64 steps, a handful of kernels on as many numbers.

    Args:
        outer: The outer parameters.

    Attributes:
        found: The first step since the last row whose hypergradient, or whose outer parameters
            after the step, were not finite; by name, those that were not.
    """

    def __init__(self, outer: Params) -> None:
        # torch takes no largest entry of none.
        self._names = [name for name, value in outer.items() if value.numel()]
        some = next(iter(outer.values()))
        self._first = torch.zeros(2, dtype=torch.int64, device=some.device)  # 0: all were finite
        self._moved: Tensor | None = torch.zeros(
            len(self._names), dtype=torch.bool, device=some.device
        )
        self.found: dict[str, int] = {}
        self._largest: list[Tensor] = []  # of steps that are not noted yet, the last one of which
        self._last = 0  # has this number

    def look(self, step: int, grad: Params, outer: Params) -> None:
        """Notes the numbers of a step.

        Args:
            step: Its number, from 1 on.
            grad: Its hypergradient.
            outer: The outer parameters after it.
        """
        if not self._names:
            return
        if len(self._largest) == TOGETHER or step != self._last + 1:
            self._note()
        # The largest entries: squares of large ones would overflow.
        self._largest.append(torch.stack(torch._foreach_norm(self.looked(grad, outer), math.inf)))
        self._last = step

    def looked(self, grad: Params, outer: Params) -> list[Tensor]:
        """The tensors of a step that are looked at."""
        return [tree[name] for tree in (grad, outer) for name in self._names]

    def noted(self) -> Noted:
        """What was noted so far."""
        self._note()
        moved = self._moved
        if moved is None:
            moved = torch.zeros(len(self._names), dtype=torch.bool, device=self._first.device)
        return {"first": self._first, "moved": moved}

    def note(self, noted: Noted) -> None:
        """Replaces what was noted so far."""
        self._first = noted["first"]
        self._moved = None if self._moved is None else noted["moved"]

    @staticmethod
    def after(noted: Noted, step: int | Tensor, largest: Tensor) -> Noted:
        """What is noted after a step: a pure function.

        Args:
            noted: Before it.
            step: Its number.
            largest: The largest magnitude of an entry of each tensor that is looked at.
        """
        first, largest = noted["first"], largest.reshape(2, -1)
        bad = ~largest.isfinite().all(1)
        return {
            # By arithmetic: a number as an operand of `where` may be copied, and so waited for.
            "first": first + (bad & (first == 0)) * step,
            "moved": noted["moved"] | (largest[0] != 0),
        }

    def unread(self) -> dict[str, Scalar]:
        """What was noted since the last row, as 0-dim tensors on the device."""
        self._note()
        return dict(zip(WHAT, self._first.unbind(), strict=True))

    def take(self, row: Row) -> None:
        """Moves what `unread` said from a row that was read to `found`, and begins anew."""
        self.found = {what: int(step) for what in WHAT if (step := row.pop(what))}
        self._first = torch.zeros_like(self._first)

    def forget(self) -> None:
        """Begins anew, of a run that went back to before what was noted."""
        self.found, self._first = {}, torch.zeros_like(self._first)
        self._largest = []

    def never_moved(self) -> list[str]:
        """The outer parameters whose hypergradient was exactly zero in all entries of all steps.

        Waits for the device.
        """
        assert self._moved is not None, "asked after it was settled"
        self._note()
        moved = self._moved.tolist()
        return [name for name, some in zip(self._names, moved, strict=True) if not some]

    def settle(self) -> None:
        """Has later steps no longer note which hypergradients are zero."""
        self._moved = None

    def _note(self) -> None:
        """Notes the steps that were looked at, all of them at once."""
        if not self._largest:
            return
        count = len(self._largest)
        largest = torch.stack(self._largest).reshape(count, 2, -1)  # by step, tree and parameter
        bad = ~largest.isfinite().all(2)
        # The first step that is bad has the most steps to go. By arithmetic: a number as an operand
        # of `where` may be copied, and so waited for.
        end = self._last + 1
        left = torch.arange(count, 0, -1, device=bad.device)
        most = (bad * left[:, None]).amax(0)
        self._first = self._first + ((most > 0) & (self._first == 0)) * (end - most)
        if self._moved is not None:
            self._moved = self._moved | (largest[:, 0] != 0).any(0)
        self._largest = []
