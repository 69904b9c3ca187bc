"""One run in its folder, from its first note to its last."""

import contextlib
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from bilevel_cli.config.objects import make
from bilevel_cli.config.resolved import resolved
from bilevel_cli.errors import (
    UNWRITABLE,
    Failed,
    Removed,
    Unwritten,
    UsageError,
    out_of_memory,
    refusal,
)
from bilevel_cli.loggers.base import Loggers
from bilevel_cli.machine.ranks import Ranks
from bilevel_cli.nn import blame
from bilevel_cli.records import folder
from bilevel_cli.records.atomic import replaced
from bilevel_cli.records.lock import hold
from bilevel_cli.records.manifest import Doubt, Manifest
from bilevel_cli.records.settings import chosen
from bilevel_cli.records.table import Row
from bilevel_cli.runs import build, checkpoint
from bilevel_cli.runs.divergence import Diverged
from bilevel_cli.runs.failures import too_large, unwritable, unwritten
from bilevel_cli.runs.origin import hardware, kernels, process
from bilevel_cli.runs.runner import Runner
from bilevel_cli.vocabulary import (
    CHECKPOINT,
    COMPLETED,
    DIVERGED,
    FAILED,
    INTERRUPTED,
    NOTES,
    OOM,
    TRACEBACK,
)

log = logging.getLogger(__name__)


@contextlib.contextmanager
def own_folder(directory: Path) -> Iterator[None]:
    """Makes the folder of a run, and keeps other runs out of it.

    Raises:
        UsageError: Another run is in the folder, this user may not write there, or something is in
            the way of the run's files.
        Unwritten: The disk is full.
    """
    with contextlib.ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            folder.check(directory)
            stack.enter_context(hold(directory))
        except OSError as error:
            raise unwritable(error, directory) from error
        yield


class Run:
    """One run: its folder, its manifest, and how it ended.

    Its methods are called in the order in which they stand here.

    Args:
        config: The composed configuration.
        directory: The folder of the run.
        replicas: How many runs the command has; for messages.
        ranks: The processes that share the run.
        options: The option chosen in each config group, for messages and the manifest.

    Attributes:
        runner: None until it is built.
        begun: Whether the manifest says that this run is going.
        outcome: The last scores, or what the run raised; None until it ends.
        files: The files that a completed run has written.
    """

    def __init__(
        self,
        config: DictConfig,
        directory: Path,
        replicas: int,
        ranks: Ranks,
        options: dict[str, str],
    ) -> None:
        self.config, self.directory, self.replicas = config, directory, replicas
        self.ranks, self.options = ranks, options
        self.settings = resolved(config)
        self.manifest = Manifest(directory, self.settings, chosen(options), process())
        self.runner: Runner | None = None
        self.begun = False
        self.outcome: Row | BaseException | None = None
        self.files: list[Path] = []

    def note_config(self) -> None:
        """Writes the configuration to the file to which Hydra writes that of a single run."""
        try:
            path = self.directory / NOTES / "config.yaml"
            path.parent.mkdir(exist_ok=True)
            with replaced(path) as partial:
                OmegaConf.save(self.config, partial)
        except OSError as error:
            self.outcome = error

    def build(self) -> None:
        """Makes the runner and the loggers."""
        if self.outcome is not None:
            return
        try:
            names = self.config.get("loggers") or {}
            loggers = {name: make(self.config, f"loggers.{name}") for name in names}
            self.runner = build.build(
                self.config, self.settings, self.directory, self.options, self.ranks
            )
            rows = self.runner.rows
            rows.loggers = Loggers(loggers)
            if rows.scored and (known := rows.last_scores()):  # the manifest of a run stays
                rows.check_objective(known)
        except Exception as error:
            self.outcome = error

    def begin(self) -> None:
        """Notes in the manifest, and tells the loggers, that the run begins."""
        runner = self.runner
        if runner is None:
            return
        try:
            # What an earlier run of the folder failed of is over: this one goes on.
            (self.directory / TRACEBACK).unlink(missing_ok=True)
            task = runner.experiment.task
            self.manifest.begin(
                hardware(runner.machine.device),
                task.statement,
                task.checksum,
                runner.step,
                task.higher_is_better,
                runner.doubts.found,
            )
        except OSError as error:
            self.outcome = error
            return
        if runner.step:
            log.info("Continuing after step %d in %s", runner.step, self.directory)
        runner.doubts.told = self._note_doubts
        runner.rows.loggers.begin(self.directory, self.settings, runner.step)
        self.begun = True

    def conclude(self, outcome: Row | BaseException) -> None:
        """Writes what was learned, if the outer steps led to scores.

        Args:
            outcome: The last scores, or what the outer steps raised.
        """
        if isinstance(outcome, dict):
            assert self.runner is not None
            try:
                written = self.runner.result()
            except Exception as error:
                outcome = error
            else:
                rows = self.runner.rows
                self.files = [rows.train.path, rows.evals.path, *written]
        self.outcome = outcome

    def end(self) -> Failed | None:
        """Notes the end in the manifest, and tells the loggers.

        Returns:
            The error for the user, if the run failed.
        """
        match self.outcome:
            case None:  # it never began, since another replica was refused
                return None
            case dict():
                self._note(COMPLETED)
                return None
            case UsageError() as error:
                # Perhaps the folder holds another run, whose manifest must stay as it is.
                if self.begun or not checkpoint.exists(self.directory / CHECKPOINT):
                    self._note(FAILED, str(error))
                return None
            case KeyboardInterrupt() as error:
                self._note(INTERRUPTED, str(error) or "stopped at once")
                return None
            case Diverged() as error:
                self._note(DIVERGED, str(error))
                return Failed(f"Diverged. {error}", DIVERGED)
            case Unwritten() as error:
                return self._lose(error)
            case error:
                return self._fail(error)

    def _fail(self, error: BaseException) -> Failed:
        if isinstance(refusal(error), FileNotFoundError) and not self.directory.is_dir():
            return self._lose(Removed(str(self.directory), FAILED))
        if refused := refusal(error, UNWRITABLE):
            failure = unwritten(refused, self.directory)
            self._note(FAILED, str(failure))
            return failure
        pointer = ""
        with contextlib.suppress(OSError):
            lines = traceback.format_exception(error)
            with replaced(self.directory / TRACEBACK) as partial:
                partial.write_text("".join(lines))
            pointer = f" The traceback is in {self.directory / TRACEBACK}."
        if out_of_memory(error):
            reason = too_large(error, self.runner, self.config, self.replicas)
            self._note(OOM, reason)
            return Failed(reason, OOM)
        words = " ".join(str(error).split()) or "no message"
        at = f" ({where})" if (where := blame.place(error)) else ""
        reason = f"{type(error).__name__}: {words}{at}"
        self._note(FAILED, reason)
        return Failed(f"{reason}{pointer}", FAILED)

    def _lose(self, error: Failed) -> Failed:
        """Ends a run whose files are no more its own. Notes it where its manifest still is."""
        if self.manifest.ours and not isinstance(error, Removed):
            self._note(FAILED, str(error))
        elif self.runner is not None:
            self.runner.rows.loggers.end(FAILED)
        return error

    def _note_doubts(self, doubts: dict[str, Doubt]) -> None:
        try:
            self.manifest.doubt(doubts)
        except OSError as refused:  # its end is noted too, and says what the disk allows
            log.warning("manifest.json does not have the doubts: %s", refused.strerror)

    def _note(self, status: str, error: str | None = None) -> None:
        more: dict[str, object] = {}
        if self.runner is not None:
            divergence = self.runner.divergence
            more = {"diverged_at": divergence.since, "restores": divergence.restores}
            more["kernels"] = kernels()
            self.runner.rows.loggers.end(status)
        try:
            self.manifest.end(status, error, **more)
        except OSError as refused:
            log.warning("manifest.json still has the last status: %s", refused.strerror)

    @property
    def names(self) -> list[str]:
        """Those of its files, in its folder."""
        return [str(path.relative_to(self.directory)) for path in self.files]

    @property
    def scores(self) -> Row:
        assert isinstance(self.outcome, dict)
        return self.outcome
