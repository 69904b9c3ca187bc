"""Replicas: each is the run that its seed would be alone."""

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from configs import configured
from runners import runner_in
from torch import Tensor

from bilevel_cli.core import autodiff
from bilevel_cli.core.problem import StepData
from bilevel_cli.errors import Failed, UsageError
from bilevel_cli.machine.signals import Interrupted
from bilevel_cli.methods.parts import graphs
from bilevel_cli.runs import build, clock, entry, one_function
from bilevel_cli.runs.progress import Progress
from bilevel_cli.runs.replicas import Replicas, apart
from bilevel_cli.runs.runner import Runner

QUICK = ["device=cpu", "device.dtype=float64", "task=quadratic", "inner_steps=5", "outer_steps=6"]
QUICK += ["log_every=1", "eval_every=3", "save_every=2"]
DIGITS = ["task=reweight", "data=digits", "data.train=60", "data.validation=60", "inner_steps=4"]
MINIBATCHES = ["task.batch_size=20", "task.outer_batch_size=20"]
TIMINGS = ["seconds", "peak_memory_mb"]
pytestmark = pytest.mark.usefixtures("digits_read_once")


def go(directory: Path, *overrides: str) -> float | None:
    return entry.run(configured(*QUICK, *overrides), directory, {})


def replica(directory: Path, seed: int, *overrides: str) -> Runner:
    config = configured(*QUICK, f"seed={seed}", *overrides)
    directory.mkdir(parents=True, exist_ok=True)
    return runner_in(config, directory)


def tables(directory: Path) -> list[pd.DataFrame]:
    both = [pd.read_csv(directory / name) for name in ("train.csv", "eval.csv")]
    return [table.drop(columns=TIMINGS, errors="ignore") for table in both]


def check_alike(one: Path, other: Path, but: Sequence[str] = (), **tolerance: Any) -> None:
    for left, right in zip(tables(one), tables(other), strict=True):
        left, right = (table.drop(columns=list(but), errors="ignore") for table in (left, right))
        pd.testing.assert_frame_equal(left, right, **tolerance)


def manifest(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "manifest.json").read_text())
    return found


@pytest.fixture
def steps_mapped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of replicas whose outer steps were taken as one, step by step."""
    counts: list[int] = []
    mapped = Replicas._mapped

    def counted(self: Replicas, runners: Any, inputs: Any) -> Any:
        found = mapped(self, runners, inputs)
        counts.append(len(runners))
        return found

    monkeypatch.setattr(Replicas, "_mapped", counted)
    return counts


def task_of(runner: Runner) -> Any:
    """Whose methods may be replaced."""
    return runner.experiment.task


def seed_of(runner: Runner) -> int:
    seed: int = runner.identity.settings["seed"]
    return seed


def before_sampling(runner: Runner, step: int, do: Callable[[], None]) -> None:
    """Has something done, once, before `runner` draws the data of a step."""
    sample = runner.experiment.task.sample

    def sample_then(num_steps: int, generator: torch.Generator) -> StepData:
        if runner.step == step and generator is runner.state.random.sampling:
            do()
        return sample(num_steps, generator)

    task_of(runner).sample = sample_then


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=reverse"],
        ["method=reverse", "start=learned", "solver=adam", *MINIBATCHES],
        ["method=iaptt"],
        ["method=cg", "task.l2=0.1", "start=warm", "method.warm_adjoint=true"],
        ["method=es"],
        ["method=bsa", *MINIBATCHES],
        ["method=saba", *MINIBATCHES],
        ["method=srba", "method.period=2", *MINIBATCHES],
        ["average=0.8", "test_steps=[0,3,9]"],
        ["task=meta", "model=linear", "task.episodes=2", "task.eval_episodes=4"],
    ],
    ids=" ".join,
)
def test_a_mapped_replica_is_the_run_of_its_seed_to_rounding(
    overrides: list[str], tmp_path: Path, steps_mapped: list[int]
) -> None:
    overrides = [*DIGITS, *overrides]
    go(tmp_path, *overrides, "replicas=3", "seed=4")
    assert steps_mapped == [3] * 6
    go(tmp_path / "alone", *overrides, "seed=6")
    # Mapped, IAPTT holds and differentiates the graphs of all steps; alone, it runs some again.
    but = ["inner_grads", "hvps"] if "method=iaptt" in overrides else []
    # float64 and a few steps: rounding is all that may differ.
    check_alike(tmp_path / "seed=6", tmp_path / "alone", but, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "overrides",
    [["method=es"], ["method=forward"], [*DIGITS, "method=iaptt"]],  # a quadratic but for the last
    ids=" ".join,
)
def test_a_replica_by_itself_is_the_run_of_its_seed_bit_for_bit(
    overrides: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps_mapped: list[int],
) -> None:
    monkeypatch.setattr(one_function, "LARGE", 0)
    go(tmp_path, *overrides, "replicas=3", "device.threads=1")
    assert steps_mapped == []
    go(tmp_path / "alone", *overrides, "seed=2", "device.threads=1")
    check_alike(tmp_path / "seed=2", tmp_path / "alone", check_exact=True)


def test_the_folder_of_a_replica_is_that_of_a_single_run(tmp_path: Path) -> None:
    go(tmp_path, *DIGITS, "replicas=2", "seed=1")
    go(tmp_path / "alone", *DIGITS, "seed=2")
    one, other = tmp_path / "seed=2", tmp_path / "alone"
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    assert manifest(one)["settings"] == manifest(other)["settings"]
    assert manifest(one)["data"] == manifest(other)["data"]
    assert manifest(one)["status"] == "completed"
    assert {path.name for path in tmp_path.iterdir()} == {"seed=1", "seed=2", "alone"}
    learned, alone = (pd.read_csv(folder / "weights.csv") for folder in (one, other))
    pd.testing.assert_frame_equal(learned, alone, rtol=1e-9)


def test_replicas_and_single_runs_continue_each_other(
    tmp_path: Path, steps_mapped: list[int]
) -> None:
    rows = ["eval_every=1"]  # where a run ends is not to be seen in its tables
    go(tmp_path / "seed=0", *DIGITS, *rows, "seed=0", "outer_steps=3")  # complete
    go(tmp_path / "seed=1", *DIGITS, *rows, "seed=1", "outer_steps=2")
    go(tmp_path, *DIGITS, *rows, "replicas=4", "outer_steps=3")
    # Two of them begin, and another joins them where it is.
    assert steps_mapped == [2, 2, 3]
    assert [manifest(tmp_path / f"seed={k}")["first_step"] for k in range(4)] == [3, 2, 0, 0]
    go(tmp_path / "seed=3", *DIGITS, *rows, "seed=3", "outer_steps=4")
    for seed, steps in ((1, 3), (3, 4)):
        alone = tmp_path / "alone" / f"seed={seed}"
        go(alone, *DIGITS, *rows, f"seed={seed}", f"outer_steps={steps}")
        check_alike(tmp_path / f"seed={seed}", alone, rtol=1e-9)


def test_one_that_was_ahead_and_has_another_loss_is_not_mapped_with_the_others(
    tmp_path: Path, changed: Any, steps_mapped: list[int]
) -> None:
    def double(runner: Runner) -> None:
        if seed_of(runner) == 0:
            loss = runner.experiment.task.inner_loss
            task_of(runner).inner_loss = lambda *given: 2 * loss(*given)

    changed(double)
    go(tmp_path / "seed=0", *DIGITS, "outer_steps=2")
    go(tmp_path, *DIGITS, "replicas=3")
    assert steps_mapped == [2, 2]  # the others, until it joins
    go(tmp_path / "alone", *DIGITS)
    train = tables(tmp_path / "seed=0")[0], tables(tmp_path / "alone")[0]
    pd.testing.assert_frame_equal(train[0], train[1], rtol=1e-9)


def inputs_of(runner: Runner) -> Any:
    return next(runner.steps(Progress(0, quiet=True), []))


def reason(tmp_path: Path, how: Callable[[Runner], None], *overrides: str) -> str | None:
    runners = [replica(tmp_path / str(seed), seed, *DIGITS, *overrides) for seed in range(2)]
    for runner in runners:
        how(runner)
    return apart(runners, [inputs_of(runner) for runner in runners])


def nothing(runner: Runner) -> None:
    pass


def scaled_by_a_number(runner: Runner) -> None:
    loss, scale = runner.experiment.task.inner_loss, 1.0 + seed_of(runner)
    task_of(runner).inner_loss = lambda *given: scale * loss(*given)


def scaled_by_a_tensor(runner: Runner) -> None:
    loss, scale = runner.experiment.task.outer_loss, torch.tensor(1.0 + seed_of(runner))
    task_of(runner).outer_loss = lambda *given: scale * loss(*given)


def scaled_alike(runner: Runner) -> None:
    loss, scale = runner.experiment.task.outer_loss, torch.tensor(3.0)
    task_of(runner).outer_loss = lambda *given: scale * loss(*given)


def looked_up(runner: Runner) -> None:
    """Reads the task's own examples, of which a full batch is but a view."""
    task = task_of(runner)
    loss, x = task.inner_loss, task.train.x
    task.inner_loss = lambda inner, outer, batch: loss(inner, outer, {**batch, "x": x})


def projected(runner: Runner) -> None:
    task, bound = task_of(runner), 1.0 + seed_of(runner)
    task.project_outer = lambda outer: {n: v.clamp(max=bound) for n, v in outer.items()}


def stepping(runner: Runner) -> None:
    object.__setattr__(runner.experiment.loop.solver, "lr", 0.1 * (1 + seed_of(runner)))


@pytest.mark.parametrize(
    ("how", "overrides", "found"),
    [
        (nothing, [], None),
        (scaled_alike, [], None),
        (scaled_by_a_number, [], "the losses of HyperCleaning contain what depends on the seed"),
        (scaled_by_a_tensor, [], "the losses of HyperCleaning contain what depends on the seed"),
        (looked_up, [], "the losses of HyperCleaning contain what depends on the seed"),
        (projected, [], "the losses of HyperCleaning contain what depends on the seed"),
        (stepping, [], "loop.solver depends on the seed"),
        (nothing, ["data.train=600", "model=mlp"], "their operations are large"),
        (nothing, ["budget=100"], "the budget is for what each of them takes alone"),
    ],
)
def test_what_depends_on_the_seed_or_is_large_is_not_mapped(
    how: Callable[[Runner], None], overrides: list[str], found: str | None, tmp_path: Path
) -> None:
    assert reason(tmp_path, how, *overrides) == found


def test_losses_that_cannot_be_mapped_go_on_each_by_itself(
    tmp_path: Path, changed: Any, caplog: pytest.LogCaptureFixture, steps_mapped: list[int]
) -> None:
    def ask(runner: Runner) -> None:
        loss = runner.experiment.task.outer_loss

        def asking(*given: Any) -> Tensor:
            value = loss(*given)
            return value if value.item() > 0 else -value  # what no mapping allows

        task_of(runner).outer_loss = asking

    changed(ask)
    with caplog.at_level("INFO"):
        go(tmp_path, *DIGITS, "replicas=2")
    assert "since mapping failed" in caplog.text
    assert steps_mapped == []
    go(tmp_path / "alone", *DIGITS, "seed=1")
    check_alike(tmp_path / "seed=1", tmp_path / "alone", rtol=1e-9)


@pytest.mark.parametrize(
    ("method", "share", "chunk"),
    [
        ("reverse", 3.5, "all"),
        ("reverse", 2.5, 2),
        ("reverse", 1.5, None),
        ("iaptt", 2.5, 2),
        ("one_step", 0.625, 2),  # one step of four
        ("cg", 1.0, "all"),
    ],
)
def test_mapped_replicas_keep_to_the_memory_budget(
    method: str,
    share: float,
    chunk: int | str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps_mapped: list[int],
) -> None:
    """The budget is `share` times what the graphs of the four inner steps of one run take."""
    overrides = [*DIGITS, f"method={method}"]
    sizes: list[int | None] = []
    vmap = autodiff.vmap

    def watched(fn: Any, *given: Any, chunk_size: int | None = None, **more: Any) -> Any:
        sizes.append(chunk_size)
        return vmap(fn, *given, chunk_size=chunk_size, **more)

    first = replica(tmp_path / "first", 0, *overrides)
    outer, data, _ = next(first._advance())
    budget = int(share * 4 * graphs.graph_bytes(first.experiment.loop, outer, data))
    monkeypatch.setattr(autodiff, "vmap", watched)
    go(tmp_path, *overrides, "replicas=3", f"device.memory_budget={budget}")
    assert steps_mapped == ([] if chunk is None else [3] * 6)
    assert sizes[:1] == ([] if chunk is None else [None if chunk == "all" else chunk])
    go(tmp_path / "alone", *overrides, "seed=2")
    check_alike(tmp_path / "seed=2", tmp_path / "alone", ["inner_grads", "hvps"], rtol=1e-7)


@pytest.mark.parametrize("overrides", [[], DIGITS], ids=["by itself", "mapped"])
def test_one_that_diverges_leaves_the_others_alone(
    overrides: list[str], tmp_path: Path, changed: Any
) -> None:
    def spoil(runner: Runner) -> None:
        def nan() -> None:
            next(iter(runner.state.outer.values())).mul_(torch.nan)

        if seed_of(runner) == 1:
            before_sampling(runner, 3, nan)

    changed(spoil)
    said = r"1 of 3 replicas failed. seed=1: Diverged. At step 4"
    with pytest.raises(Failed, match=said) as failure:
        go(tmp_path, *overrides, "replicas=3")
    assert failure.value.status == "diverged"
    ends = [manifest(tmp_path / f"seed={seed}")["status"] for seed in range(3)]
    assert ends == ["completed", "diverged", "completed"]
    assert "At step 4" in manifest(tmp_path / "seed=1")["error"]
    go(tmp_path / "alone", *overrides, "seed=2")
    check_alike(tmp_path / "seed=2", tmp_path / "alone", rtol=1e-9)


@pytest.mark.parametrize("alone", [False, True], ids=["among others", "the last of them"])
def test_one_that_raises_leaves_the_others_alone(alone: bool, tmp_path: Path, changed: Any) -> None:
    for seed in (0, 2) if alone else ():
        go(tmp_path / f"seed={seed}", f"seed={seed}", "outer_steps=5")

    def spoil(runner: Runner) -> None:
        loss = runner.experiment.task.inner_loss

        def torn(*given: Any) -> Tensor:
            if runner.step == 3:
                raise RuntimeError("torn")
            return loss(*given)

        if seed_of(runner) == 1:
            task_of(runner).inner_loss = torn

    changed(spoil)
    with pytest.raises(
        Failed, match=r"1 of 3 replicas failed. seed=1: RuntimeError: torn \(.* The"
    ):
        go(tmp_path, "replicas=3")
    ends = [manifest(tmp_path / f"seed={seed}")["status"] for seed in range(3)]
    assert ends == ["completed", "failed", "completed"]
    assert "in torn" in (tmp_path / "seed=1" / "traceback.txt").read_text()
    assert [len(tables(tmp_path / f"seed={seed}")[0]) for seed in range(3)] == [6, 3, 6]


def test_failures_of_one_reason_are_told_together(tmp_path: Path, changed: Any) -> None:
    def spoil(runner: Runner) -> None:
        def torn() -> None:
            raise RuntimeError("torn")

        before_sampling(runner, seed_of(runner) // 2, torn)

    changed(spoil)
    with pytest.raises(Failed) as found:
        go(tmp_path, "replicas=2", "solver.lr=1e200", "device.dtype=float32")
    assert str(found.value).startswith("2 of 2 replicas failed. seed=0: RuntimeError: torn")


# The ones behind are mapped by themselves until they meet the others: two sum in another order than
# three. Replicas that are not mapped continue bit for bit.
@pytest.mark.parametrize(
    ("large", "tolerance"), [(0, {"check_exact": True}), (1e9, {"rtol": 1e-9})]
)
def test_interrupted_replicas_all_continue(
    large: float,
    tolerance: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps_mapped: list[int],
) -> None:
    monkeypatch.setattr(one_function, "LARGE", large)
    go(tmp_path / "whole", *DIGITS, "replicas=3")
    assert steps_mapped == ([3] * 6 if large else [])
    with pytest.MonkeyPatch.context() as undo:
        built = build.build

        def interrupted(*given: Any) -> Runner:
            runner = built(*given)
            if seed_of(runner) == 1:
                before_sampling(runner, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
            return runner

        undo.setattr(build, "build", interrupted)
        with pytest.raises(Interrupted) as stopped:
            go(tmp_path / "parts", *DIGITS, "replicas=3")
    assert stopped.value.signum == signal.SIGTERM
    for seed in range(3):
        assert manifest(tmp_path / "parts" / f"seed={seed}")["status"] == "interrupted"
        assert (tmp_path / "parts" / f"seed={seed}" / "checkpoint.pt").exists()
    go(tmp_path / "parts", *DIGITS, "replicas=3")
    for seed in range(3):
        assert manifest(tmp_path / "parts" / f"seed={seed}")["status"] == "completed"
        name = f"seed={seed}"
        check_alike(tmp_path / "whole" / name, tmp_path / "parts" / name, **tolerance)


def test_replicas_stopped_at_once_are_interrupted_but_for_complete_ones(
    tmp_path: Path, changed: Any
) -> None:
    go(tmp_path / "seed=0")

    def stop(runner: Runner) -> None:
        def twice() -> None:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)

        if seed_of(runner) == 1:
            before_sampling(runner, 3, twice)

    changed(stop)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, "replicas=3")
    ends = [manifest(tmp_path / f"seed={seed}")["status"] for seed in range(3)]
    assert ends == ["completed", "interrupted", "interrupted"]


def test_complete_replicas_are_not_run_again_and_more_are_added(tmp_path: Path) -> None:
    go(tmp_path, "replicas=2")
    before = (tmp_path / "seed=1" / "train.csv").read_bytes()
    go(tmp_path, "replicas=3")
    assert (tmp_path / "seed=1" / "train.csv").read_bytes() == before
    assert manifest(tmp_path / "seed=2")["status"] == "completed"


def test_replicas_are_refused_where_one_of_them_would_be(tmp_path: Path) -> None:
    go(tmp_path, "replicas=3")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(UsageError, match=r"solver.lr=0.1 there and 0.2 here"):
        go(tmp_path, "replicas=3", "solver.lr=0.2")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


@pytest.mark.parametrize(
    ("replicas", "message"),
    [
        ("0", "A run needs replicas from 1 to 10000, got replicas=0"),
        ("2.5", "replicas needs a whole number, got 2.5"),
        ("many", "replicas needs a whole number, got 'many'"),
        ("null", "replicas needs a whole number, got None"),
    ],
)
def test_a_number_of_replicas_that_is_none_is_refused(
    replicas: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        go(tmp_path / "run", f"replicas={replicas}")
    assert not (tmp_path / "run").exists()


def test_the_objective_and_the_scores_are_means_over_replicas(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        found = go(tmp_path, "replicas=3", "objective=value")
    last = [pd.read_csv(tmp_path / f"seed={k}" / "eval.csv")["value"].iloc[-1] for k in range(3)]
    assert found == pytest.approx(sum(last) / 3, rel=1e-12)
    values = pd.Series(last)
    assert f"of 3 replicas: value {values.mean():.4g} +- {values.std():.2g}" in caplog.text


def test_a_replica_reports_its_share_of_the_time(
    tmp_path: Path, changed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 0.0

    def wait(runner: Runner) -> None:
        loss = runner.experiment.task.outer_loss

        def slow(*given: Any) -> Tensor:
            nonlocal seconds
            seconds += 1.0
            return loss(*given)

        if seed_of(runner) == 1:
            task_of(runner).outer_loss = slow

    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: seconds))
    go(tmp_path / "seed=0", "outer_steps=4")
    changed(wait)
    go(tmp_path, "replicas=2")
    one, two = (pd.read_csv(tmp_path / f"seed={k}" / "train.csv")["seconds"] for k in range(2))
    # Four steps alone, which the other one waited for; then a trace and two steps that they share.
    assert two.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 5.5]
    assert one.tolist() == [0.0, 0.0, 0.0, 0.0, 1.0, 1.5]
