"""The forms in which users give parameters: a tensor, a dict or list of tensors, a module.

Within the package, parameters are flat dicts of tensors. A `Form` remembers what was given, shows a
loss its parameters in that form, and gives answers back in it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bilevel_cli.core.start import LEARNED_PREFIX
from bilevel_cli.core.trees import Params
from bilevel_cli.errors import UsageError
from bilevel_cli.machine.device import unserved
from bilevel_cli.nn.functional import trained
from bilevel_cli.nn.purity import copied

Variables = Tensor | Mapping[str, Tensor] | Sequence[Tensor] | nn.Module
"""Parameters as a user has them. Of a module, those that require a gradient."""

Loss = Callable[[Any, Any], Tensor]
"""A function of the inner and the outer parameters, in the forms in which they were given."""

KINDS = "a tensor, a dict or a list of tensors, or a torch.nn.Module"


@dataclass(frozen=True)
class Form:
    """How parameters were given.

    Args:
        who: "inner" or "outer".
        kind: The type that was given: Tensor, dict, list, tuple or Module.
        params: Detached values by name. Of a tensor the name is `who`, of a list they are numbers.
        module: A copy of the module, for losses to call; None where none was given.
    """

    who: str
    kind: type
    params: Params
    module: nn.Module | None = field(default=None, repr=False)

    def shown(self, params: Params) -> Any:
        """What a loss is given for `params`; the module itself takes its values from `called`."""
        return self.module if self.module is not None else self.returned(params)

    def returned(self, params: Params) -> Any:
        """`params` as a user gets them back: as they were given, and of a module as a dict."""
        if self.kind is Tensor:
            return params[self.who]
        if self.kind in (list, tuple):
            return self.kind(params[name] for name in self.params)
        return {name: params[name] for name in self.params}


def form(who: str, given: Variables) -> Form:
    """The form of what was given as `inner` or `outer`.

    Raises:
        UsageError: It is of another kind, or its tensors are not floating or have no entry.
    """
    module = None
    if isinstance(given, Tensor):
        kind: type = Tensor
        params = {who: given}
    elif isinstance(given, nn.Module):
        kind, params = nn.Module, dict(trained(given))
        if not params:
            raise UsageError(
                f"hypergradient needs a module with a parameter that requires a gradient, got "
                f"{who}={type(given).__name__} without one. Call requires_grad_() on a layer."
            )
        module = _copy(given)
    elif isinstance(given, Mapping):
        kind, params = dict, dict(given)
    elif isinstance(given, Sequence) and not isinstance(given, str):
        kind = tuple if isinstance(given, tuple) else list
        params = {str(number): value for number, value in enumerate(given)}
    else:
        raise UsageError(
            f"hypergradient needs {who} to be {KINDS}, got {_kind(given)}. "
            "Make a tensor of it: torch.as_tensor(...)."
        )
    for name, value in params.items():
        _check(who, name, value)
    return Form(who, kind, {name: value.detach() for name, value in params.items()}, module)


def called(loss: Loss, inner: Form, outer: Form) -> Callable[[Params, Params], Tensor]:
    """`loss` as a function of flat dicts of parameters.

    Within a call, a module holds the parameters of that call: `model(x)`, `model.parameters()` and
    the layers of `model` all see them.
    """
    host = _Host(inner.module, outer.module)

    def function(z: Params, lam: Params) -> Tensor:
        def evaluated() -> Tensor:
            return loss(inner.shown(z), outer.shown(lam))

        params: Params = {}
        for one, values in ((inner, z), (outer, lam)):
            if one.module is not None:
                params |= {f"{one.who}.{name}": values[name] for name in one.params}
        return torch.func.functional_call(host, params, (evaluated,)) if params else evaluated()

    return function


class _Host(nn.Module):
    """The modules given as `inner` and `outer` as one, within which a loss is called."""

    def __init__(self, inner: nn.Module | None, outer: nn.Module | None) -> None:
        super().__init__()
        self.inner, self.outer = inner, outer

    def forward(self, loss: Callable[[], Tensor]) -> Tensor:
        return loss()


def _copy(module: nn.Module) -> nn.Module:
    try:
        return copied(module)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _check(who: str, name: str, value: Any) -> None:
    where = who if name == who else f"{who}[{name!r}]"
    if not isinstance(name, str):
        raise UsageError(f"hypergradient needs names that are texts, got {where}. Rename it.")
    if not isinstance(value, Tensor):
        raise UsageError(
            f"hypergradient needs {who} to be {KINDS}, got {where}, {_kind(value)}. "
            "Flatten what is nested, and make tensors with torch.as_tensor(...)."
        )
    if value.dtype not in (torch.float32, torch.float64):
        raise UsageError(
            f"hypergradient needs tensors of float32 or float64, got {where} of "
            f"{str(value.dtype).removeprefix('torch.')}. Convert it: .double() or .float()."
        )
    if reason := unserved(value.device.type):
        raise UsageError(
            f"hypergradient needs tensors on a CPU or a GPU of CUDA, got {where} on "
            f"{value.device}. {reason} Move it: .cpu()."
        )
    if not value.numel():
        raise UsageError(f"hypergradient needs tensors with entries, got {where} without any.")
    if name.startswith(LEARNED_PREFIX) and who == "outer":
        raise UsageError(
            f"hypergradient keeps names that begin with {LEARNED_PREFIX!r} for a learned start, "
            f"got {where}. Rename it."
        )


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
