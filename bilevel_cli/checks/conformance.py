"""What every method, task and solver must satisfy: for the tests of the project and of others.

    from bilevel_cli import check_method
    check_method(MyMethod(...))

Each function returns nothing, and raises AssertionError with the sentence that does not hold.
"""

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.checks.engines import engines_used
from bilevel_cli.core import autodiff, episodes, trees
from bilevel_cli.core.dtypes import computing_in
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Estimate, Hypergradient
from bilevel_cli.core.oracle import MinibatchOracle
from bilevel_cli.core.problem import Batch, StepData, has_outputs, inner_field
from bilevel_cli.core.solver import InnerSolver, SolverState
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params, Tree
from bilevel_cli.runs import checkpoint
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.solvers.langevin import Langevin
from bilevel_cli.starts.cold import Cold
from bilevel_cli.starts.learned import Learned
from bilevel_cli.tasks.examples.quadratic import Quadratic

STEPS = 4

# The functions that are mapped and differentiated, of a method, a task and a solver.
ESTIMATING = ("init", "begin", "draw", "estimate", "followed")
POSING = (
    *("init_inner", "inner_loss", "outer_loss", "inner_field", "project_outer"),
    *("inner_outputs", "loss_of_outputs"),
)
STEPPING = ("init", "step", "outer_init", "posed")


def check_method(method: Hypergradient[Any]) -> None:
    """Checks keys, shapes, purity, mapping, cost and memory of a method on a small quadratic.

    And that its derivatives come from `bilevel_cli.autodiff`.
    """
    _check_engine(method, ESTIMATING)
    for dtype in (torch.float32, torch.float64):
        with computing_in(dtype):
            _check_method_in_this_precision(method)


def _check_method_in_this_precision(method: Hypergradient[Any]) -> None:
    task, generator = _quadratic(), torch.Generator().manual_seed(0)
    outer = {"lam": torch.linspace(-1.0, 1.0, 3)}
    loop = _served(method, task, outer)

    def drawn() -> StepData:
        data = task.sample(STEPS + method.extras(STEPS), generator).split(STEPS)
        return loop.drawn(outer, data, generator)

    data = drawn()
    # A learned start as well, unless the method refuses it: some methods learn nothing else.
    learning = replace(loop, start=Learned())
    everything = {**outer, **learning.outer_init(data, outer)}
    with contextlib.suppress(ValueError):
        method.check(learning, everything, data)
        loop, outer = learning, everything
    data = data._replace(noise=method.draw(outer, generator))
    carry = method.init(outer, loop.fresh(outer, data))
    method.check(loop, outer, data)

    def estimate(data: StepData, carry: Carry) -> Estimate:
        return method.estimate(loop, outer, data, carry)

    before = trees.map_leaves(Tensor.clone, (outer, data, carry))
    once, twice = estimate(data, carry), estimate(data, carry)
    _assert(_same(before, (outer, data, carry)), "An estimate changes none of its arguments")
    _assert(_same(once, twice), "Two estimates of the same arguments are equal, bit for bit")
    _check_estimate(once, outer, carry)
    cost = method.cost(STEPS, outer, data.init, once.metrics)
    _assert(float(cost.inner_grads) >= 0 and float(cost.hvps) >= 0, "A cost is at least zero")
    second = estimate(data, once.carry)
    _assert(_shapes(second.carry) == _shapes(once.carry), "The carry keeps its structure")
    _check_reload(once.carry)

    several = [drawn()._replace(noise=data.noise) for _ in range(3)]
    singles = [estimate(one, method.init(outer, loop.fresh(outer, one))) for one in several]
    parts = {
        name: _stack([getattr(one, name) for one in several])
        for name in ("init", "inner", "outer", "extra", "draws")
    }
    stacked = StepData(**parts, noise=data.noise, whole={})

    def from_init(data: StepData) -> Params:
        return estimate(data, method.init(outer, loop.fresh(outer, data))).grad

    mapped = autodiff.vmap(from_init, in_dims=(episodes.PER_EPISODE,))(stacked)
    looped = _stack([single.grad for single in singles])
    _assert(_close(mapped, looped), "Mapping over episodes equals a loop")


def check_task(task: Task, num_steps: int = 2) -> None:
    """Checks that losses are scalar and twice differentiable, and that seeds decide everything.

    Args:
        task: The task, as its yaml builds it.
        num_steps: Inner steps to sample.
    """
    _check_engine(task, POSING)
    with torch.no_grad():
        device = next(iter(task.init_outer(torch.Generator()).values()), torch.empty(0)).device
        outer, again = (task.init_outer(torch.Generator().manual_seed(1)) for _ in range(2))
        _assert(_same(outer, again), "One seed gives one outer start")
        data, same, other = (
            task.sample(num_steps, torch.Generator(device).manual_seed(seed)) for seed in (1, 1, 2)
        )
        _assert(_same(data, same), "One seed gives one sample")
        _assert(_shapes(data) == _shapes(other), "Samples of all seeds have one structure")
        one = data
        if task.episodes is not None:
            leading = {leaf.shape[0] for leaf in trees.leaves(tuple(data)[:3])}
            _assert(leading == {task.episodes}, "Data lead with the dimension of episodes")
            one = episodes.first(data)
        _assert(one.num_steps == num_steps, "Inner data have one minibatch for each inner step")
        for solver_start in (Cold(), Learned()):
            loop = InnerLoop(task, GradientDescent(lr=1e-3), solver_start)
            everything = {**loop.outer_init(one, outer), **outer}
            _check_losses(loop, everything, one)
        projected = task.project_outer(outer)
        _assert(
            _shapes(projected) == _shapes(outer), "Projection keeps the outer parameters' shapes"
        )
        _assert(_close(task.project_outer(projected), projected), "Projecting twice is once")
        _check_scores(task, InnerLoop(task, GradientDescent(lr=1e-3), Learned()), outer, data, one)


def check_solver(solver: InnerSolver[Any]) -> None:
    """Checks purity and memory of an inner solver, and that a start may replace its `inner`."""
    _check_engine(solver, STEPPING)
    with computing_in(torch.float64):
        task = _quadratic()
        data = task.sample(STEPS, torch.Generator().manual_seed(0))
        outer = {"lam": torch.linspace(-1.0, 1.0, 3)} | solver.outer_init(data.init)
        loop = InnerLoop(task, solver, Cold())
        data = loop.drawn(outer, data, torch.Generator().manual_seed(0))
        oracle = MinibatchOracle(
            *(task, outer, data.inner_at(0), data.outer), draws=data.draws_at(0)
        )
        here, there = data.init, {"z": torch.ones_like(data.init["z"])}
        state = solver.step(oracle, solver.init(here))
        before = trees.map_leaves(Tensor.clone, state)
        _assert(
            _same(solver.step(oracle, state), solver.step(oracle, state)),
            "Two steps from the same state are equal, bit for bit",
        )
        _assert(_same(before, state), "A step changes none of its arguments")
        _assert(_shapes(state) == _shapes(solver.init(here)), "A state keeps its structure")
        replaced: SolverState = {**solver.init(here), "inner": there}
        _assert(
            _close(
                solver.step(oracle, replaced)["inner"],
                solver.step(oracle, solver.init(there))["inner"],
            ),
            "The first step reads no memory that depends on where the solver was begun",
        )
        _check_reload(state)


def _served(method: Hypergradient[Any], task: Task, outer: Params) -> InnerLoop:
    """A loop on the task that the method serves: of gradient descent unless it wants samples."""
    loops = [
        InnerLoop(task, solver, Cold())
        for solver in (GradientDescent(lr=0.1), Langevin(lr=0.1, tau=0.1))
    ]
    for loop in loops:
        data = task.sample(STEPS, torch.Generator().manual_seed(0))
        with contextlib.suppress(ValueError):
            method.check(loop, outer, loop.drawn(outer, data, torch.Generator().manual_seed(0)))
            return loop
    return loops[0]


def _check_engine(part: object, functions: tuple[str, ...]) -> None:
    """Checks that no function takes a derivative from torch itself."""
    for use in engines_used(part, functions):
        raise AssertionError(str(use))


def _check_estimate(estimate: Estimate, outer: Params, carry: Carry) -> None:
    _assert(_shapes(estimate.grad) == _shapes(outer), "The gradient has the outer keys and shapes")
    _assert(estimate.loss.shape == (), "The loss is a scalar")
    _assert(all(m.shape == () for m in estimate.metrics.values()), "Metrics are scalars")
    _assert("inner" in estimate.carry, "The carry holds the inner state, as 'inner'")
    _assert(_shapes(estimate.carry) == _shapes(carry), "The carry keeps its structure")
    attached = [leaf for leaf in trees.leaves(tuple(estimate)) if leaf.requires_grad]
    _assert(not attached, "Nothing returned is attached to a graph")


def _check_losses(loop: InnerLoop, outer: Params, data: StepData) -> None:
    task, state = loop.problem, loop.begin(outer, data, loop.fresh(outer, data))
    inner, batch = state["inner"], data.inner_at(0)
    for loss, losses_batch in ((task.inner_loss, batch), (task.outer_loss, data.outer)):
        _assert(loss(inner, outer, losses_batch).shape == (), "Losses are scalars")

    field = inner_field(task, inner, outer, batch)
    _assert(_shapes(field) == _shapes(inner), "The inner field has the keys and shapes of z")

    def squared_slope(inner: Params, outer: Params) -> Tensor:
        slope = inner_field(task, inner, outer, batch)
        return torch.stack([part.square().sum() for part in slope.values()]).sum()

    if has_outputs(task):
        outputs = task.inner_outputs(inner, outer, batch)
        found = task.loss_of_outputs(outputs, inner, outer, batch)
        whole = task.inner_loss(inner, outer, batch)
        _assert(_close(found, whole), "The inner loss is the loss of the outputs")
    both = autodiff.grad(squared_slope, (0, 1))(inner, outer)
    finite = all(bool(leaf.isfinite().all()) for leaf in trees.leaves(both))
    _assert(finite, "The inner loss has finite second derivatives at the start")


def _check_scores(
    task: Task, loop: InnerLoop, outer: Params, data: StepData, one: StepData
) -> None:
    everything = {**loop.outer_init(one, outer), **outer}
    state = episodes.fresh(loop, everything, data)
    once, twice = (task.evaluate(loop, everything, state["inner"]) for _ in range(2))
    _assert(bool(once) and all(s.shape == () for s in once.values()), "Scores are scalars")
    _assert(_same(once, twice), "Two evaluations of the same parameters are equal")
    with tempfile.TemporaryDirectory() as folder:
        files = task.write_results(Path(folder), loop, everything, state["inner"])
        _assert(all(path.stat().st_size > 0 for path in files), "The learned result is written")


def _check_reload(state: Tree) -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder) / "state.pt", {"state": state})
        loaded = checkpoint.load(Path(folder) / "state.pt")["state"]
    _assert(_same(loaded, state), "Memory survives a checkpoint")


class _Contained(Quadratic):
    """A quadratic whose outer loss contains the outer parameters, as some methods ask for."""

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return super().outer_loss(inner, outer, batch) + 0.1 * outer["lam"].square().sum()


def _quadratic() -> Quadratic:
    generator = torch.Generator().manual_seed(0)
    return _Contained(5, 3, noise=0.1, device=torch.device("cpu"), generator=generator)


def _assert(holds: bool, sentence: str) -> None:
    if not holds:
        raise AssertionError(f"{sentence}: not so here.")


def _shapes(tree: Tree) -> Tree:
    if isinstance(tree, Tensor):
        return tuple(tree.shape), tree.dtype
    if isinstance(tree, dict):
        return {name: _shapes(value) for name, value in tree.items()}
    return [_shapes(value) for value in tree]


def _stack(each: list[Params]) -> Params:
    return {name: torch.stack([one[name] for one in each]) for name in each[0]}


def _same(left: Tree, right: Tree) -> bool:
    pairs = zip(trees.leaves(left), trees.leaves(right), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def _close(left: Tree, right: Tree) -> bool:
    pairs = zip(trees.leaves(left), trees.leaves(right), strict=True)
    rtol = 1e4 * torch.finfo(torch.get_default_dtype()).eps  # some thousand roundings
    return all(torch.allclose(one, other, rtol=rtol, atol=0.01 * rtol) for one, other in pairs)
