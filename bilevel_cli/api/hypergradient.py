"""One hypergradient of two losses that a user wrote."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel_cli.api.forms import Loss, Variables
from bilevel_cli.api.prepared import Choice, Prepared, forms, prepared
from bilevel_cli.core import trees
from bilevel_cli.core.dtypes import computing_in
from bilevel_cli.core.method import Cost, cost_of
from bilevel_cli.core.problem import inner_field
from bilevel_cli.core.trees import Params
from bilevel_cli.errors import UsageError
from bilevel_cli.nn.attention import exact_attention


class BilevelEstimate(NamedTuple):
    """What `bilevel_cli.hypergradient` returns. No tensor of it is attached to a graph.

    Attributes:
        grad: The hypergradient dF/dlambda in the form of `outer`: a tensor for a tensor, a dict for
            a dict, a list for a list, and for a module a dict by parameter name.
        loss: The outer loss at `inner`, 0-dim.
        inner: Where the inner solve ended, in the form of the argument `inner`; of a module a dict
            by parameter name, which `module.load_state_dict(..., strict=False)` takes.
        metrics: 0-dim tensors by name. `inner_grad_norm` is the norm of the gradient of the inner
            loss at `inner`: implicit methods assume that it is small. `lr` is the step size that
            the inner solver took. The others are what the method reports, such as
            `adjoint_residual`, the relative residual of its linear system.
        cost: The inner gradients and second-order products that this took.
        learned: Gradients of what the start and the solver learn, by name, such as `init.weight`
            for start="learned". Empty for others.
        carry: The memory of the method. Hand it to the next call as `carry=`.
    """

    grad: Any
    loss: Tensor
    inner: Any
    metrics: dict[str, Tensor]
    cost: Cost
    learned: Params
    carry: Any


def hypergradient(
    inner_loss: Loss,
    outer_loss: Loss,
    inner: Variables,
    outer: Variables,
    method: str = "cg",
    solver: str | None = None,
    steps: int = 100,
    *,
    lr: float | None = None,
    start: str | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    carry: Any = None,
) -> BilevelEstimate:
    """The gradient of F(z*(lambda), lambda) in lambda, where z*(lambda) minimises f(., lambda).

    Here z is `inner`, lambda is `outer`, f is `inner_loss` and F is `outer_loss`. The inner problem
    is solved from `inner` by `steps` steps, and `method` differentiates through the solution.

        import torch, bilevel_cli

        X, y, X_val, y_val = ...                      # tensors

        def inner_loss(w, penalty):                   # ridge, a penalty for each feature
            return (X @ w - y).square().mean() + (penalty.exp() * w.square()).sum()

        def outer_loss(w, penalty):
            return (X_val @ w - y_val).square().mean()

        w, penalty = torch.zeros(10), torch.zeros(10)
        found = bilevel_cli.hypergradient(inner_loss, outer_loss, w, penalty, method="cg")
        penalty -= 0.1 * found.grad                   # and again, from found.inner

    A module is handed to the losses itself, with its parameters replaced: `model(x)` and
    `model.parameters()` see those of the call. The module that you gave never changes, and nothing
    else does: not the shared random numbers, not torch's default type, no tensor.

    Args:
        inner_loss: f(inner, outer), a function that returns a 0-dim tensor. It gets its arguments
            in the forms in which they were given here, and must depend on them alone.
        outer_loss: F(inner, outer), likewise.
        inner: Where the inner solve begins: a tensor of any shape, a flat dict or a list of
            tensors, or a module, of which all parameters that require a gradient are meant.
        outer: The outer parameters, likewise, of the type (float32 or float64) and on the device
            of `inner`. An empty dict where only the start is learned.
        method: An option of `bilevel-run method=?`, such as "cg", "neumann", "reverse", "f2sa".
        solver: An option of `bilevel-run solver=?`; None for the one that the method asks for,
            which is "gd" unless the method has its own.
        steps: Inner steps. 0 says that `inner` is the solution already; implicit methods alone
            can serve that.
        lr: Step size of the inner solver. None for the one in its yaml where it has one (Adam:
            0.001), else for 1 / L, where L is the largest curvature of the inner loss at `inner`,
            found by 20 products with its Hessian. The step that was taken is in `metrics["lr"]`.
        start: An option of `bilevel-run start=?`; None for the one that the method asks for.
            "learned" makes `inner` a parameter with a gradient of its own, in `learned`: MAML.
        settings: Settings of method, solver and start by the names of the command line:
            `{"method.linear_solver.max_steps": 50, "solver.momentum": 0.5}`. Names with a slash
            choose an option: `{"method/linear_solver": "exact"}`.
        seed: Of the random numbers that stochastic methods draw. Give another at each outer step.
        carry: `carry` of the last estimate, for methods and starts that remember; None to begin.

    Returns:
        The hypergradient, the outer loss and the inner solution: see `BilevelEstimate`.

    Raises:
        UsageError: An argument is wrong; the method cannot serve the problem, such as one for
            minibatches or for learned starts; or the inner loop diverged.
        CannotServe: The method found out on the way that it cannot, such as by a singular Hessian.
    """
    z, lam = forms(inner, outer)
    choice = Choice(method, solver, start, steps, lr, settings or {})
    dtype = next(iter(z.params.values())).dtype
    with computing_in(dtype), exact_attention():
        given = prepared(inner_loss, outer_loss, z, lam, choice)
        loop, everything = given.loop, given.outer
        generator = torch.Generator(next(iter(z.params.values())).device).manual_seed(seed)
        noise = given.method.draw(everything, generator)
        data = loop.drawn(everything, given.data._replace(noise=noise), generator)
        try:
            given.method.check(loop, everything, data)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if carry is None:
            fresh = loop.fresh(everything, data)
            carry = given.method.begin(loop, everything, data, fresh)
        found = given.method.estimate(loop, everything, data, carry)
        solution: Params = found.carry["inner"]["inner"]
        slope = inner_field(loop.problem, solution, everything, data.inner_at(-1))
        cost = cost_of(given.method, loop, choice.steps, everything, z.params, found.metrics)
    _check_finite(found.loss, found.grad, given)
    metrics = {**found.metrics, "inner_grad_norm": trees.norm(slope)}
    if given.lr is not None:
        metrics["lr"] = found.loss.new_tensor(given.lr)
    return BilevelEstimate(
        grad=lam.returned(found.grad),
        loss=found.loss,
        inner=z.returned(solution),
        metrics=metrics,
        cost=Cost(*map(float, cost)),
        learned={name: x for name, x in found.grad.items() if name not in lam.params},
        carry=found.carry,
    )


def _check_finite(loss: Tensor, grad: Params, given: Prepared) -> None:
    if not bool(loss.isfinite()):
        raise UsageError(
            "hypergradient needs an inner solve that converges, got an outer loss of "
            f"{float(loss)} after {given.steps} steps{_step(given)}. Lower lr."
        )
    broken = [name for name, value in grad.items() if not bool(value.isfinite().all())]
    if broken:
        raise UsageError(
            "hypergradient needs a method that stays finite, got a gradient with entries that are "
            f"not, in {', '.join(broken)}, after {given.steps} steps{_step(given)}. Lower lr or "
            "steps, or use another method."
        )


def _step(given: Prepared) -> str:
    return "" if given.lr is None else f" of lr={given.lr:.3g}"
