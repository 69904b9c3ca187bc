"""The outer loop."""

import logging
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

from bilevel_cli.core.method import Estimate
from bilevel_cli.core.trees import Scalar
from bilevel_cli.machine.memory import peak_memory_mb
from bilevel_cli.machine.signals import Interrupted
from bilevel_cli.nn import choosing
from bilevel_cli.records.table import Row
from bilevel_cli.runs import checkpoint, evaluation, resuming
from bilevel_cli.runs.clock import Clock
from bilevel_cli.runs.divergence import Divergence
from bilevel_cli.runs.doubts import Doubts
from bilevel_cli.runs.driver import drive
from bilevel_cli.runs.experiment import Experiment, Identity, Machine
from bilevel_cli.runs.fused import Answer, Asked, Fusion, Taken
from bilevel_cli.runs.judgement import Judgement
from bilevel_cli.runs.plan import Plan
from bilevel_cli.runs.progress import Progress
from bilevel_cli.runs.rows import NEW, Rows
from bilevel_cli.runs.saved_result import save_result
from bilevel_cli.runs.state import Inputs, RunState
from bilevel_cli.runs.stretch import Stretch
from bilevel_cli.vocabulary import CHECKPOINT

log = logging.getLogger(__name__)


class Runner:
    """Takes outer steps, writes what they report, and continues where an earlier run stopped.

    It alone knows the order: step, row, check, evaluate, save. Where several processes share the
    outer steps, each has one, and makes the same calls.

    Args:
        experiment: What is computed.
        machine: Where.
        plan: How long, how often, and what to do where numbers fail.
        identity: What a checkpoint must agree with to be continued.
        folder: Where train.csv, eval.csv, checkpoint.pt and the learned result go.

    Attributes:
        state: What moves from step to step.
        rows: What it reports.
        judgement: What it notes of its numbers, and what it doubts.
        divergence: What becomes of it where a number is not finite.
        outer_step: The outer step over the episodes of this process.
        estimate: The same, captured, and shared with other processes.
        fusion: Takes the outer steps between two rows as one function.
        clock: Counts the seconds of its outer steps.
        earlier: Seconds of computing that `clock` has not counted.
        saved: The step of the last checkpoint; None where there is none.
    """

    def __init__(
        self,
        experiment: Experiment,
        machine: Machine,
        plan: Plan,
        identity: Identity,
        folder: Path,
    ) -> None:
        experiment.check(plan.schedule, machine.ranks)
        self.experiment, self.machine, self.plan = experiment, machine, plan
        self.identity, self.folder = identity, folder
        self.state = RunState(experiment, machine, plan)
        solver, log_every = identity.settings.get("solver"), plan.schedule.log_every
        self.judgement = Judgement(experiment, machine, self.state.outer, solver, log_every)
        self.outer_step = machine.outer_step(experiment)
        self.estimate = machine.ranks.shared(machine.captured(self.outer_step))
        self.fusion = Fusion(self.state, self.judgement.flags, self.outer_step, machine.fuses)
        self.clock, self.earlier = Clock(), 0.0
        self._file = folder / CHECKPOINT
        self._saved = partial(machine.ranks.once, partial(checkpoint.exists, self._file))
        alike = machine.ranks.alike
        self.divergence = Divergence(plan.on_divergence, self._saved, alike, self.judgement)
        self.rows = Rows(folder, machine.ranks.first)
        self.saved: int | None = None
        saved = machine.ranks.once(partial(checkpoint.resume, self._file))
        if saved is not None:
            resuming.check(saved, {**self._state(), "tables": NEW}, identity, plan, folder)
            self._restore(saved)
            choosing.current().follow(saved.get("kernels", {}))
            self.saved = self.step
        positions = saved["tables"] if saved else NEW
        if self.rows.resume(positions, plan.resume == "force", machine.ranks):
            self.save()  # so that a run which is killed now finds what it knows of

    @property
    def name(self) -> str:
        return f"seed={self.plan.seed}"

    @property
    def step(self) -> int:
        return self.state.step

    @property
    def outer_steps(self) -> int:
        return self.plan.schedule.outer_steps

    @property
    def seconds(self) -> float:
        return self.earlier + self.clock.seconds

    @property
    def doubts(self) -> Doubts:
        return self.judgement.doubts

    def run(self) -> Row:
        """Takes the outer steps that remain, and returns the last scores.

        Raises:
            Diverged: A reported number is not finite. Its row and the last checkpoint are kept.
            Interrupted: By a signal. A checkpoint of the last step is kept.
        """
        (outcome,) = drive([self], lambda _, asked: [self.answer(asked[0])], self.machine.ranks)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def answer(self, asked: Asked) -> Answer:
        """What `steps` asks for, of this run alone."""
        if not self.fusion.on:
            return self.estimate(*asked)
        return self.fusion.answer(asked, self.estimate)

    def steps(self, progress: Progress, requests: list[int]) -> Generator[Any, Any, Row]:
        """As `run`, but asks for what it does not compute itself: see `Asked` and `Answer`.

        Args:
            progress: Told of each outer step.
            requests: The signals so far that ask to stop.
        """
        lost = self.rows.lost and self.state.due(self.plan.schedule.eval_every)
        if self.state.over and not lost:
            return self.rows.last_scores()
        evaluate = lost or not self.rows.scored
        scores = self._evaluate(progress) if evaluate else self.rows.last_scores()
        progress.report({}, scores)
        if self.plan.on_divergence == "restore" and not self._saved():
            self.save()
        while not self.state.over:
            try:
                if self.fusion.on and (steps := self.fusion.steps()):
                    yield from self._take_stretch(steps, progress, requests)
                else:
                    scores = yield from self._take_step(scores, progress, requests)
            except Exception as error:
                scores = self._go_back(error, progress)
        if self.divergence.last is not None:
            raise self.divergence.last
        return scores

    def save(self) -> None:
        """Writes a checkpoint of this step."""
        state = self._state()
        if self.machine.ranks.first:
            more = {"tables": self.rows.synced(), "kernels": choosing.current().taken}
            checkpoint.save(self._file, {**state, **more})
        self.saved = self.step

    def result(self) -> list[Path]:
        """Writes what the task learned, and returns the files; every process must ask."""
        inner = self.state.inner()
        if not self.machine.ranks.first:
            return []
        part = self.experiment
        return save_result(part.task, part.loop, self.state.learned, inner, self.folder)

    def _take_stretch(
        self, steps: int, progress: Progress, requests: list[int]
    ) -> Generator[Stretch, Taken, None]:
        """Some of the next outer steps, after which nothing is due."""
        taken = yield Stretch(steps)
        self.clock.stop()
        progress.step(taken.steps)
        if requests and taken.steps:
            self._keep(self.judgement.read(taken.report), requests)

    def _take_step(
        self, scores: Row, progress: Progress, requests: list[int]
    ) -> Generator[Any, Any, Row]:
        """One outer step and what is due after it. Returns the last scores."""
        self.clock.start()
        report = yield from self._advance()
        write, evaluate, save = map(self.state.due, self.plan.schedule.cadence)
        # Reading waits for the device: only for a row, and so that the clock is honest.
        row = self.judgement.read(report) if write or evaluate or save else None
        self.clock.stop()
        progress.step()
        if row is not None and write:
            costs = {"peak_memory_mb": round(peak_memory_mb(self.machine.device), 1)}
            self.rows.write("train", {**self._when(), **row, **costs})
        if row is not None:
            self.divergence.last = None
            self.judgement.doubt(self.step, row, self.state.outer)
            self.divergence.check_row(self.step, row)
        if evaluate:
            scores = self._evaluate(progress)
        if row is not None:
            progress.report(row, scores)
        if save or requests:
            self._keep(row or self.judgement.read(report), requests)
        return scores

    def _keep(self, row: Row, requests: list[int]) -> None:
        """Saves a step whose numbers are finite, and stops if that is requested."""
        self.divergence.check_row(self.step, row)
        self.divergence.check_outer(self.step, self.state.outer)
        if self.divergence.last is None:
            self.save()
        if requests:
            raise Interrupted(requests[0])

    def _advance(self) -> Generator[Inputs, Estimate, dict[str, Scalar]]:
        """One outer step. Returns what it reports, still on the device."""
        inputs = self.state.draw()
        estimate = yield inputs
        self.clock.start()  # where runs share it, another one has stopped it
        report = self.state.take(inputs, estimate, self.judgement.measure)
        self.judgement.look(self.step, estimate.grad, self.state.outer)
        return report

    def _evaluate(self, progress: Progress) -> Row:
        with progress.evaluating():
            scores = evaluation.scores(self.state)
        self.rows.write("eval", {**self._when(), **scores})
        self.divergence.check_row(self.step, scores)
        return scores

    def _go_back(self, error: Exception, progress: Progress) -> Row:
        """Restores the last checkpoint, with half the outer step size; returns its scores.

        Costs that were paid stay: seconds, inner gradients and products count what was lost too.

        Raises:
            Exception: `error`, where the run is to stop or did not diverge.
        """
        state, ranks = self.state, self.machine.ranks
        # Ranks differ in their episodes, whose memory the next step ignores, and must not in this.
        watched = state.outer if ranks.count > 1 else (state.outer, state.carry["inner"])
        diverged = self.divergence.to_go_back(error, self.step, watched)
        self.clock.stop()
        step, earlier, restores = self.step, self.earlier, self.divergence.restores
        paid = state.inner_grads, state.hvps
        saved = ranks.once(partial(checkpoint.load, self._file))
        self._restore(saved)
        self.rows.open(saved["tables"])
        self.earlier, self.divergence.restores = earlier, restores + 1
        state.inner_grads, state.hvps = paid
        state.halve_step_size()
        self.save()  # so that a run which is killed now goes on in the same way
        log.warning("%s Back to step %d, with half the outer step size.", diverged, self.step)
        progress.back(step - self.step)
        return self.rows.last_scores()

    def _when(self) -> Row:
        return {"step": self.step, "seconds": round(self.seconds, 4)}

    def _state(self) -> dict[str, Any]:
        """What a checkpoint holds, but for the positions of its tables."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            **self.state.saved(),
            "settings": self.identity.settings,
            "origin": self.identity.origin,
            "diverged_at": self.divergence.since,
            "restores": self.divergence.restores,
            **self.judgement.saved(),
        }

    def _restore(self, saved: dict[str, Any]) -> None:
        """Goes on from a checkpoint, but for its tables."""
        self.state.restore(saved)
        self.earlier = saved["seconds"]
        self.divergence.since, self.divergence.restores = saved["diverged_at"], saved["restores"]
        self.judgement.restore(saved)
