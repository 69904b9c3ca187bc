"""Regression of sinusoids from a few points each."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bilevel_cli.core import draws, episodes, trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, OutputLoss, StepData
from bilevel_cli.core.start import LEARNED_PREFIX
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params
from bilevel_cli.nn.building import build


class Sinusoid(OutputLoss, Task):
    """Regression of y = amplitude * sin(x - phase) (Finn et al., 2017, arXiv:1703.03400).

    An episode draws amplitude and phase, uniformly, and `shots` support and `queries` query points
    at uniform x. Both losses are mean squared errors, of the support and of the query points; the
    outer parameters are the start of the inner ones, `init.*`.

    A learner that does not adapt cannot fall below the error of -c cos(x), the mean of all
    sinusoids at x: 3.006 with the published ranges, where always answering 0 makes 4.252.

    Scores: mean query error over `eval_episodes` new episodes, after each number of inner steps in
    `eval_steps`, the largest number first; then the half-width of the 95 % confidence interval of
    the first of these. The episodes are the same at every evaluation.

    Args:
        shots: Support points.
        queries: Query points.
        episodes: Training episodes of an outer step.
        amplitude: Least and largest.
        phase: Least and largest.
        inputs: Least and largest x.
        eval_episodes: Episodes of an evaluation.
        eval_steps: Numbers of inner steps after which an evaluation takes the error.
        model: The regressor, as conf/model builds it.
        device: Where the points live.
        generator: Draws the episodes of evaluations.
    """

    def __init__(
        self,
        shots: int,
        queries: int,
        episodes: int,
        amplitude: list[float],
        phase: list[float],
        inputs: list[float],
        eval_episodes: int,
        eval_steps: list[int],
        model: Callable[..., nn.Module],
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        counts = {
            "shots": (shots, 1),
            "queries": (queries, 1),
            "episodes": (episodes, 1),
            "eval_episodes": (eval_episodes, 2),  # two, for a standard error
        }
        for name, (count, least) in counts.items():
            if count < least:
                raise ValueError(
                    f"Sinusoid needs {name} >= {least}, got {name}={count}. Set task.{name}."
                )
        ranges = {"amplitude": amplitude, "phase": phase, "inputs": inputs}
        for name, ends in ranges.items():
            if len(ends) != 2 or not -math.inf < ends[0] <= ends[1] < math.inf:
                raise ValueError(
                    f"Sinusoid needs {name} as [least, largest], got {name}={ends}. "
                    f"Set task.{name}."
                )
        if not eval_steps or min(eval_steps) < 0:
            raise ValueError(
                f"Sinusoid needs eval_steps, each >= 0, got {eval_steps}. Set task.eval_steps."
            )
        self.shots, self.queries = shots, queries
        self.episodes: int = episodes
        self.ranges = {name: (ends[0], ends[1]) for name, ends in ranges.items()}
        self.eval_episodes, self.eval_steps = eval_episodes, sorted(eval_steps)
        self.eval_seed = int(torch.randint(2**62, (1,), generator=generator))
        self.device = device
        self.model = build(model, (1,), 1, device, generator)

    def init_outer(self, generator: torch.Generator) -> Params:
        return trees.prefixed(LEARNED_PREFIX, self.model.init(generator))

    def init_inner(self, outer: Params, data: StepData) -> Params:
        return trees.under(LEARNED_PREFIX, outer)

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        return self.draw(self.episodes, num_steps, generator)

    def draw(self, count: int, num_steps: int, generator: torch.Generator) -> StepData:
        """Draws episodes.

        Args:
            count: Number of episodes.
            num_steps: Inner steps, all on the same support points.
            generator: On the task's device.
        """

        def uniform(name: str, points: int) -> Tensor:
            low, high = self.ranges[name]
            drawn = draws.uniform(count, points, 1, generator=generator)
            return low + (high - low) * drawn

        amplitude, phase = uniform("amplitude", 1), uniform("phase", 1)
        x = uniform("inputs", self.shots + self.queries)
        points = {"x": x, "y": amplitude * (x - phase).sin()}
        inner = {
            name: value[:, None, : self.shots].expand(count, num_steps, self.shots, 1)
            for name, value in points.items()
        }
        return StepData({}, inner, {name: value[:, self.shots :] for name, value in points.items()})

    def inner_outputs(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self.model.apply(inner, batch["x"])

    def loss_of_outputs(
        self, outputs: Tensor, inner: Params, outer: Params, batch: Batch
    ) -> Tensor:
        # mse_loss has no second derivative in forward mode.
        return (outputs - batch["y"]).square().mean()

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self.inner_loss(inner, outer, batch)

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        found = self.evaluate_after(loop, outer, self.eval_steps)
        scores = {f"mse_{count}": found[count]["mse"] for count in reversed(self.eval_steps)}
        return scores | {"ci95": found[self.eval_steps[-1]]["ci95"]}

    def evaluate_after(
        self, loop: InnerLoop, outer: Params, counts: Sequence[int]
    ) -> dict[int, dict[str, Tensor]]:
        generator = torch.Generator(self.device).manual_seed(self.eval_seed)
        data = self.draw(self.eval_episodes, max(1, *counts), generator)
        data = episodes.drawn(loop, outer, data, generator)

        def errors(episode: StepData) -> dict[str, Tensor]:
            state = loop.begin(outer, episode, loop.fresh(outer, episode))
            passed = zip(counts, loop.passing(state, outer, episode, counts), strict=True)
            return {str(n): self.outer_loss(s["inner"], outer, episode.outer) for n, s in passed}

        scores = {}
        for count, values in episodes.each(errors)(data).items():
            error = values.std() / math.sqrt(self.eval_episodes)
            scores[int(count)] = {"mse": values.mean(), "ci95": 1.96 * error}
        return scores

    def save_result(self, directory: Path, outer: Params, inner: Params) -> list[Path]:
        """Writes `initialisation.pt`, a state_dict of the model: the learned start.

        It writes `outer.pt` too where more was learned, such as step sizes.
        """
        path, start = directory / "initialisation.pt", trees.under(LEARNED_PREFIX, outer)
        with path.open("wb") as file:
            whole = self.model.state_dict(start)
            torch.save({name: value.cpu() for name, value in whole.items()}, file)
        more = len(outer) > len(start)
        return [path, *super().save_result(directory, outer, inner)] if more else [path]
