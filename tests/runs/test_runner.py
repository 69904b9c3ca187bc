"""The outer loop: its tables, its checkpoints, and what it refuses."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from configs import composed
from omegaconf import OmegaConf
from runners import runner_in
from torch import Tensor

from bilevel_cli.config.resolved import resolved
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.trees import Params
from bilevel_cli.errors import Failed, UsageError
from bilevel_cli.runs import entry
from bilevel_cli.runs.runner import Runner

QUICK = ("device=cpu", "task=quadratic", "outer_steps=20", "log_every=3", "eval_every=5")
TIMINGS = ["seconds", "peak_memory_mb"]


def build(directory: Path, *overrides: str) -> Runner:
    directory.mkdir(exist_ok=True)
    config = composed(*QUICK, *overrides)
    return runner_in(config, directory)


def table(directory: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(directory / name).drop(columns=TIMINGS, errors="ignore")


class Kill(BaseException):
    """What no handler catches: the end of the process, as far as the runner can tell."""


def kill_at(runner: Runner, step: int) -> None:
    advance = runner._advance

    def advance_or_die() -> Any:
        if runner.step == step:
            raise Kill
        return advance()

    runner._advance = advance_or_die  # type: ignore[method-assign]
    with pytest.raises(Kill):
        runner.run()


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=cg", "method.warm_adjoint=true", "start=warm"],
        ["method=iaptt", "solver=adam", "start=learned"],
        ["method=reverse", "start=partial", "solver=nesterov", "optimizer=sgd"],
        ["task=toy", "method=iaptt"],
        ["task=reweight", "data=breast_cancer", "task.batch_size=20", "inner_steps=3"],
        ["task=meta", "model=linear", "task.episodes=2", "task.eval_episodes=4", "method=iaptt"],
        ["task=reweight", "data=breast_cancer", "task.batch_size=30", "method=saba"],
        ["task=logistic", "task.batch_size=16", "task.outer_batch_size=16", "method=stocbio"],
        ["task=ridge", "task.batch_size=16", "method=mrbo", "inner_steps=2"],
        ["task=ridge", "task.batch_size=16", "method=srba", "method.period=3"],
        ["method=pes", "method.horizon=5"],
        ["method=f2sa"],
        ["method=random_search"],
        ["method=nystrom"],
        ["start=warm", "average=0.9", "test_steps=[0,2,7]"],
        [
            *("task=sinusoid", "model.width=4", "task.episodes=2", "task.eval_episodes=2"),
            *("average=0.9", "test_steps=[0,3]"),
        ],
    ],
    ids=" ".join,
)
def test_an_interrupted_run_continues_bit_for_bit(overrides: list[str], tmp_path: Path) -> None:
    overrides = [*overrides, "save_every=4"]
    whole = build(tmp_path / "whole", *overrides)
    whole.run()
    for step in (2, 7, 17):  # before the first checkpoint, and between two
        kill_at(build(tmp_path / "killed", *overrides), step)
    with (tmp_path / "killed" / "train.csv").open("a") as file:
        file.write("18,0.2,torn")
    continued = build(tmp_path / "killed", *overrides)
    assert continued.step == 16
    continued.run()
    for name, value in whole.state.outer.items():
        assert torch.equal(value, continued.state.outer[name])
    for name in ("train.csv", "eval.csv"):
        one, other = (table(tmp_path / folder, name) for folder in ("whole", "killed"))
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_rows_are_written_when_due_and_at_the_end(tmp_path: Path) -> None:
    build(tmp_path).run()
    assert table(tmp_path, "train.csv")["step"].tolist() == [3, 6, 9, 12, 15, 18, 20]
    assert table(tmp_path, "eval.csv")["step"].tolist() == [0, 5, 10, 15, 20]


def test_the_outer_parameters_move_and_the_score_improves(tmp_path: Path) -> None:
    # Defect elsewhere: with one option the upper variable is never updated.
    build(tmp_path, "outer_steps=200", "task.noise=0").run()
    scores = table(tmp_path, "eval.csv")
    assert scores["hypergradient_norm"].iloc[-1] < 0.05 * scores["hypergradient_norm"].iloc[0]


def test_more_outer_steps_extend_a_finished_run(tmp_path: Path) -> None:
    build(tmp_path / "once", "outer_steps=40").run()
    build(tmp_path / "twice", "outer_steps=15").run()
    longer = build(tmp_path / "twice", "outer_steps=40")
    assert longer.step == 15
    longer.run()
    once, twice = (table(tmp_path / folder, "eval.csv") for folder in ("once", "twice"))
    pd.testing.assert_series_equal(once.iloc[-1], twice.iloc[-1], check_exact=True)
    with pytest.raises(UsageError, match="holds a run of 40 outer steps, got outer_steps=15"):
        build(tmp_path / "twice", "outer_steps=15")


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    scores = build(tmp_path).run()
    before = (tmp_path / "train.csv").read_bytes()
    assert build(tmp_path).run() == scores
    assert (tmp_path / "train.csv").read_bytes() == before


def test_a_checkpoint_of_other_settings_is_refused_by_their_names(tmp_path: Path) -> None:
    build(tmp_path).run()
    with pytest.raises(UsageError, match=r"seed=0 there and 1 here, solver.lr=0.1 there and 0.2"):
        build(tmp_path, "seed=1", "solver.lr=0.2")


def test_a_refused_run_leaves_the_one_that_is_there_alone(tmp_path: Path) -> None:
    entry.run(composed(*QUICK), tmp_path, {})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="holds a run with other settings"):
        entry.run(composed(*QUICK, "seed=1"), tmp_path, {})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_costs_are_cumulative_columns(tmp_path: Path) -> None:
    build(tmp_path, "method=iaptt", "inner_steps=6", "log_every=1").run()
    rows = table(tmp_path, "train.csv")
    taken = rows["inner_grads"].diff().fillna(rows["inner_grads"])
    # Where a later step was the worst, steps before it were run again, with a graph.
    assert (taken[rows["pessimistic_step"] == 1] == 6).all()
    assert taken.between(6, 12).all()
    assert rows["hvps"].tolist() == rows["pessimistic_step"].cumsum().tolist()
    assert set(TIMINGS) <= set(pd.read_csv(tmp_path / "train.csv"))


def test_a_budget_of_inner_gradients_ends_a_run_and_a_larger_one_extends_it(tmp_path: Path) -> None:
    overrides = ["inner_steps=6", "log_every=1", "outer_steps=40"]
    build(tmp_path / "once", *overrides, "budget=100").run()
    assert table(tmp_path / "once", "train.csv")["inner_grads"].iloc[-1] == 102  # 17 steps of 6
    assert table(tmp_path / "once", "eval.csv")["step"].iloc[-1] == 17
    build(tmp_path / "twice", *overrides, "budget=50").run()
    longer = build(tmp_path / "twice", *overrides, "budget=100")
    assert longer.step == 9
    longer.run()
    once, twice = (table(tmp_path / folder, "train.csv") for folder in ("once", "twice"))
    pd.testing.assert_frame_equal(once, twice, check_exact=True)


@pytest.mark.parametrize("start", ["cold", "warm", "learned"])
def test_retraining_scores_a_fresh_solve_whatever_the_start(start: str, tmp_path: Path) -> None:
    words = [f"start={start}", "inner_steps=4", "retrain=4", "task.noise=0", "outer_steps=5"]
    runner = build(tmp_path, *words, "device.dtype=float64")
    runner.run()
    last = table(tmp_path, "eval.csv").iloc[-1]
    cold = build(tmp_path / "cold", *words[1:], "start=cold", "device.dtype=float64")
    data = cold.experiment.task.sample(4, torch.Generator())
    with torch.no_grad():
        task, loop = cold.experiment.task, cold.experiment.loop
        outer, carry = runner.state.outer, runner.state.carry
        fresh = loop.run(loop.fresh(outer, data), outer, data)["inner"]
        for name, inner in (("retrained", fresh), ("joint", carry["inner"]["inner"])):
            expected = float(task.outer_loss(inner, outer, data.outer))
            assert last[f"{name}_loss"] == pytest.approx(expected, rel=1e-12)


def test_retraining_takes_the_outer_parameters_as_the_task_deploys_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = build(tmp_path, "retrain=4", "task.noise=0", "outer_steps=5", "device.dtype=float64")
    task, loop = runner.experiment.task, runner.experiment.loop

    def doubled(outer: Params) -> Params:
        return {name: 2 * value for name, value in outer.items()}

    monkeypatch.setattr(task, "deployed", doubled)
    runner.run()
    last, data = table(tmp_path, "eval.csv").iloc[-1], task.sample(4, torch.Generator())
    with torch.no_grad():
        outer, joint = doubled(runner.state.outer), runner.state.carry["inner"]["inner"]
        fresh = loop.run(loop.fresh(outer, data), outer, data)["inner"]
        expected = {
            "retrained_loss": task.outer_loss(fresh, outer, data.outer),
            "retrained_value": task.evaluate(loop, outer, fresh)["value"],
            "joint_loss": task.outer_loss(joint, runner.state.outer, data.outer),
        }
    for name, value in expected.items():
        assert last[name] == pytest.approx(float(value), rel=1e-12)


def test_a_start_with_a_step_size_of_its_own_moves_by_it_and_follows_the_schedule(
    tmp_path: Path,
) -> None:
    words = ["optimizer=sgd", "optimizer.lr=0.01", "outer_steps=1"]
    moved = {}
    for name, start in {
        "together": ["start=learned"],
        "apart": ["start=learned_apart", "start.lr=0.04"],
    }.items():
        runner = build(tmp_path / name, *words, *start)
        before = {key: value.clone() for key, value in runner.state.outer.items()}
        runner.run()
        moved[name] = {key: runner.state.outer[key] - value for key, value in before.items()}
        lr = [group["lr"] for group in runner.state.optimizer.param_groups]
        assert lr == ([0.01] if name == "together" else [0.01, 0.04])
    for key, step in moved["together"].items():
        factor = 4 if key.startswith("init.") else 1
        torch.testing.assert_close(moved["apart"][key], factor * step)


def test_a_metric_adds_its_columns(tmp_path: Path) -> None:
    build(tmp_path, "metrics=[hypergradient_gap]", "method=truncated").run()
    rows = table(tmp_path, "train.csv")
    assert rows["gap_cosine"].between(0, 1).all()
    assert (rows["gap_relative_error"] > 0).all()


def test_a_non_finite_number_stops_the_run_and_is_kept(tmp_path: Path) -> None:
    # Defect elsewhere: NaN gradients are replaced by zeros in silence.
    overrides = ["save_every=3", "outer_steps=40"]
    spoiled = build(tmp_path, *overrides)
    sample = spoiled.experiment.task.sample

    def sample_then_nan(num_steps: int, generator: torch.Generator) -> StepData:
        data = sample(num_steps, generator)
        return (
            data if spoiled.step < 10 else data._replace(inner={"scale": data.inner["scale"] / 0})
        )

    spoiled.experiment.task.sample = sample_then_nan  # type: ignore[method-assign]
    with pytest.raises(Exception, match="At step 12 there is no finite outer_loss and no finite"):
        spoiled.run()
    rows = pd.read_csv(tmp_path / "train.csv")
    assert rows["step"].tolist() == [3, 6, 9, 12]
    assert not pd.notna(rows["outer_loss"].iloc[-1])
    assert build(tmp_path, *overrides).step == 9  # the last finite checkpoint


def test_methods_of_one_seed_see_the_same_data(tmp_path: Path) -> None:
    def seen(method: str, seed: int) -> list[Tensor]:
        options = ["task=reweight", "data=breast_cancer", "task.batch_size=5", "inner_steps=2"]
        run = build(tmp_path / f"{method}{seed}", f"method={method}", f"seed={seed}", *options)
        task: Any = run.experiment.task
        found, sample = [task.flag, task.train.x], task.sample

        def remember(num_steps: int, generator: torch.Generator) -> StepData:
            data = sample(num_steps, generator)
            if generator is run.state.random.sampling:  # not the minibatches of a method's own
                found.extend([data.inner["index"], *data.init.values()])
            return data

        task.sample = remember
        run.run()
        return found

    reference = seen("reverse", 0)
    for method in ("iaptt", "cg", "none", "truncated", "stocbio", "es"):
        assert all(torch.equal(*pair) for pair in zip(reference, seen(method, 0), strict=True))
    assert not torch.equal(reference[0], seen("reverse", 1)[0])


def test_float32_numbers_are_written_in_their_shortest_form(tmp_path: Path) -> None:
    build(tmp_path).run()
    lines = (tmp_path / "train.csv").read_text().splitlines()[1:]
    assert max(len(line.split(",")[2]) for line in lines) <= 11  # 9 digits identify a float32


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=meta", "start=warm"], "Warm needs the same inner problem at every outer step"),
        (["task=meta", "method=cg", "method.warm_adjoint=true"], "Implicit needs the same inner"),
        (["task=meta", "method=cg"], "they act through the start alone. Use method=reverse"),
        (["budget=0"], "A run needs budget >= 1, got budget=0"),
        (["retrain=0"], "A run needs retrain >= 1, got retrain=0"),
        (["test_steps=5"], r"test_steps needs a list of numbers .* got 5\. Set e\.g\."),
        (["test_steps=[]"], r"test_steps needs a list of numbers .* got \[\]"),
        (["test_steps=[1,-1]"], r"test_steps needs a list of numbers .* got \[1, -1\]"),
        (["test_steps=[1,2.5]"], r"whole and >= 0, got \[1, 2\.5\]"),
        (["test_steps=[many]"], r"whole and >= 0, got \['many'\]"),
        (["average=1"], r"average needs a number from 0 to 1, without 1, got 1\. Set e\.g\."),
        (["average=-0.1"], r"average needs a number from 0 to 1, without 1, got -0\.1"),
        (["average=nan"], r"average needs a number from 0 to 1, without 1, got nan"),
        (["average=some"], r"average needs a number from 0 to 1, without 1, got some"),
        (["task=meta", "retrain=5"], "Re-training needs one inner problem that goes on"),
        (["start=learned_apart", "start.lr=0"], "LearnedApart needs a finite lr > 0, got lr=0"),
        (["budget=many"], "budget needs a whole number, got 'many'"),
        (["outer_steps=0"], "A run needs outer_steps >= 1, got outer_steps=0"),
        ([f"inner_steps={2**67}"], r"A run needs inner_steps < 2\^63, got inner_steps=14757"),
        (["solver.lr=fast"], "solver.lr needs a number or a Learned, got 'fast'"),
        (["seed=1.5"], "seed needs a whole number, got 1.5"),
        (["task.inner_dim=2.5"], "task.inner_dim needs a whole number, got 2.5"),
        (["+task.colour=red"], "task takes inner_dim, outer_dim, noise, got colour. Remove it."),
        (["task=reweight", "data=omniglot"], "needs other data than .*data=digits"),
        (["task=meta", "data=mnist"], "needs other data than .*data=digits, .*data=omniglot"),
        (["task=quadratic", "data=digits"], "brings its own data"),
        (["device.dtype=float16"], "A device needs dtype to be one of float32, float64"),
        (["task=meta", "task.ways=30"], "FewShot needs ways <= 20"),
        (["task=meta", "task.adapt=tail"], "FewShot needs adapt=all or the prefix of some"),
        (["task=reweight", "task.noise.share=1.0"], r"Symmetric needs share in \[0, 1\)"),
        (["task=reweight", "model=conv4", "data=breast_cancer"], "Conv4 needs images of shape"),
        (["task=toy", "task.start=[0,0]"], r"Toy needs start=\[x,y\]"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_run_is_refused_before_any_work(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        build(tmp_path, *overrides)
    assert not (tmp_path / "train.csv").exists()


def test_the_manifest_says_what_ran_and_how_it_ended(tmp_path: Path) -> None:
    entry.run(composed(*QUICK), tmp_path, {})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["status"] == "completed"
    assert manifest["settings"]["solver"]["lr"] == 0.1
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["device"] == "cpu"
    with pytest.raises(Failed, match="Diverged"):
        entry.run(composed(*QUICK, "start=cold", "solver.lr=1e9"), tmp_path / "b", {})
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["status"] == "diverged"
    assert "no finite outer_loss" in manifest["error"]


def test_the_objective_is_the_last_value_of_an_eval_column(tmp_path: Path) -> None:
    found = entry.run(composed(*QUICK, "objective=value"), tmp_path, {})
    assert found == pd.read_csv(tmp_path / "eval.csv")["value"].iloc[-1]
    with pytest.raises(UsageError, match="objective needs one of value, "):
        entry.run(composed(*QUICK, "objective=valeu"), tmp_path / "b", {})


def test_a_resolved_configuration_is_plain(tmp_path: Path) -> None:
    config = composed(*QUICK)
    assert resolved(config)["outer_steps"] == 20
    OmegaConf.update(config, "solver.lr", "${nowhere}")
    with pytest.raises(UsageError, match=r"solver.lr reads nowhere, which nothing sets"):
        resolved(config)


def compiled_and_eager_agree(method: str, folder: Path) -> None:
    overrides = [f"method={method}", "inner_steps=3", "device.dtype=float64", "log_every=1"]
    build(folder / "eager", *overrides).run()
    build(folder / "compiled", *overrides, "device.capture=compile").run()
    eager, compiled = (table(folder / name, "train.csv") for name in ("eager", "compiled"))
    # Compiled, no step of IAPTT is run again: the graphs of all are held.
    assert (compiled.pop("inner_grads") <= eager.pop("inner_grads")).all()
    # Nor does it stop at the pessimistic step: all are differentiated.
    assert (compiled.pop("hvps") >= eager.pop("hvps")).all()
    pd.testing.assert_frame_equal(eager, compiled, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["reverse", "soba", "iaptt", "es"])
def test_a_compiled_run_has_the_numbers_of_an_eager_one(method: str, tmp_path: Path) -> None:
    compiled_and_eager_agree(method, tmp_path)


@pytest.mark.parametrize("method", ["reverse", "checkpointed", "iaptt", "cg"])
def test_an_outer_step_is_one_graph_to_the_compiler(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Traced as a whole and run by torch's own kernels: the generation of code takes minutes.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    compiled_and_eager_agree(method, tmp_path)
