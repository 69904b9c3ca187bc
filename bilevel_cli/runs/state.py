"""All that moves in a run: parameters, memory, random numbers, and what was spent."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import episodes, trees
from bilevel_cli.core.growth import Parts
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Cost, Estimate, cost_of
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.random import (
    FIRST_EXTRAS,
    FIRST_SAMPLE,
    INITIALISATION,
    Streams,
    generator,
)
from bilevel_cli.core.trees import Params, Scalar, Tree
from bilevel_cli.machine.ranks import Ranks
from bilevel_cli.methods.parts import graphs
from bilevel_cli.metrics.base import StepView
from bilevel_cli.runs import averaged, checkpoint, foresight
from bilevel_cli.runs.ahead import Ahead
from bilevel_cli.runs.experiment import Experiment, Machine
from bilevel_cli.runs.parameter_groups import grouped
from bilevel_cli.runs.plain_step import plain_step
from bilevel_cli.runs.plan import Plan

Inputs = tuple[Params, StepData, Any]  # of an outer step: outer, data, carry
COSTS = ("inner_grads", "hvps")
# Of a step, by its number: 0-dim tensors, by column.
Measure = Callable[[int, Inputs, Estimate], Mapping[str, Tensor]]


class RunState:
    """The state of a run between two outer steps.

    Args:
        experiment: What is computed.
        machine: Where.
        plan: The seed, and the schedule.

    Attributes:
        outer: The outer parameters; they and their average are changed in place.
        average: Of the outer parameters, where one is asked for.
        carry: What the method remembers; with several processes, of this one's episodes.
        optimizer: Of the outer parameters.
        scheduler: Of its step size.
        random: The random numbers of outer steps.
        step: Outer steps taken.
        inner_grads: Inner gradients taken, of all episodes.
        hvps: Second-order products taken, likewise.
        ahead: Draws the data of outer steps, many of them at once.
        drawn: What it has drawn for the next outer step.
        intended: Takes the step of the optimizer, where it is known with the estimate.
    """

    def __init__(self, experiment: Experiment, machine: Machine, plan: Plan) -> None:
        self.experiment, self.machine, self.plan = experiment, machine, plan
        self.random = Streams(plan.seed, machine.device)
        self.step = 0
        self.inner_grads: Scalar = 0
        self.hvps: Scalar = 0
        with torch.no_grad():
            self._begin()
        self.scheduler = experiment.scheduler(self.optimizer)
        self._optimize: Callable[[], Any] | None = None  # a step, once the first one is taken
        self.ahead: Ahead | None = None
        self.drawn: Tree = None
        self.intended: Callable[[], None] | None = None

    @property
    def learned(self) -> Params:
        """The outer parameters that are scored and kept: their average, if one is asked for."""
        average, project = self.average.params, self.experiment.task.project_outer
        return project(average) if average else self.outer  # whose set may not be convex

    @property
    def over(self) -> bool:
        """Whether the run has taken its last outer step."""
        return self.plan.schedule.over(self.step, self.inner_grads)

    def due(self, every: int, step: int | None = None) -> bool:
        """Whether what happens every so many steps happens after this one. At the end all does.

        Args:
            every: Outer steps between two times.
            step: Outer steps taken; None for those of now.
        """
        step = self.step if step is None else step
        return step % every == 0 or self.plan.schedule.over(step, self.inner_grads)

    def draw(self) -> Inputs:
        """The inputs of the next outer step."""
        part, random = self.experiment, self.random
        steps = self.plan.schedule.inner_steps
        if self.ahead is not None:
            self.drawn = self.ahead.draw(1)
            data = self.ahead.data(trees.map_leaves(lambda x: x[0], self.drawn))
        else:
            data = episodes.sample(part.task, part.method, steps, random.sampling, random.extras)
            data = data._replace(noise=part.method.draw(self.outer, random.noise))
            data = episodes.drawn(part.loop, self.outer, data, random.draws)
        whole = episodes.whole(part.task, part.method, self.step)
        return self.outer, data._replace(whole=whole), self.carry

    def next_inputs(self) -> Inputs:
        """The inputs of the next outer step, for which the streams do not go on."""
        saved, drawn = self.random.saved(), self.drawn
        inputs = self.draw()
        self.random.restore(saved)
        self.drawn = drawn
        return inputs

    def take(self, inputs: Inputs, estimate: Estimate, measure: Measure) -> dict[str, Scalar]:
        """Takes the outer step. Returns what it reports, still on the device.

        Args:
            inputs: Of the step, as `draw` returned them.
            estimate: Of the step.
            measure: What a row reports besides; called before the parameters move.
        """
        report: dict[str, Scalar] = {
            "outer_loss": estimate.loss,
            "grad_norm": trees.norm(estimate.grad),
        }
        self._count(estimate.metrics)
        logs = self.due(self.plan.schedule.log_every, self.step + 1)
        if logs:
            report |= measure(self.step + 1, inputs, estimate)
        report |= {n: v for n, v in estimate.metrics.items() if n not in ("inner_grads", "hvps")}
        self.step += 1
        if logs and self.experiment.metrics:
            report |= self._probed(inputs, estimate)
        self.carry = estimate.carry
        self._move(estimate.grad)
        spent = self.experiment.task.spent(self.step)
        return {**report, "inner_grads": self.inner_grads, "hvps": self.hvps, **spent}

    def cost(self, carry: Any, metrics: dict[str, Tensor]) -> Cost:
        """What an outer step costs for one inner problem.

        Args:
            carry: A memory of the method, for the shapes of the inner parameters.
            metrics: What the step reports.
        """
        inner = carry["inner"]["inner"]
        if self.experiment.task.episodes is not None:
            inner = {name: value[0] for name, value in inner.items()}
        part, steps = self.experiment, self.plan.schedule.inner_steps
        return cost_of(part.method, part.loop, steps, self.outer, inner, metrics)

    def inner(self) -> Params:
        """The last inner iterate, of all episodes; every process must ask."""
        found: Params = self.machine.ranks.whole(self.carry["inner"]["inner"])
        return found

    def held(self) -> Parts:
        """What an estimate of one inner problem holds at once, as far as it is known."""
        part = self.experiment
        size = next(iter(self.outer.values())).element_size()
        graph = graphs.known(part.loop) // size
        return self._foreseen.parts(part.method, part.loop, graph)

    def halve_step_size(self) -> None:
        """Halves the step size of the outer optimizer, now and wherever its scheduler goes."""
        for group in self.optimizer.param_groups:
            group.update({name: group[name] / 2 for name in ("lr", "initial_lr") if name in group})
        self.scheduler.base_lrs = [lr / 2 for lr in self.scheduler.base_lrs]

    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds of it; every process must ask."""
        return {
            "step": self.step,
            "inner_grads": self.inner_grads,
            "hvps": self.hvps,
            "outer": self.outer,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "carry": self.machine.ranks.whole(self.carry),
            **self.random.saved(),
            **self.average.saved(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        device = self.machine.device
        self.step = saved["step"]
        self.inner_grads, self.hvps = (
            checkpoint.to_device(saved[name], device) for name in ("inner_grads", "hvps")
        )
        self.inner_grads = self._known(self.inner_grads)
        self.carry = self.machine.ranks.part(checkpoint.to_device(saved["carry"], device))
        trees.map_leaves(trees.written, self.outer, saved["outer"])
        self.average.restore(saved)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.random.restore(saved)

    def _begin(self) -> None:
        task, loop, method = self.experiment.task, self.experiment.loop, self.experiment.method
        seed, device = self.plan.seed, self.machine.device
        outer = task.init_outer(generator(seed, INITIALISATION))
        # A sample of its own: what a method and a start need first must not shift later samples.
        first = generator(seed, FIRST_SAMPLE, device)
        extras = generator(seed, FIRST_EXTRAS, device)
        steps = self.plan.schedule.inner_steps

        def drawn(count: int) -> StepData:  # by random numbers that nobody else sees
            again = generator(seed, FIRST_SAMPLE, device)
            some = episodes.sample(task, method, count, again, again)
            return episodes.drawn(loop, outer, some, again)

        foresight.check_minibatches(drawn, steps, device)
        data = episodes.sample(task, method, steps, first, extras)
        one = data if task.episodes is None else episodes.first(data)
        # The task's own entries win: one that learns its start keeps it under start=learned.
        outer = {**loop.outer_init(one, outer), **outer}
        if not outer:
            raise ValueError(
                "A run needs outer parameters, got a task, a start and a solver that learn none. "
                "Use start=learned to learn the start of the inner problem, or learn settings of "
                "the solver, such as by solver=gd_learned_lr with method=reverse."
            )
        self.outer = {name: value.detach().clone().to(device) for name, value in outer.items()}
        self.average = averaged.Average(self.plan.average, self.outer)
        self.optimizer = self.experiment.optimizer(grouped(self.outer, loop.start))
        data = episodes.drawn(loop, self.outer, data, first)
        one = data if task.episodes is None else episodes.first(data)
        self.machine.ranks.fits(method, loop, self.outer, one)
        method.check(loop, self.outer, one)
        self._foreseen = foresight.check_memory(method, loop, self.outer, one)
        fresh = episodes.fresh(loop, self.outer, data)
        begun = episodes.begin(method, loop, self.outer, data, fresh)
        self.carry = self.machine.ranks.part(begun)

    def _count(self, metrics: dict[str, Tensor]) -> None:
        cost, problems = self.cost(self.carry, metrics), self.experiment.task.episodes or 1
        self.inner_grads = self._known(self.inner_grads + problems * cost.inner_grads)
        self.hvps = self.hvps + problems * cost.hvps

    def _known(self, inner_grads: Scalar) -> Scalar:
        """Inner gradients as a number where there is a budget, which is asked for several times.

        Waits for the device there, once in a step, and only where a method counts on the device.
        """
        if self.plan.schedule.budget is None or not isinstance(inner_grads, Tensor):
            return inner_grads
        return inner_grads.item()

    def _probed(self, inputs: Inputs, estimate: Estimate) -> dict[str, Tensor]:
        """What the metrics say of the step."""
        view = viewed(self.step, self.experiment.loop, self.machine.ranks, inputs, estimate)
        found: dict[str, Tensor] = {}
        for metric in self.experiment.metrics.values():
            found |= metric.measure(view)
        return found

    def _move(self, grad: Params) -> None:
        """Moves the outer parameters against their hypergradient."""
        if self.intended is not None:
            self.intended()
            self.intended = None
            self.scheduler.step()
            return
        for name, value in self.outer.items():
            value.grad = grad[name]
        if self._optimize is None:
            self.optimizer.step()
            self._optimize = plain_step(self.optimizer)
        else:
            self._optimize()
        self.scheduler.step()
        for name, value in self.experiment.task.project_outer(self.outer).items():
            if value is not self.outer[name]:
                self.outer[name].copy_(value)
        self.average.take(self.outer, self.step)


def viewed(
    step: int, loop: InnerLoop, ranks: Ranks, inputs: Inputs, estimate: Estimate
) -> StepView:
    """What metrics see of an outer step, with the memory of all episodes; every process must ask.

    Args:
        step: The number of the outer step, from 1 on.
        loop: The inner loop.
        ranks: The processes that share the step.
        inputs: Of the step, before the parameters move.
        estimate: Of the step.
    """
    outer, data, carry = inputs
    before, after = map(ranks.whole, (carry, estimate.carry))
    return StepView(step, loop, outer, data, before, estimate._replace(carry=after))
