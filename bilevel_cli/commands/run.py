"""The bilevel-run command."""

import atexit
import logging
import os
import re
import signal
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from bilevel_cli import __version__
from bilevel_cli.commands import completion, ending, leaving, torchrun, usage
from bilevel_cli.commands.ending import Where
from bilevel_cli.commands.explain import check_words, explain
from bilevel_cli.config import options, single_composition
from bilevel_cli.config.command_line import Arguments, flags_first, separated
from bilevel_cli.config.options import CONF
from bilevel_cli.config.own_code import look_beside, workers_elsewhere
from bilevel_cli.config.refused import check_command_line
from bilevel_cli.config.run_folder import looked_at
from bilevel_cli.errors import NO_SPACE, Failed, Unwritten, UsageError, refusal
from bilevel_cli.machine import collecting, compiler, signals, streams
from bilevel_cli.runs import prefixed_bar
from bilevel_cli.runs.values import check_values
from bilevel_cli.sweeps import launcher, plugins, search, status_line, summary, worker
from bilevel_cli.sweeps.suitable import Trial

log = logging.getLogger(__name__)

_DEBUG = "HYDRA_FULL_ERROR"
_errors: list[Exception] = []
_begun: list[Where] = []  # where the command writes, once it does


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _job(config: DictConfig) -> float | None:
    composed = HydraConfig.get()
    directory = Path(composed.runtime.output_dir)

    def run() -> float | None:
        # Here: --help and completion do not wait for torch.
        with collecting.paused():
            from bilevel_cli.machine.device import settings_restored
            from bilevel_cli.runs import entry

        compiler.defer()  # in the process of the command alone: others may compile what is theirs
        with settings_restored():  # for the next job of a sweep
            bar = prefixed_bar.behind(said) if (said := status_line.said()) else None
            return entry.run(config, directory, dict(composed.runtime.choices), bar)

    if composed.mode == RunMode.MULTIRUN:
        return worker.carry_out(run, config, directory)
    where = Where("hydra.run.dir", str(composed.run.dir))
    _begun.append(where)
    try:
        # Of a sweep, each job is judged and noted by itself.
        with collecting.paused():
            check_values(config, dict(composed.runtime.choices))
        found = run()
        log.info("Next: %s", where.report)
        return found
    except (UsageError, Failed) as error:
        _errors.append(error)  # not raised: Hydra would add its own words
        return None


def _trying(process: bool, machine: bool) -> AbstractContextManager[Trial]:
    """As `runs.trial_builds.trying`."""
    # Here: a sweep that is completed does not wait for torch.
    with collecting.paused():
        from bilevel_cli.runs import trial_builds

    compiler.defer()
    return trial_builds.trying(process, machine)


@streams.stands("bilevel-run")
@torchrun.together
def main() -> None:
    """Runs the command, and ends it with one message instead of a traceback.

    Exit codes: 0 done, or stopped by SIGUSR2; 1 a run failed, diverged or ran out of memory; 2 a
    wrong option or value; 3 a file could not be written, since the disk is full, say; 128 + n
    stopped by another signal n.
    """
    given = separated(sys.argv[1:])
    arguments = flags_first(sys.argv[1:])
    look_beside(given.folders)
    if answer := _answer(given):
        _tell(answer)
        return
    if given.has("--shell-completion"):
        arguments = [*completion.folders(), *arguments]
    _errors.clear()
    _begun.clear()
    plugins.ignore_broken()
    sys.argv[1:] = arguments
    debug = os.environ.get(_DEBUG)
    logging.raiseExceptions = False  # a full disk must not end a run by its log
    os.environ[_DEBUG] = "1"  # Hydra raises instead of printing and exiting with 1
    stop: KeyboardInterrupt | None = None
    with launcher.remaining(_trying) as known:
        try:
            check_command_line(arguments)
            check_words(given)
            torchrun.check_command_line(arguments)
            with (
                signals.stops_at_once(),
                completion.after_commas(),
                single_composition.once(),
                looked_at(),
                search.offered(),
                workers_elsewhere(),
            ):
                _job()
        except KeyboardInterrupt as error:
            stop = error
        except Exception as error:  # from composing: besides its own, Hydra raises all kinds
            _errors.append(error)
        finally:
            del os.environ[_DEBUG]
            if known:
                _begun.append(Where("hydra.sweep.dir", str(known[0].config.hydra.sweep.dir)))
                _tell(summary.table(known))
    where = next(iter(_begun), None)
    if where:
        streams.is_elsewhere()  # a run has a log, and a sweep those of its jobs
    if stop:
        code = getattr(stop, "code", 128 + signal.SIGINT)
        atexit.register(signals.ignore)  # while torch is taken down, which takes a while
        with signals.unheard():
            left = summary.going_on(known) if known else ""
            _exit(code, ending.stopped(stop, where, arguments) + left)
    if known and where:
        _tell(f"Next: {where.report}")
    for reason in _errors:
        if debug:
            raise reason
        full = Unwritten.code if refusal(reason, NO_SPACE) else UsageError.code
        _exit(getattr(reason, "code", full), explain(reason))
    if failed := summary.failures(known):
        _exit(*failed)


def _tell(text: str) -> None:
    print(text, flush=True)


def _exit(code: int, message: str) -> None:
    print(f"bilevel-run: {message}", file=sys.stderr)
    sys.exit(code)


def _answer(given: Arguments) -> str:
    """What is answered without Hydra; empty where a run, or an answer of Hydra, is asked for."""
    folders = given.folders
    if given.has("--version"):
        return f"bilevel-run {__version__}"
    if given.has("--shell-completion") and "install=zsh" in given.overrides:
        return completion.ZSH
    if given.has("--help"):
        return usage.helped(folders)
    if not given.flags and not given.overrides:
        return usage.USAGE
    answers = []
    for override in given.overrides:
        if asked := re.fullmatch(r"([\w/]+)=\?", override):
            answers.append(options.describe(asked[1], folders))
            if asked[1] == "task":
                answers.append(options.describe_pairs(folders))
        elif asked := re.fullmatch(r"([\w/]+)=([\w-]+)\?", override):
            answers.append(usage.described(asked[1], asked[2], folders))
    return "\n".join(answers)


command = leaving.at_once(main)  # of the process of its own
