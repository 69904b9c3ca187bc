"""A setting that nothing reads is refused as a typo is."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import bilevel_cli
from bilevel_cli.config import options
from bilevel_cli.config.options import CONF
from bilevel_cli.config.unread import check_read
from bilevel_cli.errors import UsageError


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", ["task=quadratic", *overrides], return_hydra_config=True)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+zzz=1", "Nothing reads zzz."),
        ("+zzz={a: ${seed}}", "Nothing reads zzz."),
        ("+outer_step=3", "Nothing reads outer_step. Did you mean 'outer_steps'?"),
        ("+suggest.inner_lo=0", "suggest.inner_lo. Did you mean 'suggest.inner_low'?"),
        ("+experiment.x=1", "Nothing reads experiment."),
        ("+optimizer@other=sgd", "Nothing reads other."),
        ("+hydra.job.chdirr=1", "Did you mean 'hydra.job.chdir'?"),
        ("model=mlp", "Nothing reads model=mlp: Quadratic takes no model. Leave it out."),
        ("+model.width=3", "Nothing reads model.width=3: Quadratic takes no model."),
    ],
)
def test_a_setting_that_nothing_reads_is_named(override: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        check_read(composed(override))


@pytest.mark.parametrize(
    "overrides",
    [
        ["+zzz=1", "task.inner_dim=${zzz}"],
        ["+zzz={a: 1}", "task.inner_dim=${oc.select:zzz.a}"],
        ["+zzz=x", "hydra.run.dir=outputs/${zzz}"],
        [
            "+suggest.inner_low=-0.2",
            "+suggest.inner_high=0.2",
        ],  # read by a solver that could be chosen
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        ["~scheduler"],
    ],
)
def test_a_setting_that_another_one_reads_is_none(overrides: list[str]) -> None:
    check_read(composed(*overrides))


@pytest.mark.slow
@pytest.mark.parametrize("experiment", [*options.names("experiment")])
def test_no_experiment_has_a_setting_that_nothing_reads(experiment: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        check_read(compose("config", [f"experiment={experiment}"], return_hydra_config=True))


def test_a_line_of_ones_own_yaml_is_read_or_named(tmp_path: Path) -> None:
    own = tmp_path / "conf" / "experiment"
    own.mkdir(parents=True)
    header = "# @package _global_\ndefaults:\n  - override /task: quadratic\n"
    (own / "typo.yaml").write_text(f"{header}log_evry: 3\n")
    (own / "helper.yaml").write_text(f"{header}size: 3\ntask:\n  inner_dim: ${{size}}\n")
    (own / "hint.yaml").write_text(f"{header}suggest:\n  mine: 3\n")
    (tmp_path / "conf" / "solver").mkdir()
    (tmp_path / "conf" / "solver" / "mine.yaml").write_text("lr: ${suggest.mine}\n")

    def run(experiment: str) -> bilevel_cli.Run:
        return bilevel_cli.run(
            *(f"experiment={experiment}", "outer_steps=1", "device=cpu", "eval_every=1"),
            folder=tmp_path / experiment,
            config_dir=tmp_path / "conf",
            progress=False,
        )

    with pytest.raises(UsageError, match=r"Nothing reads log_evry\. Did you mean 'log_every'"):
        run("typo")
    assert run("helper").settings["task.inner_dim"] == 3
    run("hint")  # for a solver that is not chosen


def test_an_argument_that_a_class_does_not_take_is_named_with_the_nearest_it_takes() -> None:
    with pytest.raises(UsageError, match=r"got inner_dimm\. Did you mean 'inner_dim'"):
        bilevel_cli.run("task=quadratic", "+task.inner_dimm=3", progress=False)
