"""Many steps as one compiled function: a loop in C++ whose body is one step.

This file alone uses what torch keeps private: the loop of its compiler, and the compiler without
the front end that guards every call. Where a torch has them no more, or where they cannot serve a
step, `compiled` raises `NotCompiled`, and its caller takes steps one by one.
"""

import contextlib
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.trees import Tree
from bilevel_cli.machine.compiler import quietly, told_where_slow
from bilevel_cli.machine.loop_bounds import unchecked
from bilevel_cli.machine.loop_code import once
from bilevel_cli.machine.loop_products import turn

Step = Callable[[Tree, Tree], tuple[Tree, Tree]]
"""Takes what moves and what one step is given. Returns what moves, of the same structure, and what
the step reports."""

Loop = Callable[[Tree, Tree, int], Tree]
"""Takes what moves, what all steps are given, and how many steps to take, >= 1. Changes what moves,
and returns what the last step reports."""

# In place of these, the body of a loop has the operation that writes into its first argument.
IN_PLACE = ("index_put", "scatter", "index_add", "scatter_add")


class NotCompiled(RuntimeError):
    """A step that cannot be compiled in a loop. Its text says why."""


def compiled(step: Step, moving: Tree, given: Tree) -> Loop:
    """A loop over `step`, compiled.

    Each step reads one entry of `given` and replaces what moves, in the memory where it is: what a
    step changes by an index, such as one row of a table, is changed there and copied nowhere.

    Args:
        step: A pure function whose control flow no tensor decides.
        moving: Tensors that share no memory with one another, for their shapes.
        given: Tensors with a leading dimension, of steps; no loop may take more.

    Returns:
        A loop that takes trees of the shapes, types and strides of `moving` and `given`.

    Raises:
        NotCompiled: The step asks a tensor for its value, draws random numbers or changes the shape
            of what moves; or torch does not compile it.
    """
    try:
        with quietly(), told_where_slow():
            return _compiled(step, moving, given)
    except NotCompiled:
        raise
    except Exception as error:  # of torch, which raises whatever its parts do
        raise NotCompiled(_reason(error)) from error


def _compiled(step: Step, moving: Tree, given: Tree) -> Loop:
    # Private, and slow to import.
    from torch._guards import TracingContext, tracing
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    state, every = trees.leaves(moving), trees.leaves(given)
    fake = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())

    def faked(x: Tensor) -> Tensor:
        return fake.from_tensor(x, static_shapes=True)

    number = torch.zeros(1, dtype=torch.int64)
    examples = [*map(faked, [number, number.clone(), *state, *every])]
    count = len(state)

    reported: list[Tree] = []

    def body(number: Tensor, stop: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        del stop
        now = trees.rebuilt(moving, tensors[:count])
        one = [x.index_select(0, number)[0] for x in tensors[count:]]
        after, report = step(now, trees.rebuilt(given, one))
        if _shapes(after) != _shapes(now):
            raise NotCompiled("what moves changes its shape")
        in_order = trees.map_leaves(lambda _, x: x, now, after)
        reported.append(report)
        return (number + 1, *trees.leaves(in_order), *trees.leaves(report))

    def goes_on(number: Tensor, stop: Tensor, *tensors: Tensor) -> Tensor:
        del tensors
        return (number < stop)[0]

    with torch.no_grad(), fake, autodiff.traced():
        traced = _traced(body, examples)
    constants = _lifted(traced)
    examples += map(faked, constants)
    longest = min(len(x) for x in every)
    own = range(2 + count, 2 + count + len(every))
    known: dict[int, Tensor | None] = {0: torch.arange(longest), **dict.fromkeys(own)}
    known |= dict(enumerate(constants, 2 + count + len(every)))
    bounds = unchecked(traced, known)
    _refuse_random_numbers(traced)
    turn(traced)
    rooms = _write_in_place(traced, count)
    examples += rooms
    with torch.no_grad(), fake:
        condition = _traced(goes_on, examples)
    outer = _loop(condition, traced, examples)
    settings = {
        "cpp.threads": torch.get_num_threads(),  # one thread is told from several once and for all
        "use_post_grad_passes": False,  # they take a graph for one that writes into no argument
        # Each temporary has its own memory, which is made once (`loop_code.once`).
        "allow_buffer_reuse": False,
        "inplace_buffers": False,
    }
    with torch.no_grad(), tracing(TracingContext(fake)), config.patch(settings), _hoisting():
        run: Any = compile_fx_inner(outer, examples, cpp_wrapper=True)
    # Without the fake tensors that it is made of.
    shapes = [(room.shape, room.dtype) for room in rooms]
    report = trees.map_leaves(lambda _: number, reported[0])

    expected = [(x.shape, x.dtype, x.stride()) for x in (*state, *every)]

    def loop(moving: Tree, given: Tree, steps: int) -> Tree:
        tensors = [*trees.leaves(moving), *trees.leaves(given)]
        if [(x.shape, x.dtype, x.stride()) for x in tensors] != expected:  # it would read elsewhere
            raise ValueError("A compiled loop needs tensors of the shapes it was compiled for.")
        if steps > longest or any(
            not bound.holds(tensors[bound.place - 2][:steps]) for bound in bounds
        ):
            raise IndexError("A compiled loop is given too few rows, or a number of none of them.")
        start, stop = torch.zeros(1, dtype=torch.int64), torch.full((1,), steps)
        found = [torch.empty(shape, dtype=dtype) for shape, dtype in shapes]
        run([start, stop, *tensors, *constants, *found])
        return trees.rebuilt(report, found)

    return loop


@contextlib.contextmanager
def _hoisting() -> Iterator[None]:
    """Meanwhile, compiled loops make handles and memory before their first step."""
    from torch._inductor.codegen.common import device_codegens, init_backend_registration
    from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu

    base: Any = CppWrapperCpu

    class Wrapper(base):  # type: ignore[misc]  # torch leaves it without types
        @staticmethod
        def create(*args: Any, **kwargs: Any) -> Any:
            made: Any = Wrapper
            return made()

        def generate(self, is_inference: bool) -> Any:
            code, declarations = super().generate(is_inference)
            code.value = once(code.value)
            return code, declarations

    init_backend_registration()
    backend = device_codegens["cpu"]
    before, backend.cpp_wrapper_codegen = backend.cpp_wrapper_codegen, Wrapper
    try:
        yield
    finally:
        backend.cpp_wrapper_codegen = before


def _traced(fn: Callable[..., Any], examples: list[Tensor]) -> fx.GraphModule:
    """The operations of a function, its derivatives among them."""
    from torch._inductor.decomposition import select_decomp_table
    from torch.fx.experimental.proxy_tensor import make_fx

    table = {**select_decomp_table(), torch.ops.aten.mv.default: _product}
    table.pop(torch.ops.aten.mm.default, None)
    return make_fx(fn, decomposition_table=table)(*examples)


def _product(matrix: Tensor, vector: Tensor) -> Tensor:
    """A product whose sums run along rows is faster as BLAS has it, along columns as one kernel."""
    if matrix.stride(1) == 1:
        return torch.mm(matrix, vector[:, None])[:, 0]
    return (matrix * vector).sum(1)


def _lifted(body: fx.GraphModule) -> list[Tensor]:
    """The tensors of a graph that are no arguments of it, once it has arguments for them."""
    graph = body.graph
    found: dict[str, tuple[fx.Node, Tensor]] = {}
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        name = str(node.target)
        if name not in found:
            with graph.inserting_after(last):
                last = graph.placeholder(f"constant{len(found)}")
            last.meta.update(node.meta)
            found[name] = last, operator.attrgetter(name)(body)
        node.replace_all_uses_with(found[name][0])
        graph.erase_node(node)
    return [tensor for _, tensor in found.values()]


def _refuse_random_numbers(body: fx.GraphModule) -> None:
    """Those that a compiled function draws are others than those of the function."""
    for node in body.graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise NotCompiled(f"it draws random numbers, by {node.target}")


def _write_in_place(body: fx.GraphModule, count: int) -> list[Tensor]:
    """Has a graph write what it returned, but for the number of the step, into its arguments.

    Args:
        body: The graph of a step.
        count: How many of its results replace arguments. It gets more arguments for the others.

    Returns:
        Of what shapes and types these are.
    """
    aten, graph = torch.ops.aten, body.graph
    arguments = [node for node in graph.nodes if node.op == "placeholder"]
    (output,) = (node for node in graph.nodes if node.op == "output")
    number, *results = output.args[0]
    own = {_memory(node) for node in arguments}
    targets = arguments[2 : 2 + count]
    rooms: list[Tensor] = []
    for result in results[count:]:
        with graph.inserting_after(arguments[-1]):
            arguments.append(graph.placeholder(f"room{len(rooms)}"))
        # Of a fake tensor, a fake one.
        rooms.append(torch.empty_like(result.meta["val"], memory_format=torch.contiguous_format))
        arguments[-1].meta["val"] = rooms[-1]
        targets.append(arguments[-1])
    with graph.inserting_before(output):
        for place, result in enumerate(results):
            # It would be written over before it is read.
            if result is not targets[place] and _memory(result) in own:
                results[place] = graph.call_function(aten.clone.default, (result,))
                results[place].meta.update(result.meta)
        for target, result in zip(targets, results, strict=True):
            if result is target:
                continue
            packet = getattr(result.target, "overloadpacket", None)
            name = getattr(packet, "__name__", "")
            if name in IN_PLACE and result.args[0] is target and len(result.users) == 1:
                twin = getattr(getattr(aten, f"{name}_"), result.target._overloadname)
                written = graph.call_function(twin, result.args, result.kwargs)
            else:
                written = graph.call_function(aten.copy_.default, (target, result))
            written.meta.update(target.meta)
    output.args = ((number,),)
    graph.eliminate_dead_code()
    body.recompile()
    return rooms


def _loop(
    condition: fx.GraphModule, body: fx.GraphModule, examples: list[Tensor]
) -> fx.GraphModule:
    """The graph of `while condition: body`, over the number of the step."""
    root, graph = torch.nn.Module(), fx.Graph()
    root.condition, root.body = condition, body
    arguments = []
    for place, example in enumerate(examples):
        arguments.append(graph.placeholder(f"argument{place}"))
        arguments[-1].meta["val"] = example
    parts = graph.get_attr("condition"), graph.get_attr("body")
    number, *rest = arguments
    called = graph.call_function(torch.ops.higher_order.while_loop, (*parts, (number,), (*rest,)))
    called.meta["val"] = (examples[0],)
    last = graph.call_function(operator.getitem, (called, 0))
    last.meta["val"] = examples[0]
    graph.output((last,))
    return fx.GraphModule(root, graph)


def _shapes(tree: Tree) -> Any:
    """All that a compiled function takes for granted of a tree of tensors."""
    if isinstance(tree, Tensor):
        return tree.shape, tree.dtype
    if isinstance(tree, dict):
        return {name: _shapes(value) for name, value in tree.items()}
    return tree if tree is None else tuple(map(_shapes, tree))


def _memory(node: fx.Node) -> int:
    return int(node.meta["val"].untyped_storage()._cdata)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
