"""One inner problem by several processes, each of which takes a part of every minibatch."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from bilevel_cli.core.episodes import OuterStep
from bilevel_cli.core.joined import Company, JoinedProblem, differing, examples_of
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Carry, Estimate, Hypergradient
from bilevel_cli.core.problem import Batch, StepData, follows_loss, posed_by, projected
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params
from bilevel_cli.machine.ranks import Ranks, Undivided, cut

T = TypeVar("T")

ONE = "one process, in which replicas=N takes N seeds together"


def sharing(ranks: Ranks, task: Task) -> Ranks:
    """The ranks as they share the work of a task: its episodes, or the minibatches of a single one.

    Args:
        ranks: The processes of the run.
        task: Its task.
    """
    alone = ranks.count == 1
    return ranks if alone or task.episodes is not None else Minibatches(ranks)


class Minibatches(Undivided):
    """Ranks that share the examples of each minibatch of one inner problem.

    All have the same parameters and the same memory, draw the same minibatches, and take the same
    steps, with losses and gradients that they add up (`JoinedProblem`). After a sum all have the
    same bits: gloo and NCCL compute each entry of a sum once and hand it to all. So ranks on like
    machines never drift apart. What they add up outside of outer steps, to score or to compare with
    another method, each computes in whole.

    Args:
        ranks: The processes.
    """

    exchanges_within = True

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.count, self.first = ranks, ranks.count, ranks.first
        self.company = Company(ranks.part, ranks.total)

    def check(self, task: Task) -> None:
        pass  # what can be shared shows in its losses: see `fits`

    def fits(
        self, method: Hypergradient[Any], loop: InnerLoop, outer: Params, data: StepData
    ) -> None:
        name, task = type(method).__name__, type(posed_by(loop.problem)).__name__
        start = loop.problem.init_inner(outer, data)
        if method.takes_products(data.num_steps, outer, start):
            raise ValueError(
                f"Several processes share the minibatches of {task} where a method takes first "
                f"derivatives alone, got {name}, which takes products with second ones. Use "
                f"method=sama, method=f2sa or method=darts; or {ONE}."
            )
        if not follows_loss(loop.problem):
            raise ValueError(
                f"Several processes share the losses of a task, got {task}, whose inner steps "
                f"follow another direction than the gradient of a loss. Use {ONE}."
            )
        problem = loop.problem
        # Away from the start, where weights and predictions of examples may all be equal.
        inner, at = _moved(start), projected(problem, _moved(outer))
        for which, loss, batch in (
            ("inner", problem.inner_loss, data.inner_at(-1)),
            ("outer", problem.outer_loss, data.outer),
        ):
            self._check_examples(task, which, batch)
            parts = [
                {n: cut(x, rank, self.count) for n, x in batch.items()}
                for rank in range(self.count)
            ]
            if difference := differing(loss, inner, at, batch, parts):
                raise ValueError(
                    f"Several processes need an {which} loss that is a mean over examples, got "
                    f"one of {task} in which examples meet, such as by batch normalisation or "
                    f"normalised weights: {difference}. Use another model or task, or {ONE}."
                )

    def _check_examples(self, task: str, which: str, batch: Batch) -> None:
        examples = examples_of(batch)
        if examples is None:
            shapes = ", ".join(f"{n} {list(x.shape)}" for n, x in batch.items()) or "none"
            raise ValueError(
                f"Several processes share the examples of one inner problem, got {task}, whose "
                f"{which} batches have tensors without a leading dimension in common: "
                f"{shapes[:120]}. Use a task with examples or episodes, or {ONE}."
            )
        if examples < self.count:
            raise ValueError(
                f"{self.count} processes need an example each, got {task} with {which} batches of "
                f"{examples}. Use torchrun --nproc-per-node={examples}, or larger batches."
            )

    def posed(self, loop: InnerLoop) -> InnerLoop:
        return dataclasses.replace(loop, problem=JoinedProblem(loop.problem, self.company))

    def shared(self, step: OuterStep) -> OuterStep:
        def estimate(outer: Params, data: StepData, carry: Carry) -> Estimate:
            # What raises here but for a loss should raise on all ranks, which compute the same: see
            # `alike`. Where a loss has failed before, the rest is what comes of its numbers.
            try:
                with self.company.sharing():
                    found = step(outer, data, carry)
            except Exception:
                if self.company.error is not None:
                    raise self.company.error from None
                raise
            return self.ranks.agree(self.company.error or found)

        return estimate

    def agree(self, found: Estimate | Exception) -> Estimate:
        return self.ranks.agree(found)

    def alike(self) -> bool:
        return self.ranks.alike()

    def once(self, fn: Callable[[], T]) -> T:
        return self.ranks.once(fn)

    def agreed(self, requests: list[int]) -> list[int]:
        return self.ranks.agreed(requests)


def _moved(x: Params) -> Params:
    """Parameters at a random distance, the same on all ranks."""
    generator = torch.Generator().manual_seed(0)
    return {n: v + 0.1 * torch.randn(v.shape, generator=generator).to(v) for n, v in x.items()}
