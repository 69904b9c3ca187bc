"""The outer loop."""

import logging
import math
import shutil
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from bilevel_cli.core import trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Estimate, Hypergradient
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Scalar
from bilevel_cli.errors import UsageError, out_of_memory
from bilevel_cli.loggers.base import Loggers
from bilevel_cli.machine.memory import peak_memory_mb
from bilevel_cli.machine.ranks import ALONE, Ranks
from bilevel_cli.machine.signals import Interrupted
from bilevel_cli.metrics.base import Metric
from bilevel_cli.records.table import Row, Table, Unkept
from bilevel_cli.runs import checkpoint, evaluation
from bilevel_cli.runs.clock import Clock
from bilevel_cli.runs.descent import COLUMNS, Descent
from bilevel_cli.runs.doubts import Doubts, zero_hypergradient
from bilevel_cli.runs.driver import drive
from bilevel_cli.runs.experiment import Experiment, Machine
from bilevel_cli.runs.flags import Flags
from bilevel_cli.runs.plan import Plan, Schedule
from bilevel_cli.runs.resuming import FREE, differing, shapes
from bilevel_cli.runs.rows import read, shown
from bilevel_cli.runs.state import Inputs, RunState
from bilevel_cli.vocabulary import CHECKPOINT, EVAL, TRAIN

log = logging.getLogger(__name__)

LOWER = "Lower optimizer.lr or solver.lr."
SINGULAR = (
    "Its matrix may be singular: method=minres, method=galet and method=pseudo_inverse solve such "
    "systems; or lower solver.lr."
)
RESTORES = 10  # times that a run goes back before it gives up: its outer step size is then 1/1024


class Diverged(Exception):
    """A number that the run reports is not finite, or a linear system has no finite solution."""


class Runner:
    """Takes outer steps, writes what they report, and continues where an earlier run stopped.

    Args:
        task: The task.
        loop: The inner loop on that task.
        method: The hypergradient method.
        optimizer: Makes a torch optimizer of a list of tensors, or of groups of them.
        scheduler: Makes a torch scheduler of that optimizer's step size.
        schedule: How often things happen.
        directory: Where train.csv, eval.csv, checkpoint.pt and the learned result go.
        seed: Source of all random numbers.
        device: Where the task's data live.
        metrics: Probes, by the names of their yaml options.
        episodes_chunk: Episodes that a GPU holds in memory at once.
        settings: The resolved configuration; a checkpoint of another one is refused.
        capture: How to capture the outer step, as in `Device`.
        on_divergence: What to do where a number is not finite: "stop"; "continue" to the end,
            without checkpoints of what is not finite; or "restore", go back to the last checkpoint
            and halve the outer step size, `RESTORES` times at most.
        resume: "auto" to refuse a checkpoint of other settings or data, or "force" to warn.
        origin: What the numbers of a run depend on besides its settings, such as versions, "device"
            and "data": a checkpoint of other ones is warned of, and of these two is refused.
        ranks: The processes that share the outer steps; `run` must be called in each.

    Attributes:
        diverged_at: The first step with a number that is not finite, in a run that went on.
        restores: Times that the run went back.
        doubts: Why its numbers may not be what they seem.
        loggers: Told of every row besides the CSV files.
    """

    def __init__(
        self,
        task: Task,
        loop: InnerLoop,
        method: Hypergradient[Any],
        optimizer: Callable[[list[Any]], Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler],
        schedule: Schedule,
        directory: Path,
        seed: int,
        device: torch.device,
        metrics: dict[str, Metric],
        episodes_chunk: int | None = None,
        settings: dict[str, Any] | None = None,
        capture: str | None = None,
        on_divergence: str = "stop",
        resume: str = "auto",
        origin: dict[str, Any] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.task, self.loop, self.method = task, loop, method
        self.schedule, self.directory, self.device, self.seed = schedule, directory, device, seed
        self.metrics, self.settings, self.origin = metrics, settings or {}, origin or {}
        self.on_divergence, self.resume, self.ranks = on_divergence, resume, ranks
        self.diverged_at: int | None = None
        self.restores = 0
        self.loggers, self.doubts = Loggers({}), Doubts()
        self._lost: Diverged | None = None  # why the last row is not finite, in a run that goes on
        experiment = Experiment(task, loop, method, optimizer, scheduler, metrics)
        machine = Machine(device, episodes_chunk, capture, ranks)
        experiment.check(schedule, ranks)
        self.state = RunState(experiment, machine, Plan(schedule, seed, on_divergence, resume))
        self.flags = Flags(self.state.outer)
        self.descent = Descent(method, loop, ranks, episodes_chunk, self.settings.get("solver"))
        self._judged = False  # whether it is known which outer parameters act
        self.outer_step = machine.outer_step(experiment)
        self.captured = machine.captured
        self.estimate = ranks.shared(self.captured(self.outer_step))
        self.clock = Clock()
        self.earlier = 0.0  # seconds of the run that this one continues
        self._file = directory / CHECKPOINT
        state = ranks.once(partial(checkpoint.resume, self._file))
        if state is not None:
            self._check(state)
            self._restore(state)
        tables = state["tables"] if state else {"train": (0, 0), "eval": (0, 0)}
        self._open(tables)

    def run(self) -> Row:
        """Takes the outer steps that remain, and returns the last scores.

        Raises:
            Diverged: A reported number is not finite. Its row and the last checkpoint are kept.
            Interrupted: By a signal. A checkpoint of the last step is kept.
        """
        (outcome,) = drive([self], lambda runs, inputs: [self.estimate(*inputs[0])], self.ranks)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def steps(self, bar: "tqdm[Any]", requests: list[int]) -> Generator[Inputs, Estimate, Row]:
        """As `run`, but asks for the estimate of each outer step: yields its inputs.

        Args:
            bar: Told of each outer step.
            requests: The signals so far that ask to stop.
        """
        if self.state.over:
            return self._last_scores()
        scores = self._last_scores() if self.evals.size else self._evaluate(bar)
        if self.on_divergence == "restore" and not self._saved():
            self.save()
        while not self.state.over:
            try:
                scores = yield from self._take_step(scores, bar, requests)
            except Exception as error:
                scores = self._go_back(error, bar)
        if self._lost is not None:
            raise self._lost
        return scores

    def _take_step(
        self, scores: Row, bar: "tqdm[Any]", requests: list[int]
    ) -> Generator[Inputs, Estimate, Row]:
        """One outer step and what is due after it. Returns the last scores."""
        self.clock.start()
        report = yield from self._advance()
        write, evaluate, save = map(self.state.due, self.schedule.cadence)
        # Reading waits for the device: only for a row, and so that the clock is honest.
        row = self._read(report) if write or evaluate or save else None
        self.clock.stop()
        bar.update()
        if row is not None and write:
            costs = {"peak_memory_mb": round(peak_memory_mb(self.device), 1)}
            self._write(self.train, {**self._when(), **row, **costs})
        if row is not None:
            self._lost = None
            self._doubt(row)
            self._check_finite(row)
        if evaluate:
            scores = self._evaluate(bar)
        if row is not None and not bar.disable:
            bar.set_postfix_str(shown(row, scores), refresh=evaluate)
        if save or requests:
            self._check_finite(row or self._read(report))
            self._note(
                [f"outer parameter {n}" for n, v in self.state.outer.items() if not _finite(v)]
            )
            if self._lost is None:
                self.save()
        if requests:
            raise Interrupted(requests[0])
        return scores

    def result(self) -> list[Path]:
        """Writes what the task learned, each file in whole or not, and returns the files."""
        inner = self.state.inner()
        if not self.ranks.first:
            return []
        partial = self.directory / "result.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            if self.evals.path.exists():  # which a task may read
                shutil.copy(self.evals.path, partial)
            written = self.task.save_result(partial, self.state.outer, inner)
            (partial / self.evals.path.name).unlink(missing_ok=True)
            for path in partial.iterdir():
                path.replace(self.directory / path.name)
            return [self.directory / path.relative_to(partial) for path in written]
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def save(self) -> None:
        """Writes a checkpoint of this step."""
        state = self._state()
        if not self.ranks.first:
            return
        self.train.sync()
        self.evals.sync()
        named = {"train": self.train, "eval": self.evals}
        tables = {name: (table.size, table.digest) for name, table in named.items()}
        checkpoint.save(self._file, {**state, "tables": tables})

    def _advance(self) -> Generator[Inputs, Estimate, dict[str, Scalar]]:
        """One outer step. Returns what it reports, still on the device."""
        inputs = self.state.draw()
        estimate = yield inputs
        self.clock.start()  # where runs share it, another one has stopped it
        report = self.state.take(inputs, estimate, self._measured)
        self.flags.look(self.step, estimate.grad, self.state.outer)
        return report

    def _measured(self, inputs: Inputs, estimate: Estimate) -> dict[str, Tensor]:
        return self.descent.measure(*inputs, estimate.carry)

    def _read(self, report: dict[str, Scalar]) -> Row:
        """Brings a report to the host, and with it what all steps since the last row have noted."""
        row = read({**report, **self.flags.unread()})
        self.flags.take(row)
        return row

    def _doubt(self, row: Row) -> None:
        """Notes what a row of finite or other numbers says against itself."""
        numbers = {name: float(value) for name, value in row.items()}
        own = self.method.doubts(numbers)
        self.doubts.note(self.step, {**own, **self.descent.doubts(numbers, self.state.outer)})
        if self._judged or not self.method.zero_tells(numbers, self.step):
            return
        names = self.flags.never_moved()
        if own and len(names) == len(self.state.outer):
            return  # a linear solve that stopped at zero is the reason, and says so
        self._judged = True
        self.flags.settle()
        self.doubts.note(self.step, zero_hypergradient(names, self.step))

    def _evaluate(self, bar: "tqdm[Any]") -> Row:
        bar.set_description("evaluating")
        scores = evaluation.scores(self.state)
        bar.set_description()
        self._write(self.evals, {**self._when(), **scores})
        self._check_finite(scores)
        return scores

    def _write(self, table: Table, row: Row) -> None:
        table.append(row)
        self.loggers.write(table.path.stem, row)

    def _last_scores(self) -> Row:
        row: Row = dict(self.evals.last())
        return {name: value for name, value in row.items() if name not in self._when()}

    @property
    def name(self) -> str:
        return f"seed={self.seed}"

    @property
    def step(self) -> int:
        return self.state.step

    @property
    def outer_steps(self) -> int:
        return self.schedule.outer_steps

    @property
    def seconds(self) -> float:
        return self.earlier + self.clock.seconds

    def _when(self) -> Row:
        return {"step": self.step, "seconds": round(self.seconds, 4)}

    def _check_finite(self, row: Row) -> None:
        """Raises Diverged where a number is not finite; a run that goes on notes it instead.

        A number of this row, or one of the outer parameters or their hypergradient at any step
        since the last one. An inner loss that is none is doubted, and ends no run.
        """
        self._note([n for n, value in row.items() if n not in COLUMNS and not math.isfinite(value)])

    def _note(self, bad: list[str]) -> None:
        noted, self.flags.found = self.flags.found, {}
        first = min(noted.values(), default=self.step)
        if not bad and not noted:
            return
        names = " and no finite ".join(name for name, step in noted.items() if step == first)
        if bad:
            reason = f"At step {self.step} there is no finite {' and no finite '.join(bad)}."
            if first < self.step:
                reason += f" Already at step {first} there was no finite {names}."
        else:
            seen = f", as seen at step {self.step}" if first < self.step else ""
            reason = f"At step {first} there was no finite {names}{seen}."
        lost = self._diverged(reason)
        if bad:
            self._lost = lost
        if self.on_divergence != "continue":
            raise lost
        if self.diverged_at is None:
            self.diverged_at = first
            log.warning("%s The run goes on, since on_divergence=continue.", lost)

    def _saved(self) -> bool:
        return self.ranks.once(partial(checkpoint.exists, self._file))

    def _diverged(self, reason: str, advice: str = LOWER) -> Diverged:
        there = self._saved()
        kept = " The checkpoint of an earlier step is kept." if there else ""
        way_out = self.doubts.of_method() or advice
        if there and self.on_divergence == "stop" and way_out == LOWER:
            way_out = f"{LOWER[:-1]}, or go on from there with on_divergence=restore."
        return Diverged(f"{reason}{kept} {way_out}")

    def _go_back(self, error: Exception, bar: "tqdm[Any]") -> Row:
        """Restores the last checkpoint, with half the outer step size; returns its scores.

        Costs that were paid stay: seconds, inner gradients and products count what was lost too.

        Raises:
            Exception: `error`, where the run is to stop or did not diverge.
        """
        diverged = error if isinstance(error, Diverged) else self._divergence(error)
        if diverged is None:
            raise error
        if self.on_divergence != "restore" or not self._saved():
            raise diverged from error.__cause__
        if self.restores == RESTORES:
            raise Diverged(f"{diverged} The run went back {RESTORES} times.") from error.__cause__
        self.clock.stop()
        state, step, restores, earlier = self.state, self.step, self.restores, self.earlier
        paid = state.inner_grads, state.hvps
        saved = self.ranks.once(partial(checkpoint.load, self._file))
        self._restore(saved)
        self._open(saved["tables"])
        self.earlier, self.restores = earlier, restores + 1
        state.inner_grads, state.hvps = paid
        state.halve_step_size()
        self.save()  # so that a run which is killed now goes on in the same way
        log.warning("%s Back to step %d, with half the outer step size.", diverged, self.step)
        bar.update(self.step - step)
        return self._last_scores()

    def _divergence(self, error: Exception) -> Diverged | None:
        """The divergence that shows itself as another error, if it is one."""
        reason = (str(error) or type(error).__name__).splitlines()[0]
        # Ranks differ in their episodes, whose memory the next step ignores, and must not in this.
        outer, carry = self.state.outer, self.state.carry
        watched = outer if self.ranks.count > 1 else (outer, carry["inner"])
        advice = LOWER
        if isinstance(error, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            found = f"After step {self.step} a linear system has no finite solution: {reason}"
            advice = SINGULAR if all(map(_finite, trees.leaves(watched))) else LOWER
        elif isinstance(error, UsageError | OSError) or out_of_memory(error):
            return None
        elif not all(map(_finite, trees.leaves(watched))):
            found = f"After step {self.step} parameters are not finite: {reason}"
        else:
            return None
        diverged = self._diverged(found, advice)
        diverged.__cause__ = error
        return diverged

    def _state(self) -> dict[str, Any]:
        """What a checkpoint holds, but for the sizes of its tables."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            **self.state.saved(),
            "settings": self.settings,
            "origin": self.origin,
            "diverged_at": self.diverged_at,
            "restores": self.restores,
            "doubts": self.doubts.found,
            "descent": self.descent.saved(),
            "judged": self._judged,
        }

    def _check(self, state: dict[str, Any]) -> None:
        """Raises ValueError where a checkpoint is not one that this run can continue."""
        if missing := {*self._state(), "tables"} - state.keys():
            raise ValueError(
                f"A run that goes on needs a checkpoint of this version, got one in "
                f"{self.directory} without {', '.join(sorted(missing))}. "
                "Use the version that wrote it, or another hydra.run.dir."
            )
        if state["step"] > self.schedule.outer_steps:
            raise ValueError(
                f"{self.directory} holds a run of {state['step']} outer steps, got "
                f"outer_steps={self.schedule.outer_steps}. Raise it, or use another directory."
            )
        settings = differing(state["settings"], self.settings, FREE)
        origin = differing(state["origin"], self.origin)
        if change := origin.pop("device", None):
            raise ValueError(
                f"{self.directory} holds a run on another device, whose random numbers cannot go "
                f"on here: {change}. Use that, or another hydra.run.dir."
            )
        data = [change] if (change := origin.pop("data", None)) else []
        if origin:
            log.warning(
                "%s goes on otherwise than it began: %s. Numbers may differ in their last digits.",
                self.directory,
                ", ".join(origin.values()),
            )
        reasons = [
            f"{self.directory} holds a run with other {what}: {', '.join(changes)}."
            for what, changes in (("settings", settings.values()), ("data", data))
            if changes
        ]
        if reasons and self.resume != "force":
            raise ValueError(
                f"{' '.join(reasons)} Use those, or another hydra.run.dir; resume=force goes on."
            )
        for reason in reasons:
            log.warning("%s It goes on, since resume=force.", reason)
        here = shapes(self.state.saved())
        if reasons and (changed := differing(shapes(state), here)):
            raise ValueError(
                f"A run that goes on needs tensors of the same shapes, got in {self.directory} "
                f"{', '.join(list(changed.values())[:3])}. Use another hydra.run.dir."
            )

    def _restore(self, state: dict[str, Any]) -> None:
        """Continues from a checkpoint, but for its tables."""
        self.state.restore(state)
        self.earlier = state["seconds"]
        self.diverged_at, self.restores = state["diverged_at"], state["restores"]
        self.flags.forget()
        self.doubts.restore(state["doubts"])
        self.descent.restore(state["descent"])
        self._judged = self._judged or state["judged"]
        if self._judged:
            self.flags.settle()

    def _open(self, tables: dict[str, tuple[int, int]]) -> None:
        """Opens the tables at their sizes and digests of a checkpoint."""
        table = Table if self.ranks.first else Unkept
        self.train = table(self.directory / TRAIN, *tables["train"])
        self.evals = table(self.directory / EVAL, *tables["eval"])


def _finite(x: Tensor) -> bool:
    return bool(x.isfinite().all())
