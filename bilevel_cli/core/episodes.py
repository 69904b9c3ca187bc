"""Many inner problems under one set of outer parameters."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.host import is_host
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Estimate, Hypergradient
from bilevel_cli.core.problem import Batch, StepData, episodes_of
from bilevel_cli.core.solver import SolverState
from bilevel_cli.core.task import Task
from bilevel_cli.core.threads import on_cores
from bilevel_cli.core.trees import Params, Tree

OuterStep = Callable[[Params, StepData, Carry], Estimate]

# Noise belongs to the method, not to an episode.
PER_EPISODE = StepData(init=0, inner=0, outer=0, noise=None, extra=0, whole=0, draws=0)  # type: ignore[arg-type]


def outer_step(
    method: Hypergradient[Any],
    loop: InnerLoop,
    chunk_size: int | None = None,
    total: bool = False,
) -> OuterStep:
    """The outer step of `method`, over episodes where the problem has them.

    Args:
        method: The hypergradient method.
        loop: The inner loop, of a task.
        chunk_size: As in `each`.
        total: As in `over_episodes`.
    """

    def estimate(outer: Params, data: StepData, carry: Carry) -> Estimate:
        grad, loss, after, metrics = method.estimate(loop, outer, data, carry)
        kept = loop.start.remember(carry["inner"], after["inner"])
        # Not by _replace, which the compiler of torch 2.11 cannot follow.
        return Estimate(grad, loss, {**after, "inner": kept}, metrics)

    return over_episodes(estimate, chunk_size, total) if _has_episodes(loop) else estimate


def sample(
    task: Task,
    method: Hypergradient[Any],
    num_steps: int,
    generator: torch.Generator,
    extras: torch.Generator,
) -> StepData:
    """The data of one outer step, with the extra minibatches that the method asks for.

    Extra ones come from a generator of their own, so that all methods of one seed see the same
    minibatches in their inner loops; those of episodes belong to the episode, and so do not.

    Args:
        task: Draws the data.
        method: Says how many extra minibatches it takes.
        num_steps: Inner steps.
        generator: Draws all but the extra minibatches.
        extras: Draws those.
    """
    extra = method.extras(num_steps)
    if task.episodes is not None:
        return task.sample(num_steps + extra, generator).split(num_steps, axis=1)
    data = task.sample(num_steps, generator)
    return data._replace(extra=task.sample(extra, extras).inner) if extra else data


def drawn(loop: InnerLoop, outer: Params, data: StepData, generator: torch.Generator) -> StepData:
    """`data` with the random numbers of the inner steps; each episode has its own.

    As it is for a solver that takes none, whose runs pay nothing.

    Args:
        loop: The inner loop.
        outer: The outer parameters.
        data: The data of an outer step, of all episodes where there are some.
        generator: Draws them, on the device of the data.
    """
    if not _has_episodes(loop):
        return loop.drawn(outer, data, generator)
    count, steps = next(iter(data.inner.values())).shape[:2]
    draws = loop.draw(outer, first(data), count * steps, generator)
    apart = {name: value.reshape(count, steps, *value.shape[1:]) for name, value in draws.items()}
    return data._replace(draws=apart) if apart else data


def whole(task: Task, method: Hypergradient[Any], step: int) -> dict[str, Batch]:
    """All examples of both losses, at an outer step for which the method asked; else nothing.

    Args:
        task: The task.
        method: The method.
        step: Outer steps taken before this one.
    """
    every = method.whole_every
    return {} if every is None or step % every else task.whole()


def until_whole(task: Task, method: Hypergradient[Any], step: int) -> int | None:
    """Outer steps before the next one that is given all examples; None where none will be.

    Args: as `whole`.
    """
    every = method.whole_every
    return None if every is None or not task.whole() else -step % every


def fresh(loop: InnerLoop, outer: Params, data: StepData) -> SolverState:
    """The fresh inner state, one for each episode where there are some."""
    if not _has_episodes(loop):
        return loop.fresh(outer, data)
    return each(lambda data: loop.fresh(outer, data))(data)


def begin(
    method: Hypergradient[Any], loop: InnerLoop, outer: Params, data: StepData, state: SolverState
) -> Carry:
    """The memory of `method` before its first step, one for each episode where there are some."""
    if not _has_episodes(loop):
        return method.begin(loop, outer, data, state)
    begun = autodiff.vmap(
        lambda data, state: method.begin(loop, outer, data, state), in_dims=(PER_EPISODE, 0)
    )
    return begun(data, state)


def over_episodes(
    estimate: OuterStep, chunk_size: int | None = None, total: bool = False
) -> OuterStep:
    """Extends an outer step to a leading episode dimension of data and carry.

    The gradient, loss and metrics are means over episodes; the carry stays one per episode.

    Args:
        estimate: The outer step of a single inner problem.
        chunk_size: As in `each`.
        total: Sums instead of means, where other processes have the other episodes.
    """
    reduce = torch.sum if total else torch.mean

    def batched(outer: Params, data: StepData, carry: Carry) -> Estimate:
        def episode(data: StepData, carry: Carry) -> Estimate:
            return estimate(outer, data, carry)

        grad, loss, carry, metrics = each(episode, chunk_size)(data, carry)
        floats = {name: value.to(loss.dtype) for name, value in metrics.items()}
        grad, floats = ({n: reduce(x, 0) for n, x in tree.items()} for tree in (grad, floats))
        return Estimate(grad, reduce(loss, 0), carry, floats)

    return batched


def each(fn: Callable[..., Tree], chunk_size: int | None = None) -> Callable[..., Tree]:
    """Extends fn(data, *trees) to a leading episode dimension of its arguments and its result.

    On a CPU, episodes run one by one on as many threads as torch was given, one core each:
    0.65 of the time of whole-machine kernels on Conv-4, and a ninth of the memory of vmap. On
    other devices, and inside another mapping, they are mapped. Same numbers to rounding.

    Args:
        fn: A function of one episode: its StepData first. It must be pure, since threads share what
            it refers to; a torch module is not, but `models.functional` makes it so.
        chunk_size: Episodes that a mapping holds in memory at once. None for all.
    """

    def extended(data: StepData, *rest: Tree) -> Tree:
        some = next(iter(data.inner.values()))
        if is_host(some.device) and not autodiff.mapped():
            return _threaded(fn, data, *rest)
        in_dims = (PER_EPISODE, *(0 for _ in rest))
        return autodiff.vmap(fn, in_dims=in_dims, chunk_size=chunk_size)(data, *rest)

    return extended


def first(data: StepData) -> StepData:
    """The data of the first episode alone."""
    return _at((data, ()), 0)[0]


def refuse_memory(task: Task, loop: InnerLoop, method: Hypergradient[Any]) -> None:
    """Raises ValueError where a method or a start remembers what new episodes would invalidate."""
    if task.episodes is None:
        return
    # The method first: one that remembers often brings a start that does, and is the reason.
    for part, way_out in (
        (method, "a method without memory, such as method=reverse or method=iaptt"),
        (loop.start, "start=cold or start=learned, or a method without start=warm: method=reverse"),
    ):
        if part.remembers:
            raise ValueError(
                f"{type(part).__name__} needs the same inner problem at every outer step, got "
                f"{type(task).__name__}, which draws new episodes. Use {way_out}."
            )


def _has_episodes(loop: InnerLoop) -> bool:
    return episodes_of(loop.problem) is not None


def _threaded(fn: Callable[..., Tree], data: StepData, *rest: Tree) -> Tree:
    count = next(iter(data.inner.values())).shape[0]

    def run(episode: int) -> Tree:
        one, others = _at((data, rest), episode)
        return fn(one, *others)

    return _stack(on_cores(run, range(count)))


def _at(arguments: tuple[StepData, Tree], episode: int) -> tuple[StepData, Tree]:
    def one(leaf: Tensor) -> Tensor:
        return leaf[episode]

    data, rest = arguments
    parts = {
        name: part if name == "noise" else trees.map_leaves(one, part)
        for name, part in data._asdict().items()
    }
    return StepData(**parts), trees.map_leaves(one, rest)


def _stack(results: list[Tree]) -> Tree:
    some = results[0]
    if isinstance(some, Tensor):
        return torch.stack(results)
    if isinstance(some, dict):
        return {name: _stack([result[name] for result in results]) for name in some}
    stacked = [_stack(list(parts)) for parts in zip(*results, strict=True)]
    return some._make(stacked) if hasattr(some, "_make") else tuple(stacked)
