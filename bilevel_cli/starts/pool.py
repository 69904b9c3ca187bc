"""Inner solves that take turns, each continued for a while and then begun afresh."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.growth import Part, Parts, Sizes
from bilevel_cli.core.solver import SolverState, counter
from bilevel_cli.core.start import Start
from bilevel_cli.core.trees import Params


@dataclass(frozen=True)
class Pool(Start):
    """A pool of inner iterates, as distillation methods keep one of networks.

    Outer steps visit the members in turn. A visit continues the member's last inner solve, with the
    solver's memory; every `renew_every`-th visit begins afresh instead. Renewals are spread, so
    that members have different ages at any time. One member, renewed every n-th step, is the inner
    loop of gradient matching (Zhao et al., 2021, arXiv:2006.05929); several members are the pool of
    FRePo (Zhou et al., 2022, arXiv:2206.00719). The hypergradient takes a continued start as a
    constant.

    Memory: `size` solver states.

    Args:
        size: Members of the pool.
        renew_every: Visits of a member from one fresh start to the next.
    """

    size: int
    renew_every: int

    remembers = True

    def __post_init__(self) -> None:
        for name, count in vars(self).items():
            if count < 1:
                raise ValueError(f"Pool needs {name} >= 1, got {name}={count}. Set start.{name}.")

    def __call__(self, fresh: SolverState, outer: Params, previous: SolverState) -> SolverState:
        del outer
        memory: Any = previous
        if "pool" not in memory:  # before the first outer step
            return fresh
        member, visit = self._turn(memory["turn"])
        offset = torch.div(member * self.renew_every, self.size, rounding_mode="floor")
        renewed = ((visit == 0) | ((visit + offset) % self.renew_every == 0)).squeeze()  # 0-dim

        def choose(new: Tensor, kept: Tensor) -> Tensor:
            return torch.where(renewed, new, kept.index_select(0, member)[0])

        chosen: SolverState = trees.map_leaves(choose, fresh, memory["pool"])
        return chosen

    def remember(self, previous: SolverState, finished: SolverState) -> SolverState:
        memory: Any = previous
        if "pool" in memory:
            turn, pool = memory["turn"], memory["pool"]
        else:
            turn = counter(finished["inner"], 0.0)
            pool = trees.map_leaves(lambda x: x.expand(self.size, *x.shape), finished)
        member, _ = self._turn(turn)

        def put(kept: Tensor, new: Tensor) -> Tensor:
            return kept.index_copy(0, member, new[None])

        kept: Any = {**finished, "pool": trees.map_leaves(put, pool, finished), "turn": turn + 1}
        return kept

    def holds(self, sizes: Sizes) -> Parts:
        what = f"the states of {self.size} members, before and after a step"
        return (Part(what, 2 * self.size * sizes.state, ("start.size",)),)

    def _turn(self, turn: Tensor) -> tuple[Tensor, Tensor]:
        """Which member's turn it is, of shape [1], and how often it was visited before."""
        count = turn.long().reshape(1)
        return count % self.size, torch.div(count, self.size, rounding_mode="floor")
