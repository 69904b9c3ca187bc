"""How often a command composes its configuration."""

from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from commands import bilevel_run, close_logs
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository

from bilevel_cli.config import single_composition

JOB = ("task=quadratic", "method=reverse", "outer_steps=1", "inner_steps=2", "device=cpu")


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Hydra composes, each time that it does."""
    found, compose = list[Any](), ConfigLoaderImpl._load_configuration_impl

    def noted(*given: Any, **named: Any) -> Any:
        found.append(compose(*given, **named))
        return found[-1]

    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", noted)
    return found


def test_a_single_run_is_composed_once_and_each_of_its_files_is_read_once(
    composed: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, load = Counter[str](), ConfigRepository.load_config

    def noted(self: ConfigRepository, config_path: str) -> Any:
        files[config_path] += 1
        return load(self, config_path)

    monkeypatch.setattr(ConfigRepository, "load_config", noted)
    assert bilevel_run(monkeypatch, *JOB, f"hydra.run.dir={tmp_path}") == 0
    close_logs()
    assert len(composed) == 1
    assert files["task/quadratic"] == 1, files
    assert set(files.values()) == {1}


def test_what_is_composed_once_is_what_hydra_composes(
    composed: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def notes() -> dict[str, str]:
        return {path.name: path.read_text() for path in (tmp_path / ".hydra").iterdir()}

    job = (*JOB, "hydra.job.name=mine", f"hydra.run.dir={tmp_path}")
    assert bilevel_run(monkeypatch, *job) == 0
    ours = notes()
    monkeypatch.setattr(single_composition, "once", nullcontext)
    assert bilevel_run(monkeypatch, *job) == 0
    close_logs()
    assert len(composed) == 1 + 2
    assert ours == notes()
    assert "hydra.mode=RUN" in ours["hydra.yaml"]


@pytest.mark.parametrize("sweep", [["--multirun"], ["hydra.mode=MULTIRUN"]])
def test_a_sweep_of_one_job_stays_a_sweep(
    sweep: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bilevel_run(monkeypatch, *sweep, *JOB, f"hydra.sweep.dir={tmp_path}") == 0
    close_logs()
    assert (tmp_path / "multirun.yaml").is_file()


def test_hydra_composes_as_ever_once_the_command_has_ended() -> None:
    theirs = ConfigLoaderImpl.load_configuration
    with single_composition.once():
        assert ConfigLoaderImpl.load_configuration is not theirs
    assert ConfigLoaderImpl.load_configuration is theirs
