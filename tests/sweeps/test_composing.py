"""Jobs of a sweep are composed once, and come out as Hydra composes them."""

import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import bilevel_run
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from bilevel_cli.config.options import CONF
from bilevel_cli.runs import entry
from bilevel_cli.sweeps.composer import composer

HYDRAS = ["hydra.sweep.dir=there", "hydra.sweep.subdir=${hydra.job.num}", "hydra.job.chdir=false"]
RIGHT: tuple[list[str], ...] = (
    ["task=reweight", "method=iaptt", "optimizer.lr=0.1", "seed=3"],
    ["seed=3", "optimizer=adam", "task=meta", "~optimizer.lr"],
    ["task=quadratic", "method=cg", "method/linear_solver=exact", "hydra.sweep.subdir='a,b'"],
    ["task=quadratic", "+suggest.x={a: 1}", "suggest.x.a=2", "++suggest.x.b=${seed}"],
    ["task=quadratic", "+method.seed=1", "hydra.job.name=other"],
    [],
)
WRONG: tuple[list[str], ...] = (
    ["task={a: 1}", "seed=1"],
    ["task=quadratic", "no.such=1"],
    ["task=quadratic", "+seed=1"],
    ["task=nowhere", "seed=1"],
    ["task=quadratic", "seed=1,2"],
    ["task=quadratic", "seed={"],
    ["task=quadratic", "seed@there=1"],
    ["task=quadratic", "method/linear_solver=exact", "method=reverse"],
    ["task=quadratic", "~nothing"],
)


@pytest.fixture
def hydras() -> Iterator[ConfigLoader]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def sweep(loader: ConfigLoader) -> DictConfig:
    return loader.load_configuration("config", HYDRAS, RunMode.MULTIRUN)


def nodes(config: Any, name: str = "") -> Iterator[tuple[Any, ...]]:
    """All nodes of a configuration, with what makes them read-only, say, and their types."""
    metadata = config._metadata
    kind = (metadata.object_type, metadata.ref_type, metadata.flags)
    yield name, *kind, None if OmegaConf.is_config(config) else config._value()
    if isinstance(config, DictConfig) and isinstance(config._value(), dict):
        for key, value in config.items_ex(resolve=False):
            if isinstance(value, DictConfig):
                yield from nodes(value, f"{name}.{key!s}")
            else:
                yield f"{name}.{key!s}", value


def test_a_job_is_composed_as_by_hydra(hydras: ConfigLoader) -> None:
    master, ours = sweep(hydras), composer(hydras)
    for overrides in RIGHT:
        theirs = hydras.load_sweep_config(master, overrides)
        for _ in range(2):  # composed, and kept
            found = ours.load_sweep_config(master, overrides)
            assert list(nodes(found)) == list(nodes(theirs)), overrides
            found.seed = 99  # the copy of a caller


def test_a_wrong_job_is_refused_as_by_hydra(hydras: ConfigLoader) -> None:
    master, ours = sweep(hydras), composer(hydras)

    def said(loader: ConfigLoader, overrides: list[str]) -> tuple[type[Exception], str]:
        try:
            loader.load_sweep_config(master, overrides)
        except Exception as error:  # of whatever kind
            return type(error), str(error)
        pytest.fail(f"{overrides} was composed.")

    for overrides in WRONG:
        refusal = said(hydras, overrides)
        assert [said(ours, overrides) for _ in range(2)] == [refusal] * 2  # nothing wrong is kept


def test_the_time_of_day_is_that_of_the_sweep(hydras: ConfigLoader) -> None:
    master, ours = sweep(hydras), composer(hydras)
    settings = ["task=quadratic", "+suggest.x=${now:%f}"]
    ours.load_sweep_config(master, settings)
    OmegaConf.update(master, "suggest.x", "${now:%f}", force_add=True)
    now = master.suggest.x
    assert ours.load_sweep_config(master, settings).suggest.x == now


def test_a_process_of_a_launcher_composes_all_its_jobs_by_one_composer(
    hydras: ConfigLoader,
) -> None:
    master, ours = sweep(hydras), composer(hydras)
    first, second = (pickle.loads(pickle.dumps(ours)) for _ in range(2))
    assert first is second
    assert pickle.loads(pickle.dumps(composer(hydras))) is not first
    found = first.load_sweep_config(master, RIGHT[0])
    assert found == hydras.load_sweep_config(master, RIGHT[0])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a configuration is composed, and each file of options read, from now on."""
    count: Counter[str] = Counter()
    compose, load = ConfigLoaderImpl.load_configuration, FileConfigSource.load_config

    def load_configuration(self: ConfigLoaderImpl, *given: Any, **named: Any) -> DictConfig:
        count["composed"] += 1
        return compose(self, *given, **named)

    def load_config(self: FileConfigSource, config_path: str) -> ConfigResult:
        count["read"] += 1
        return load(self, config_path)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", load_configuration)
    monkeypatch.setattr(FileConfigSource, "load_config", load_config)
    return count


def test_what_a_sweep_composes_grows_with_its_choices_and_not_with_its_jobs(
    counted: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    monkeypatch.setattr(entry, "run", lambda config, *_: ran.append(config.seed))

    def counts(name: str, *settings: str) -> Counter[str]:
        counted.clear()
        where = f"hydra.sweep.dir={tmp_path / name}"
        assert bilevel_run(monkeypatch, "-m", "task=quadratic", where, *settings) == 0
        return Counter(counted)

    few, many = counts("few", "seed=0,1"), counts("many", "seed=range(4)")
    assert many == few
    assert ran == [0, 1, *range(4)]
    two = counts("two", "seed=0,1", "method=reverse,cg")
    assert two["composed"] == few["composed"] + 1
    # Of the second method its own files alone: cg, and the linear solver that it chooses.
    assert two["read"] <= few["read"] + 3
    completed = counts("many", "seed=range(4)")
    assert completed == many
    assert len(ran) == 2 + 4 + 4


def test_a_sweeper_that_asks_for_one_job_at_a_time_composes_no_more(
    counted: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry, "run", lambda *_: None)
    settings = ["-m", "task=quadratic", "seed=0,1"]
    found = []
    for number, size in enumerate(("2", "1")):
        counted.clear()
        where = [
            f"hydra.sweep.dir={tmp_path / str(number)}",
            f"hydra.sweeper.max_batch_size={size}",
        ]
        assert bilevel_run(monkeypatch, *settings, *where) == 0
        found.append(Counter(counted))
    assert found[0] == found[1]
