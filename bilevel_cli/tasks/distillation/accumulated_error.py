"""How far training on learned images strays from an expert, stretch after stretch."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.tasks.distillation.objectives.trajectory_matching import distance2

Draw = Callable[[int, torch.Generator], StepData]


@dataclass(frozen=True)
class Segments:
    """The accumulated trajectory error (FTD, Du et al., 2023, arXiv:2211.11004).

        e_n = mean over experts of |z^n - theta_n|^2 / |theta_0 - theta_n|^2

    theta_n is an expert after n stretches of its training, z^n what training on the learned images
    comes to in n inner solves, of which the first begins at theta_0 and each other one where the
    last has ended. 0 is on the expert's course; 1 is as far from it as its start.

    Trajectory matching lowers e_1 of starts on the course. A network that is trained on the images
    alone leaves the course after the first stretch, and e_n says how far. It costs `count` inner
    solves for each expert.

    Args:
        count: Stretches.
        steps: Inner steps of one; those of the run.
    """

    count: int
    steps: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"Segments needs count >= 1, got count={self.count}.")

    def check(self, course: Params | None) -> None:
        """Refuses networks without a course of that length."""
        found = 0 if course is None else next(iter(course.values())).shape[1] - 1
        if found < self.count:
            raise ValueError(
                f"Segments needs experts of count={self.count} stretches, got {found}. Use "
                "task/networks=experts, with epochs >= count * span."
            )

    def errors(
        self, loop: InnerLoop, outer: Params, course: Params, draw: Draw, seed: int
    ) -> dict[str, Tensor]:
        """`accumulated_error_n` for n from 1 to `count`, 0-dim.

        Args:
            loop: The inner loop of the run.
            outer: The outer parameters.
            course: The experts, with leading dimensions [experts, count + 1].
            draw: The data of an inner problem of so many steps; its start is not used.
            seed: Of what is drawn.
        """
        source = torch.Generator(next(iter(course.values())).device).manual_seed(seed)
        strays = []
        for expert in range(len(next(iter(course.values())))):
            ages = [
                {name: value[expert, n] for name, value in course.items()}
                for n in range(self.count + 1)
            ]
            z, found = ages[0], []
            for target in ages[1:]:
                data = loop.drawn(outer, draw(self.steps, source)._replace(init=z), source)
                z = loop.run(loop.fresh(outer, data), outer, data)["inner"]
                found.append(distance2(z, target, target) / distance2(ages[0], target, target))
            strays.append(torch.stack(found))
        means = torch.stack(strays).mean(0).unbind()
        return {f"accumulated_error_{n}": mean for n, mean in enumerate(means, 1)}
