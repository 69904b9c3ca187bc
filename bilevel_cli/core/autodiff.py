"""Derivatives of functions of parameters: one vocabulary, two engines.

Solvers, methods and tasks take every derivative from here; no other module imports torch.autograd
or torch.func. Outside of `vmap` and `jacfwd` the work is done by torch.autograd, whose eager
overhead is 2.6 times smaller on small problems; inside them by torch.func, which alone composes
with mapping. Both engines give the same numbers.

The runner works under `torch.no_grad`, and each transform enables gradients for what it
differentiates. So the autograd engine records a graph for an outer derivative exactly where there
is one, and an inner loop that nobody differentiates stores nothing.
"""

import contextlib
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import counting, trees
from bilevel_cli.core.forward_precision import SamePrecision
from bilevel_cli.core.trees import Tree

# Of torch's own code, at its first forward mode; since 2.14 it would tell every user.
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")

# The levels of torch.func's forward mode belong to the process: two threads that differentiate at
# once take each other's for their own. So one thread at a time is under torch.func.
_lock = threading.RLock()
_mapping_thread: int | None = None


def mapped() -> bool:
    """Whether tensors have no single value to look at: within `vmap`, `jacfwd` and `compiled`."""
    # A graph that is being compiled holds no values, and torch.func alone can be traced through.
    return torch.compiler.is_compiling() or _mapping_thread == threading.get_ident()


def grad(fn: Callable[..., Tensor], argnums: int | tuple[int, ...] = 0) -> Callable[..., Tree]:
    """The function that returns the gradient of scalar-valued `fn`.

    Args:
        fn: Takes trees of tensors and returns a 0-dim tensor.
        argnums: The argument to differentiate in, by its number; several give a tuple of gradients.

    Returns:
        A function with the arguments of `fn`. A gradient has the keys and shapes of its argument.
    """
    both = grad_and_value(fn, argnums)
    return lambda *args: both(*args)[0]


def grad_and_value(
    fn: Callable[..., Tree], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., tuple[Tree, Tree]]:
    """As `grad`, returning (gradient, value), or (gradient, (value, aux)) where `has_aux`.

    The gradient in an argument that `fn` does not use is zero. With `has_aux`, `fn` returns (value,
    aux), where aux is any tree that is not differentiated.
    """
    positions = argnums if isinstance(argnums, tuple) else (argnums,)

    def differentiated(*args: Tree) -> tuple[Tree, Tree]:
        if mapped():
            return torch.func.grad_and_value(fn, argnums, has_aux)(*args)
        nested = torch.is_grad_enabled()
        with torch.enable_grad():
            inputs = [
                _variable(arg, nested) if position in positions else arg
                for position, arg in enumerate(args)
            ]
            value, aux = fn(*inputs) if has_aux else (fn(*inputs), None)
            wanted = tuple(inputs[position] for position in positions)
            leaves = _pull(
                [value],
                trees.leaves(wanted),
                [torch.ones_like(value)],
                retain=nested,
                nested=nested,
            )
        gradient = trees.rebuilt(wanted, leaves)
        result = (value, aux) if has_aux else value
        return (
            gradient if isinstance(argnums, tuple) else gradient[0],
            result if nested else trees.map_leaves(Tensor.detach, result),
        )

    return differentiated


def vjp(
    fn: Callable[..., Tree], *primals: Tree, has_aux: bool = False, once: bool = False
) -> tuple[Any, ...]:
    """Returns (output, pullback), or (output, pullback, aux), of `fn` at `primals`.

    `pullback(cotangent, argnums=None)` takes a tree like the output. It returns a tuple of trees
    like the primals: one for each primal, or for those with the numbers `argnums`. A call costs
    what it asks for.

    Args:
        fn: Takes trees of tensors and returns a tree of tensors; with `has_aux`, (output, aux).
        primals: Where it is evaluated.
        has_aux: Whether `fn` returns something besides that is not differentiated.
        once: Whether the pullback is called only once. It then frees the graph as it goes.
    """
    if mapped():
        output, pull, *rest = torch.func.vjp(fn, *primals, has_aux=has_aux)

        def mapped_pullback(cotangent: Tree, argnums: tuple[int, ...] | None = None) -> Tree:
            parts = pull(cotangent)
            return parts if argnums is None else tuple(parts[number] for number in argnums)

        return (output, mapped_pullback, *rest)

    nested = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = tuple(_variable(primal, nested) for primal in primals)
        output, aux = fn(*inputs) if has_aux else (fn(*inputs), None)
    outputs = trees.leaves(output)

    def pullback(cotangent: Tree, argnums: tuple[int, ...] | None = None) -> Tree:
        wanted = inputs if argnums is None else tuple(inputs[number] for number in argnums)
        leaves = _pull(
            outputs,
            trees.leaves(wanted),
            trees.leaves(cotangent),
            retain=not once or torch.is_grad_enabled(),
            nested=torch.is_grad_enabled(),
        )
        return trees.rebuilt(wanted, leaves)

    if not nested:
        output, aux = trees.map_leaves(Tensor.detach, output), trees.map_leaves(Tensor.detach, aux)
    return (output, pullback, aux) if has_aux else (output, pullback)


def vmap(fn: Callable[..., Tree], *args: Any, **kwargs: Any) -> Callable[..., Tree]:
    """`fn` over a leading dimension of its arguments: torch.func.vmap, with the same options."""
    return _under_torch_func(torch.func.vmap(fn, *args, **kwargs))


@contextlib.contextmanager
def traced() -> Iterator[None]:
    """Within, this thread computes with tensors that have no single value (`mapped`)."""
    global _mapping_thread
    with _lock:
        before, _mapping_thread = _mapping_thread, threading.get_ident()
        try:
            yield
        finally:
            _mapping_thread = before


def jacfwd(
    fn: Callable[..., Tree], has_aux: bool = False, at_once: int | None = None
) -> Callable[[Tensor], Tree]:
    """The function that returns the Jacobian of `fn`, by forward mode, or (Jacobian, aux).

    Args:
        fn: Takes one tensor x and returns a tree; with `has_aux`, (tree, aux).
        has_aux: Whether it does.
        at_once: Entries of x along which derivatives are carried at once, x being a vector then.
            `fn` is evaluated anew for each such piece. None for all.

    Returns:
        A function of x. Each leaf of the tree gets the dimensions of x behind its own, in the type
        of x.
    """

    def kept(x: Tensor) -> Tree:
        if x.dtype == torch.float64 or torch.compiler.is_compiling():
            return fn(x)
        with SamePrecision():
            return fn(x)

    transformed = _under_torch_func(torch.func.jacfwd(kept, has_aux=has_aux))

    def along(x: Tensor, directions: Tensor) -> Tree:
        def pushed(direction: Tensor) -> Tree:
            return torch.func.jvp(kept, (x,), (direction,), has_aux=has_aux)[1:]

        return torch.func.vmap(pushed)(directions)

    def pieces(x: Tensor) -> Tree:
        firsts = range(0, len(x), at_once or 1)
        found, aux = [], None
        for first in counting.counted(firsts, len(firsts)):
            directions = x.new_zeros(min(firsts.step, len(x) - first), len(x))
            directions[:, first:].fill_diagonal_(1.0)
            slopes, *rest = _under_torch_func(along)(x, directions)
            found.append(slopes)
            aux = rest and trees.map_leaves(lambda y: y[0].clone(), rest[0])
        whole = trees.map_leaves(lambda *parts: torch.cat(parts).movedim(0, -1), *found)
        return (whole, aux) if has_aux else whole

    def differentiated(x: Tensor) -> Tree:
        # What is compiled has no `SamePrecision`, and its result may be wider.
        def restored(jacobian: Tensor) -> Tensor:
            return jacobian.to(x.dtype)

        result = pieces(x) if at_once is not None and at_once < x.numel() else transformed(x)
        return (
            (trees.map_leaves(restored, result[0]), result[1])
            if has_aux
            else trees.map_leaves(restored, result)
        )

    return differentiated


def compiled(fn: Callable[..., Tree]) -> Callable[..., Tree]:
    """`fn` as one compiled graph, with the derivatives that it takes inside.

    Worth the wait, a minute or so at the first call, where thousands of calls on small tensors
    follow: what Python spends on launching operations one by one is gone.

    Args:
        fn: Whose control flow no tensor decides, of arguments whose shapes never change.
    """
    return torch.compile(fn, fullgraph=True, dynamic=False)


class HeldBytes:
    """Meters the graphs made in its context, which may be entered again.

    Not for what is `mapped`, whose tensors have no memory of their own.
    """

    def __init__(self) -> None:
        self._held: weakref.WeakSet[_Held] = weakref.WeakSet()
        self._hooks: Any = None

    def __enter__(self) -> None:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept.tensor)
        self._hooks.__enter__()

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def total(self) -> int:
        """The bytes that those graphs which are still there hold now; shared memory counts once."""
        storages = [kept.tensor.untyped_storage() for kept in self._held]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def _pack(self, x: Tensor) -> "_Held":
        kept = _Held(x)
        self._held.add(kept)
        return kept


class _Held:
    """A tensor for as long as a graph needs it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # a graph that held its own output would never be freed


def _under_torch_func(transformed: Callable[..., Tree]) -> Callable[..., Tree]:
    def call(*args: Tree) -> Tree:
        if torch.compiler.is_compiling():
            return transformed(*args)
        with traced():
            return transformed(*args)

    return call


def _variable(tree: Tree, nested: bool) -> Tree:
    # An alias, not a detached copy, where an enclosing derivative flows through this value.
    def variable(x: Tensor) -> Tensor:
        return x.view_as(x) if nested and x.requires_grad else x.detach().requires_grad_()

    return trees.map_leaves(variable, tree)


def _pull(
    outputs: list[Tensor],
    inputs: list[Tensor],
    cotangents: list[Tensor],
    *,
    retain: bool,
    nested: bool,
) -> Iterable[Tensor]:
    # torch.autograd.grad refuses outputs without a graph; theirs is the zero function.
    pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
    if not pairs:
        return [torch.zeros_like(x) for x in inputs]
    return torch.autograd.grad(
        [output for output, _ in pairs],
        inputs,
        [cotangent for _, cotangent in pairs],
        retain_graph=retain,
        create_graph=nested,
        materialize_grads=True,
    )
