"""The configurations of the jobs of a sweep: what they have in common is composed once."""

import copy
import uuid
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

OWN = "hydra.sweep."  # the settings of Hydra that differ between the jobs of a sweep

_here: dict[str, "Composer"] = {}  # in a process that runs several jobs of a launcher


class Composer(ConfigLoaderImpl):
    """Hydra's loader, which composes once what the jobs of a sweep have in common.

    Hydra asks for a job three times: its sweeper, to see whether it can be composed; this package,
    to see whether it remains; and its launcher. Each time it reads some 20 files, for 0.08 s. Here
    jobs that choose the same options share what these come to, and their values, which decide
    nothing about options, are set in a copy of it, which takes 4 ms.

    Files are read once in a sweep: one that is changed meanwhile changes no job.

    Args:
        config_search_path: Hydra's.
        repository: Reads the files of that path.
        token: Tells the sweep from others.
    """

    def __init__(
        self, config_search_path: ConfigSearchPath, repository: "ReadOnce", token: str
    ) -> None:
        # Not as Hydra does: in a process of a launcher it does not know its kinds of sources yet.
        self.config_search_path, self.repository = config_search_path, repository
        self._token = token
        self._bases: dict[tuple[Any, ...], DictConfig] = {}
        self._parsed: dict[str, Override] = {}
        self._groups: dict[str, bool] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Without what is kept: a pickle of it goes with each job.
        return _unpickled, (self._token, self.config_search_path, self.repository)

    def forget(self) -> None:
        """Lets go of what jobs alone need, once they were launched: a search has no end of them."""
        self._parsed.clear()

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """The configuration of a job, in a copy that belongs to the caller.

        Args:
            master_config: The configuration of the sweep.
            sweep_overrides: The settings of the job.

        Raises:
            Exception: As Hydra's own loader.
        """
        parsed = [self._override(text) for text in sweep_overrides]
        if not all(map(_known, parsed)):
            return super().load_sweep_config(master_config, sweep_overrides)
        values = [override for override in parsed if not self._chooses(override, master_config)]
        choices = [str(override.input_line) for override in parsed if override not in values]
        key = (_of_all(master_config), *choices)
        if key not in self._bases:
            self._bases[key] = super().load_sweep_config(master_config, choices)
        config = copy.deepcopy(self._bases[key])
        # One time of day for all jobs.
        OmegaConf.copy_cache(from_config=master_config, to_config=config)
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        _note(config, parsed)
        return config

    def _override(self, text: str) -> Override:
        if text not in self._parsed:
            (self._parsed[text],) = OverridesParser.create().parse_overrides([text])
        return self._parsed[text]

    def _chooses(self, override: Override, master: DictConfig) -> bool:
        """Whether an override chooses an option of a group, as Hydra decides it."""
        group = override.key_or_group
        if group not in self._groups:
            name, *hydras = _of_all(master)
            self._groups[group] = bool(self.get_group_options(group, None, name, hydras))
        return self._groups[group] and not isinstance(override.value(), dict)


class ReadOnce(ConfigRepository):
    """Hydra's repository of files, which reads and parses a file once.

    Args:
        config_search_path: Hydra's.
    """

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self._read = _InCommon()

    def load_config(self, config_path: str) -> ConfigResult | None:
        key = (config_path, *((source.provider, source.path) for source in self.sources))
        if key not in self._read:
            self._read[key] = super().load_config(config_path)
        return copy.deepcopy(self._read[key])


class _InCommon(dict[tuple[Any, ...], ConfigResult | None]):
    """A dict that copies of what holds it have in common: Hydra copies a repository to use it."""

    def __deepcopy__(self, memo: Any) -> "_InCommon":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _InCommon, ()


def composer(loader: ConfigLoader) -> Composer:
    """What stands in for Hydra's loader in a sweep."""
    path = loader.get_search_path()
    return Composer(path, ReadOnce(path), uuid.uuid4().hex)


def _unpickled(token: str, path: ConfigSearchPath, repository: ReadOnce) -> Composer:
    """The composer of a sweep in a process of a launcher: one for all jobs that run in it."""
    if token not in _here:
        _here.clear()  # of a sweep before
        _here[token] = Composer(path, repository, token)
    return _here[token]


def _of_all(master: DictConfig) -> tuple[str, ...]:
    """What a sweep says of all its jobs: the name of its file, and its settings of Hydra."""
    given = OmegaConf.to_container(master.hydra.overrides.hydra, resolve=False)
    assert isinstance(given, list)
    return (str(master.hydra.job.config_name), *map(str, given))


def _known(override: Override) -> bool:
    """Whether this file knows what an override does; of others, Hydra composes anew."""
    hydras = override.is_hydra_override() and not override.key_or_group.startswith(OWN)
    return not (hydras or override.is_sweep_override())


def _note(config: DictConfig, parsed: list[Override]) -> None:
    """Notes the overrides of a job, as Hydra does after it has applied them."""
    own = [override for override in parsed if override.is_hydra_override()]
    task = [override for override in parsed if not override.is_hydra_override()]
    hydra = config.hydra
    for override in own:
        hydra.overrides.hydra.append(override.input_line)
    hydra.overrides.task = [override.input_line for override in task]
    rules = hydra.job.config.override_dirname
    hydra.job.override_dirname = get_overrides_dirname(
        overrides=task,
        exclude_keys=rules.exclude_keys,
        item_sep=rules.item_sep,
        kv_sep=rules.kv_sep,
    )
