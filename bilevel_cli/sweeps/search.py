"""hydra/sweeper=optuna: a search in which each trial is a job of a sweep.

The sweeper that Hydra's authors publish, hydra-optuna-sweeper 1.3.0, asks for an Optuna below 3,
whose databases do not open with SQLAlchemy 2. Nor would it know a trial again that was stopped. The
one that follows, 1.4.0rc3, asks for a release candidate of Hydra.
"""

import contextlib
import fnmatch
import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bilevel_cli.config import constructors
from bilevel_cli.config.targets import is_ours, target
from bilevel_cli.errors import UsageError
from bilevel_cli.records.settings import flat
from bilevel_cli.sweeps import outcome
from bilevel_cli.sweeps.job import Job
from bilevel_cli.sweeps.launcher import Remaining
from bilevel_cli.sweeps.space import Space
from bilevel_cli.sweeps.studies import Trials, opened
from bilevel_cli.vocabulary import COMPLETED, DIVERGED, HIGHER_IS_BETTER, REFUSED

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

OPTUNA = 5  # the first version whose interface this room uses
RESULTS = "optimization_results.yaml"
NAME = f"{__name__}.Search"
WAYS = ("minimize", "maximize")


class Search(Sweeper):
    """Searches settings with Optuna.

    Args:
        n_trials: Trials in all, those of earlier commands included.
        n_jobs: Trials that are launched together, of which none knows how the others end.
        direction: "minimize" or "maximize"; None for what the task says of the objective.
        storage: URL of a database; None for a file in the folder of the search.
        study_name: Of the study in that database.
        max_failure_rate: From 0 to 1. The search stops where a larger share of the trials that
            were launched together has no value.
        sampler: The yaml node of the sampler.
        params: Overrides as dicts, beside those of the command line.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int,
        direction: Any,
        storage: str | None,
        study_name: str,
        max_failure_rate: float,
        sampler: DictConfig,
        params: DictConfig | None,
    ) -> None:
        self.n_trials, self.n_jobs, self.direction = n_trials, n_jobs, direction
        self.storage, self.study_name, self.sampler = storage, str(study_name), sampler
        self.max_failure_rate, self.params = max_failure_rate, params

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Refuses what cannot be searched, before a launcher starts anything.

        Raises:
            UsageError: Optuna is not installed, or a setting of the search is wrong.
        """
        _require_optuna()
        self._check(config)
        self.whole = config
        self.way = direction(config, self.direction)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.loader: ConfigLoader = hydra_context.config_loader

    def sweep(self, arguments: list[str]) -> None:
        """Runs the trials that the study lacks.

        Args:
            arguments: The overrides of the command line, without those of Hydra.

        Raises:
            UsageError: There is nothing to search, or the study is another one.
        """
        params = OmegaConf.to_container(self.params) if self.params else {}
        given = [f"{name}={value}" for name, value in flat(params).items() if name]
        space = Space.of([*given, *arguments], self.loader)
        folder = Path(str(self.whole.hydra.sweep.dir))
        study = opened(self.storage, self.study_name, folder, self.way)
        trials = Trials(study, space, self.sampler)
        trials.begin({**self._shared(space), "direction": self.way})
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.whole, folder / "multirun.yaml")
        if ended := trials.ended():
            print(f"{len(ended)} of {self.n_trials} trials have ended before.", flush=True)
            for trial in ended:
                self._known.recall(space.overrides(trial.params), trial.number)
        self._search(trials, space)
        self._conclude(trials, space, folder)

    @property
    def _known(self) -> Remaining:
        assert isinstance(self.launcher, Remaining)
        return self.launcher

    def _check(self, config: DictConfig) -> None:
        for name in ("n_trials", "n_jobs"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(
                    f"hydra.sweeper.{name} needs a whole number from 1 on, got {value!r}."
                )
        rate = self.max_failure_rate
        if not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise UsageError(
                f"hydra.sweeper.max_failure_rate needs a number from 0 to 1, got {rate!r}."
            )
        if config.get("objective") is None:
            raise UsageError(
                "A search needs objective=..., the column of eval.csv to be optimised, got null. "
                "Name one, such as objective=validation_loss."
            )

    def _shared(self, space: Space) -> dict[str, Any]:
        """What all trials share, by dotted names, and the words of what is searched."""
        found: dict[str, Any] = {}
        # Where values are missing, the trials say so.
        with contextlib.suppress(OmegaConfBaseException):
            found = flat(outcome.resolved(self.whole))
        words = {
            name: str(one.input_line).partition("=")[2] for name, one in space.searched.items()
        }
        return {**found, **words}

    def _search(self, trials: Trials, space: Space) -> None:
        tried: set[int] = set()
        while batch := trials.batch(self.n_jobs, self.n_trials, tried):
            tried |= {trial.number for trial in batch}
            failed = 0
            for trial, job in self._run(batch, space):
                found = job.outcome()
                if found.status in (COMPLETED, DIVERGED):
                    trials.tell(trial.number, found.returned)
                failed += found.status != COMPLETED
                if found.status == REFUSED:  # so would the others be
                    return
            if failed / len(batch) > self.max_failure_rate:
                log.warning(
                    "%d of %d trials failed, more than hydra.sweeper.max_failure_rate=%g allows.",
                    failed,
                    len(batch),
                    self.max_failure_rate,
                )
                return

    def _run(
        self, batch: "Sequence[FrozenTrial]", space: Space
    ) -> Iterator[tuple["FrozenTrial", Job]]:
        """Runs trials, and yields them with their jobs, whose numbers are those of the trials."""
        places = enumerate(trial.number for trial in batch)
        for _, group in itertools.groupby(places, key=lambda pair: pair[1] - pair[0]):
            some = [batch[place] for place, _ in group]
            overrides = [space.overrides(trial.params) for trial in some]
            self._known.launch(overrides, some[0].number)
            yield from zip(some, self._known.known[-len(some) :], strict=True)

    def _conclude(self, trials: Trials, space: Space, folder: Path) -> None:
        best = trials.best()
        if best is None:
            return
        chosen = " ".join(space.overrides(best.params)[len(space.shared) :])
        print(
            f"Best of {len(trials.ended())} trials: {self.whole.objective} {best.value:.6g} "
            f"with {chosen}",
            flush=True,
        )
        found = {"name": "optuna", "best_params": best.params, "best_value": best.value}
        OmegaConf.save(OmegaConf.create(found), folder / RESULTS)


@contextlib.contextmanager
def offered() -> Iterator[None]:
    """Has Hydra take the sweeper of this file for one of its plugins.

    Hydra looks for plugins in the package `hydra_plugins` alone. It imports all of that package in
    every program that uses Hydra; a module of ours there would slow down programs of others.
    """
    theirs = Plugins.is_in_toplevel_plugins_module

    def known(name: str) -> bool:
        return name == NAME or theirs(name)

    Plugins.is_in_toplevel_plugins_module = staticmethod(known)  # type: ignore[assignment]
    Plugins.instance().register(Search)
    try:
        yield
    finally:
        Plugins.is_in_toplevel_plugins_module = theirs  # type: ignore[method-assign]


def _require_optuna() -> None:
    from importlib.metadata import PackageNotFoundError, version  # here: it takes 10 ms

    try:
        there = version("optuna")
    except PackageNotFoundError:
        there = ""
    if not there or int(there.partition(".")[0]) < OPTUNA:
        found = f"got {there}" if there else "which is not installed"
        raise UsageError(
            f"hydra/sweeper=optuna needs the package optuna from version {OPTUNA} on, {found}. "
            "Run pip install 'bilevel-cli[optuna]'."
        )


def direction(config: DictConfig, given: Any) -> str:
    """The way in which the objective is better, which the task knows.

    Raises:
        UsageError: Another way is given, several, or none at all.
    """
    objective = str(config.objective)
    better = WAYS[any(fnmatch.fnmatch(objective, pattern) for pattern in _patterns(config))]
    if given is None:
        return better
    if given not in WAYS:
        raise UsageError(
            f"hydra.sweeper.direction needs minimize or maximize, got {given}: a search has one "
            "objective. Leave it out, and the task decides."
        )
    if given != better:
        how = "higher" if better == WAYS[1] else "lower"
        raise UsageError(
            f"objective={objective} is better when it is {how}, as the task says, got "
            f"hydra.sweeper.direction={given}. Leave the direction out."
        )
    return better


def _patterns(config: DictConfig) -> tuple[str, ...]:
    """Of the names of scores that are better higher; `Task.higher_is_better`."""
    name = OmegaConf.select(config, "task._target_")
    if not isinstance(name, str):
        return HIGHER_IS_BETTER
    try:
        found = constructors.attribute(name, "higher_is_better")
    except ValueError:  # no literal
        found = None
        if not is_ours(name):
            with contextlib.suppress(Exception):  # of any module; the trials say what is wrong
                found = target(config.task, "task").higher_is_better  # imports torch
    return tuple(found or HIGHER_IS_BETTER)
