"""The folder of each job of a sweep: what names it, and that no other job has it."""

import contextlib
import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml
from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, read_write

from bilevel_cli.errors import UsageError
from bilevel_cli.records.folder import CAREFUL
from bilevel_cli.records.plain import plain
from bilevel_cli.records.settings import NOT_IN_NAMES
from bilevel_cli.sweeps.job import Job
from bilevel_cli.vocabulary import JOB, NOTES

RULES = "hydra.job.config.override_dirname"
# Overrides are texts, whatever YAML would take them for. PyYAML may have been built without C.
_Loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_SHOWN = 100  # letters of a job in a message


class Names:
    """Names the folders of the jobs of a sweep.

    A folder is named by the settings of its job, but for those that the command line gives all jobs
    alike and that a run may change when it goes on. So the same command with more `outer_steps`
    finds the folders of before.

    Earlier versions named folders by those settings too. Such a folder is found by what Hydra
    noted in it, as long as there is one alone: with others beside it, the sweep was one over them.

    Args:
        config: The configuration of the sweep. It is told what to leave out.
    """

    def __init__(self, config: DictConfig) -> None:
        self._rules = OmegaConf.select(config, RULES)
        self._theirs = [str(key) for key in self._rules.exclude_keys]
        self._left_out = _alike(config)
        self._known: dict[Path, dict[frozenset[str], list[str]]] = {}
        if self._left_out:
            keys = ",".join(f"'{key}'" for key in (*self._theirs, *self._left_out))
            config.hydra.overrides.hydra.append(f"{RULES}.exclude_keys=[{keys}]")

    def earlier(self, root: Path, name: str, config: DictConfig) -> str:
        """The name under which an earlier version began a job; `name` if there is none.

        Args:
            root: The folder of the sweep.
            name: Of the folder of the job, within that of the sweep.
            config: The configuration of the job, to which HydraConfig is set.
        """
        if not self._left_out or Path(root, name, JOB).exists() or not root.is_dir():
            return name
        if root not in self._known:
            self._known[root] = _noted(root, self._left_out)
        if not self._known[root]:
            return name
        whole = self._with_all(config)
        if whole == name:  # numbered, say
            return name
        if Path(root, whole, JOB).exists():
            return whole
        found = self._known[root].get(self._kept(config.hydra.overrides.task), [])
        return found[0] if len(found) == 1 else name

    def _with_all(self, config: DictConfig) -> str:
        """The name of the folder of a job, with all settings of the command line."""
        job, before = config.hydra.job, config.hydra.job.override_dirname
        parsed = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        name = get_overrides_dirname(
            overrides=parsed,
            exclude_keys=self._theirs,
            item_sep=self._rules.item_sep,
            kv_sep=self._rules.kv_sep,
        )
        with read_write(job):
            job.override_dirname = name
            try:
                return str(config.hydra.sweep.subdir)
            finally:
                job.override_dirname = before

    def _kept(self, overrides: Iterable[str]) -> frozenset[str]:
        return _without(overrides, self._left_out)


def check_apart(jobs: Sequence[Job], earlier: Sequence[Job], listed: bool) -> list[Job]:
    """Refuses two jobs of one folder, but for the same job of a search.

    Args:
        jobs: That are to be launched together.
        earlier: The jobs of the sweep that were launched before.
        listed: Whether a list of them was asked for; a search may come to one job twice.

    Returns:
        The jobs, each folder once.

    Raises:
        UsageError: There are two.
    """
    of: dict[str, Job] = {os.path.normpath(job.folder): job for job in earlier}
    apart = []
    for job in jobs:
        first = of.setdefault(os.path.normpath(job.folder), job)
        if first is job:
            apart.append(job)
        elif listed or first.settings != job.settings:
            raise UsageError(_shared(first, job))
        elif not any(first is one for one in jobs):
            apart.append(job)
    return apart


def _shared(first: Job, second: Job) -> str:
    one, other = (
        [o for o in a.overrides if o not in b.overrides and not o.startswith("hydra.")]
        for a, b in ((first, second), (second, first))
    )
    where = plain(str(first.folder))[-_SHOWN:]
    if first.settings == second.settings:
        return f"A sweep needs each job once, got {where} twice. List each value once."
    shown = (plain(" ".join(told))[:_SHOWN] or "a job without them" for told in (one, other))
    return (
        f"A sweep needs a folder for each job, got {where} for {' and for '.join(shown)}. Leave "
        "hydra.sweep.subdir out, or name there what tells the jobs apart."
    )


def _alike(config: DictConfig) -> list[str]:
    """The settings that the command line gives all jobs alike, and that name no folder."""
    parsed = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    swept = {one.key_or_group for one in parsed if one.is_sweep_override()}
    swept |= {_key(str(key)) for key in OmegaConf.select(config, "hydra.sweeper.params") or ()}
    given = dict.fromkeys(one.key_or_group for one in parsed)
    return [key for key in given if key not in swept and {key, _top(key)} & set(NOT_IN_NAMES)]


def _noted(root: Path, left_out: Iterable[str]) -> dict[frozenset[str], list[str]]:
    """The names of the jobs in the folder of a sweep, by their overrides without some."""
    found: dict[frozenset[str], list[str]] = {}
    for path in root.glob(f"*/{JOB}"):
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
            # Only taken apart, as text: whoever wrote the file, nothing is built of it.
            events = yaml.parse(_read(path.parent / NOTES / "overrides.yaml"), _Loader)
            noted = [event.value for event in events if isinstance(event, yaml.ScalarEvent)]
            found.setdefault(_without(noted, left_out), []).append(path.parent.name)
    return found


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | CAREFUL)
    try:
        return os.pread(descriptor, 1 << 20, 0)
    finally:
        os.close(descriptor)


def _without(overrides: Iterable[str], left_out: Iterable[str]) -> frozenset[str]:
    names = set(left_out)
    return frozenset(one for one in overrides if _key(one) not in names)


@functools.cache
def _key(override: str) -> str:
    """The setting of an override as it is typed, such as `+loggers@here.x=1`."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def _top(key: str) -> str:
    return key.replace("/", ".").partition(".")[0]
