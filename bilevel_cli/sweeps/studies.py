"""The trials of a search, as Optuna's storage keeps them."""

import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from bilevel_cli.config.targets import TARGET, target
from bilevel_cli.errors import UsageError
from bilevel_cli.nn import blame
from bilevel_cli.sweeps.space import Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

FILE = "study.db"  # in the folder of the search, unless hydra.sweeper.storage names a database
KEY = "hydra.sweeper.sampler"
BEGUN = "bilevel.settings"  # the attribute of a study with what it was begun with


class Trials:
    """The trials of a study. What a command left unfinished, the next one takes up again.

    A trial is chosen from those that ended before it and from a seed that is made of the sampler's
    own and the number of the trial. So a search that is stopped and goes on has the same trials as
    one that is not.

    Args:
        study: Of Optuna.
        space: What the trials choose from.
        sampler: The yaml node of a sampler.
    """

    def __init__(self, study: "Study", space: Space, sampler: DictConfig) -> None:
        self.study, self.space, self.sampler = study, space, sampler
        self._distributions = space.distributions()

    def begin(self, settings: dict[str, Any]) -> None:
        """Notes what the study is begun with, or compares it.

        Args:
            settings: What all trials share, by dotted names.

        Raises:
            UsageError: The study was begun with something else.
        """
        sampler(self.sampler, 0)  # refuses its settings before any work
        # As a database gives it back.
        here = json.loads(json.dumps(settings, default=str))
        there = self.study.user_attrs.get(BEGUN)
        if there is None and not self.study.get_trials(deepcopy=False):
            self.study.set_user_attr(BEGUN, here)
            there = here
        name = self.study.study_name
        other = "Use those, or another hydra.sweeper.study_name or hydra.sweep.dir."
        if there is None:
            raise UsageError(
                f"The study {name} holds trials of another program. Use another "
                "hydra.sweeper.study_name."
            )
        changed = [
            f"{key}={there.get(key)} there and {here.get(key)} here"
            for key in sorted(there.keys() | here.keys())
            if there.get(key) != here.get(key)
        ]
        if changed:
            more = f", and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise UsageError(
                f"The study {name} was begun with other settings: {', '.join(changed[:3])}{more}. "
                f"{other}"
            )

    def ended(self) -> "list[FrozenTrial]":
        """Those that have a value, or that diverged."""
        from optuna.trial import TrialState

        ended = (TrialState.COMPLETE, TrialState.PRUNED)
        return self.study.get_trials(deepcopy=False, states=ended)

    def batch(self, count: int, total: int, tried: set[int]) -> "list[FrozenTrial]":
        """The trials to run next: first those that an earlier command left, and then new ones.

        Args:
            count: How many at most.
            total: How many the study is to have.
            tried: The numbers of those that this command has run.
        """
        from optuna.trial import TrialState

        begun = []
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.params.keys() == self._distributions.keys():
                begun.append(trial)
            else:  # the command was killed while it chose
                self.study.tell(trial.number, state=TrialState.FAIL)
        found = [trial for trial in begun if trial.number not in tried][:count]
        room = min(count - len(found), total - len(begun) - len(self.ended()))
        return found + [self._new() for _ in range(room)]

    def tell(self, number: int, value: float | None) -> None:
        """Notes how a trial ended.

        Args:
            number: Of the trial.
            value: Of the objective. None or no finite number where the run diverged: the sampler
                then knows that this is no place to look, which it would not of a failed trial.
        """
        from optuna.trial import TrialState

        if value is None or not math.isfinite(value):
            self.study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)
        else:
            self.study.tell(number, value, skip_if_finished=True)

    def best(self) -> "FrozenTrial | None":
        """The best trial; None where none has a value."""
        from optuna.trial import TrialState

        some = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return self.study.best_trial if some else None

    def _new(self) -> "FrozenTrial":
        trials = self.study.get_trials(deepcopy=False)
        self.study.sampler = sampler(self.sampler, len(trials))
        number = self.study.ask(self._distributions).number
        return self.study.get_trials(deepcopy=False)[number]


def opened(url: str | None, name: str, folder: Path, direction: str) -> "Study":
    """A study, which is made where there is none of this name.

    Args:
        url: Of the database; None for a file in the folder.
        name: Of the study.
        folder: Of the search.
        direction: "minimize" or "maximize".

    Raises:
        UsageError: The database cannot be opened.
    """
    import optuna  # here: it takes a second to import

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(
            storage=_database(folder / FILE) if url is None else url,
            study_name=name,
            direction=optuna.study.StudyDirection[direction.upper()],
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner(),
        )
    except Exception as error:  # of a server, of a driver: anything
        # Not the address, which may hold a password.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        what = folder / FILE if url is None else "hydra.sweeper.storage"
        raise UsageError(f"{what} cannot be used: {reason}") from error


def sampler(node: DictConfig, number: int) -> "BaseSampler":
    """The sampler of a trial.

    Args:
        node: Its yaml, with a `seed` unless it takes none.
        number: Of the trial.

    Raises:
        UsageError: It takes other settings.
    """
    settings = OmegaConf.to_container(node, resolve=True)
    assert isinstance(settings, dict)
    given = {str(name): value for name, value in settings.items() if name != TARGET}
    if given.get("seed") is not None:
        digest = hashlib.sha256(f"{given['seed']} {number}".encode()).digest()
        given["seed"] = int.from_bytes(digest[:4])
    try:
        made: BaseSampler = target(node, KEY)(**given)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{KEY}: {blame.explained(error)}") from error
    return made


def _database(path: Path) -> "BaseStorage":
    """An SQLite file, whatever its path: a URL cannot hold every one."""
    import sqlite3

    from optuna.storages import RDBStorage

    def connected() -> "sqlite3.Connection":
        return sqlite3.connect(path.absolute(), timeout=60)

    path.parent.mkdir(parents=True, exist_ok=True)
    return RDBStorage(f"sqlite:///{FILE}", engine_kwargs={"creator": connected})
