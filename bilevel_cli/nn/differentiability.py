"""Whether a model has the derivatives that methods take, found by taking them."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import autodiff
from bilevel_cli.core.dtypes import computing_in
from bilevel_cli.core.trees import Params
from bilevel_cli.errors import out_of_memory
from bilevel_cli.nn import blame, purity, randomness
from bilevel_cli.nn.functional import Functional

log = logging.getLogger(__name__)

STEP = 1e-7  # of a difference in float64: two points so close rarely have a kink of a ReLU between
POINTS = 3  # tried in turn: between the two points of one of them there is no kink
APART = 0.05  # relative distance above which two products differ


def not_twice(model: Functional, x: Tensor) -> str:
    """Why the model has no second derivative in its parameters at `x`; empty where it has one.

    Warns of parameters that the output depends on and no derivative reaches, and of a second
    derivative that is not the derivative of the first.

    Args:
        model: The model.
        x: A batch of inputs [batch, ...].

    Raises:
        ValueError: The model has no first derivative, or its output is cut off from its parameters.
    """
    who, value = type(model.module).__name__, _Value(model, x)
    with randomness.apart(purity.SEED):
        params = {name: v.detach().clone() for name, v in model.named_parameters()}
        try:
            autodiff.grad(value)(params)
        except Exception as error:
            raise ValueError(
                f"A model needs derivatives in its parameters, got {who}: {_reason(error)}. Change "
                "the operation that it names; those in place are the usual ones."
            ) from error
        if not value.reached:
            raise ValueError(
                f"A model needs an output that depends on its parameters, got {who}, whose output "
                "is cut off from all of them. Remove detach(), .data, item(), numpy() and "
                "torch.no_grad() from its forward."
            )
        if missed := _missed(value, params):
            log.warning(
                "No derivative reaches %s of %s, though its output depends on them: they stay "
                "where they start. Look for detach(), .data, item() and numpy() in its forward.",
                ", ".join(missed),
                who,
            )
        try:
            autodiff.grad(_Slope(value))(params)
        except Exception as error:
            return _reason(error)
        if _misleads(model, x):
            log.warning(
                "The second derivative of %s is not the derivative of its first: something in it "
                "is detached, or has a backward that is. Methods that take products with its "
                "Hessian, such as reverse and cg, take wrong ones; f2sa and darts take none.",
                who,
            )
    return ""


class _Value:
    """The sum of squared outputs as a function of the parameters: it is curved in every output.

    Attributes:
        reached: The names of the parameters that the graph of the last call leads to.
    """

    def __init__(self, model: Functional, x: Tensor) -> None:
        self.model, self.x = model, x
        self.reached: set[str] = set()

    def __call__(self, params: Params) -> Tensor:
        output = self.output(params)
        found = {id(getattr(node, "variable", None)) for node in _nodes(output)}
        self.reached = {name for name, value in params.items() if id(value) in found}
        return output.square().sum()

    def output(self, params: Params) -> Tensor:
        return self.model.apply(params, self.x.clone())


class _Slope:
    """The squared norm of the gradient, whose derivative takes a product with the Hessian."""

    def __init__(self, value: _Value) -> None:
        self.value = value

    def __call__(self, params: Params) -> Tensor:
        gradient = autodiff.grad(self.value)(params)
        found = torch.stack([part.square().sum() for part in gradient.values()]).sum()
        # torch would take the derivative through such a node for zero, and say nothing.
        if any(node.name() == "torch::autograd::Error" for node in _nodes(found)):
            raise RuntimeError("the backward of one of its functions is once_differentiable")
        return found


def _missed(value: _Value, params: Params) -> list[str]:
    """Names of parameters that change the output, though its graph does not lead to them."""
    names, source = sorted(params.keys() - value.reached), torch.Generator().manual_seed(0)
    with torch.no_grad():
        before = value.output(params)
        return [
            n for n in names if not purity.close(before, value.output(_moved(params, n, source)))
        ]


def _moved(params: Params, name: str, source: torch.Generator) -> Params:
    return params | {name: params[name] + 0.1 * _like(params[name], source)}


def _like(x: Tensor, source: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=source, dtype=x.dtype).to(x.device)


def _misleads(model: Functional, x: Tensor) -> bool:
    """Whether products with the Hessian differ from differences of the gradient, in float64."""
    try:
        with computing_in(torch.float64):
            wide = replace(model, module=purity.copied(model.module).double())
            value = _Value(wide, x.double() if x.is_floating_point() else x)
            source = torch.Generator().manual_seed(0)
            return all(_apart(value, source) for _ in range(POINTS))
    except Exception as error:  # some models compute in float32 only
        if out_of_memory(error):
            raise
        return False


def _apart(value: _Value, source: torch.Generator) -> bool:
    start = {name: v.detach() for name, v in value.model.named_parameters()}
    point = {name: v + 0.1 * _like(v, source) for name, v in start.items()}
    along = {name: _like(v, source) for name, v in start.items()}
    slope = autodiff.grad(value)

    def directional(params: Params) -> Tensor:
        return torch.stack([(g * along[name]).sum() for name, g in slope(params).items()]).sum()

    product = _flat(autodiff.grad(directional)(point))
    ends = [
        _flat(slope({name: v + step * along[name] for name, v in point.items()}))
        for step in (STEP, -STEP)
    ]
    difference = (ends[0] - ends[1]) / (2 * STEP)
    rounding = 1e-14 / STEP * ends[0].norm()
    return bool((product - difference).norm() > APART * difference.norm() + rounding)


def _flat(tree: Params) -> Tensor:
    return torch.cat([value.flatten() for value in tree.values()])


def _nodes(x: Tensor) -> Iterator[Any]:
    """All nodes of the graph that led to `x`."""
    left, seen = [x.grad_fn], set()
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            left += [other for other, _ in node.next_functions]


def _reason(error: Exception) -> str:
    if out_of_memory(error):
        raise error
    return blame.explained(error)
