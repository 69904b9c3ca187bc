"""One run, as the command runs it."""

import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from bilevel_cli.api import overrides as spelling
from bilevel_cli.api.bars import bar
from bilevel_cli.api.result import Run, result
from bilevel_cli.api.surroundings import command_line, hydra_of_conf, logged_to
from bilevel_cli.commands.explain import explain
from bilevel_cli.config.application import hydra_apart
from bilevel_cli.config.own_code import look_beside
from bilevel_cli.config.run_folder import looked_at
from bilevel_cli.errors import NO_SPACE, Failed, Unwritten, UsageError, refusal
from bilevel_cli.machine import place, signals
from bilevel_cli.vocabulary import FAILED


def run(
    *overrides: str,
    folder: str | Path | None = None,
    config_dir: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Runs an experiment, as `bilevel-run` does with the same settings, and returns what it left.

        import bilevel_cli

        run = bilevel_cli.run("task=meta", "method=iaptt", outer_steps=50, folder="outputs/first")
        run.eval.plot("step", "test_accuracy")

    It writes the same files with the same numbers, and `bilevel-report` reads them. The same call
    with the same folder goes on from the checkpoint there, and returns at once where the run was
    complete; more `outer_steps` extend it. What it changes in this process, such as torch's default
    dtype, is as before when it returns or raises.

    Args:
        *overrides: Settings as a command line has them: "task=meta", "solver.lr=0.1",
            "+method.x=1", "~metrics".
        folder: The folder of the run; None for `outputs/<task>-<method>/<time>`.
        config_dir: A folder with options of your own, in the groups of conf/.
        progress: Whether to show a progress bar. In a notebook it is a widget, where ipywidgets
            is installed; in a script it is shown where standard error is a terminal.
        **settings: Settings by name, after those in `overrides`: `outer_steps=50`,
            `metrics=["norms"]`, `solver={"lr": 0.1}` for solver.lr, or
            `**{"method/linear_solver": "cg"}`.

    Returns:
        The run, completed. With `replicas=8` it is one `Run` of eight seeds.

    Raises:
        UsageError: A setting is wrong, or another run is in the folder; nothing was run.
        Failed: The run diverged, ran out of memory, or raised an error. `bilevel_cli.load` reads
            the rows until then.
        KeyboardInterrupt: The run was interrupted, and its last step is saved.
    """
    arguments = [*overrides, *spelling.assignments(settings)]
    if folder is not None:
        where = str(Path(folder).expanduser())
        arguments += spelling.assignments({"hydra.run.dir": where})
    spelling.check(arguments)
    if place.here().count > 1:
        raise UsageError(
            "run needs a process for itself, got one of torchrun's. Use torchrun -m bilevel_cli."
        )
    typed, searched = arguments, []
    if config_dir is not None:
        path = Path(config_dir).expanduser().absolute()
        if not path.is_dir():
            raise UsageError(
                f"run needs config_dir to be a folder, got {config_dir}: there is none."
            )
        typed = ["--config-dir", str(path), *arguments]
        look_beside([path])
        searched = spelling.assignments({"hydra.searchpath": [f"file://{path}"]})
    call = _Call(progress)
    try:
        with command_line(typed):
            call.carry_out([*searched, *arguments])
    except KeyboardInterrupt as stop:
        if call.directory is not None:
            stop.add_note(f"The same call with folder={str(call.directory)!r} continues the run.")
        # The run is saved. Now the signal may do what it does where no run is going.
        if isinstance(stop, signals.Stopped) and stop.signum != signal.SIGINT:
            signal.raise_signal(stop.signum)
        raise
    assert call.directory is not None
    return result(call.directory, call.folders)


@dataclass
class _Call:
    """One call of `run`.

    Attributes:
        progress: Whether to show a progress bar.
        directory: The folder of the run, once it is known.
        folders: Those of its replicas, likewise.
        error: What the run raised.
    """

    progress: bool
    directory: Path | None = None
    folders: list[Path] = field(default_factory=list)
    error: Exception | None = None

    def carry_out(self, overrides: list[str]) -> None:
        """Composes the configuration and runs it.

        Raises:
            UsageError: As in `run`.
            Failed: Likewise.
            KeyboardInterrupt: Likewise.
        """
        with hydra_apart():
            try:
                with hydra_of_conf(), looked_at():
                    hydra = GlobalHydra.instance().hydra
                    assert hydra is not None
                    hydra.run("config", self._job, overrides, with_log_configuration=False)
            except Exception as error:  # from composing: besides its own, Hydra raises all kinds
                self.error = error
            raised = self.error
            if raised is None:
                return
            if isinstance(raised, UsageError | Failed):
                # What was called on the way says nothing to a user, but for an error of own code.
                own = raised.__cause__ if getattr(raised, "status", None) == FAILED else None
                if isinstance(raised, Failed):
                    raised.add_note(f"bilevel_cli.load({str(self.directory)!r}) reads its rows.")
                raise raised.with_traceback(None) from own
            if refusal(raised, NO_SPACE):
                raise Unwritten(explain(raised), FAILED) from raised
            # Hydra's own traceback says nothing of what is wrong with a setting.
            raise UsageError(explain(raised)) from (raised if self.directory else None)

    def _job(self, config: DictConfig) -> None:
        """What Hydra calls. Raises nothing but a KeyboardInterrupt: Hydra would print the rest."""
        try:
            self._run(config)
        except Exception as error:
            self.error = error

    def _run(self, config: DictConfig) -> None:
        import torch

        from bilevel_cli.machine.device import settings_restored
        from bilevel_cli.runs import entry

        composed = HydraConfig.get()
        self.directory = Path(composed.runtime.output_dir)
        log = self.directory / f"{composed.job.name}.log"
        with logged_to(log), settings_restored(), torch.enable_grad():
            choices = dict(composed.runtime.choices)
            entry.run(config, self.directory, choices, bar(self.progress))
            self.folders = [path for _, path in entry.replicas(config, self.directory)]
