"""~key of what a run needs is refused by name."""

import pytest
from commands import bilevel_run, close_logs
from configs import composed
from omegaconf import OmegaConf

from bilevel_cli.config import options
from bilevel_cli.config.deletions import check_complete
from bilevel_cli.config.refused import check_command_line
from bilevel_cli.errors import UsageError

Captured = pytest.CaptureFixture[str]
QUICK = {"task": "quadratic", "device": "cpu", "outer_steps": "1", "inner_steps": "2"}
SETTINGS = [
    str(key)
    for key in OmegaConf.load(options.CONF / "config.yaml")
    if key not in ("defaults", "hydra")
]
HYDRA = [
    "hydra",
    "hydra.run",
    "hydra.run.dir",
    "hydra.sweep",
    "hydra.job.name",
    "hydra.output_subdir",
]
HYDRA += ["hydra/launcher", "hydra/job_logging", "hydra.mode", "hydra.verbose"]
# Without one of these a task that takes none is whole; a task that takes it says what it lacks.
SPARED = ("data", "model", "experiment")


def test_each_setting_of_the_configuration_is_missed_by_its_name() -> None:
    config = composed("task=quadratic")
    check_complete(config)
    for name in SETTINGS:
        lacking = config.copy()
        OmegaConf.set_struct(lacking, False)
        del lacking[name]
        with pytest.raises(UsageError, match=rf"needs {name}=\.\.\., got ~{name}\."):
            check_complete(lacking)
        check_complete(lacking, [other for other in SETTINGS if other != name])


@pytest.mark.parametrize("name", HYDRA)
def test_settings_of_hydra_stay(name: str) -> None:
    with pytest.raises(UsageError, match=f"got '~{name}'"):
        check_command_line(["task=quadratic", f"~{name}"])
    check_command_line(["~hydrate", "~solver.hydra"])


EVERY = ["seed", "solver", "hydra.run"]
MORE = [*SETTINGS, *options.groups(), *HYDRA, "suggest", "suggest.inner_lr", "solver.lr"]
MORE += ["device.dtype", "metrics.0", "zzz", "optimizer._target_", "solver@x"]


@pytest.mark.parametrize("value", ["", pytest.param("={}", marks=pytest.mark.faults)])
@pytest.mark.parametrize(
    "name",
    [*EVERY, *(pytest.param(n, marks=pytest.mark.faults) for n in MORE if n not in EVERY)],
)
def test_a_deletion_is_harmless_or_refused_in_one_message(
    name: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    chosen = [f"{key}={of}" for key, of in QUICK.items() if key != name]
    code = bilevel_run(monkeypatch, *chosen, f"~{name}{value.format(QUICK.get(name, 1))}")
    close_logs()
    error = capsys.readouterr().err
    if name in SPARED and not value:
        assert (code, error) == (0, "")
        return
    assert code == 2
    assert error.startswith("bilevel-run: ")
    assert error.count("bilevel-run: ") == 1
    assert len(error.splitlines()) <= 3
    assert len(error) <= 400 + len("bilevel-run: \n")
    assert "Traceback" not in error
