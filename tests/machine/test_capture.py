"""A captured outer step is the eager one: on new data, outer parameters and memories alike."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
import torch
from configs import composed, one_in, small
from problems import Quadratic
from replays import rerun
from runners import runner_in
from torch import Tensor

from bilevel_cli.core import autodiff, trees
from bilevel_cli.core.episodes import OuterStep, outer_step
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Estimate, Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.core.trees import Tree
from bilevel_cli.errors import UsageError
from bilevel_cli.linear_solvers.cg import ConjugateGradient
from bilevel_cli.machine import capture
from bilevel_cli.machine.capture import Replayed, captured, cuda_graph
from bilevel_cli.methods.iaptt import Iaptt
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.methods.none import NoHypergradient
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.runs.runner import Runner
from bilevel_cli.solvers.momentum import Momentum
from bilevel_cli.starts.pool import Pool
from bilevel_cli.starts.warm import Warm

METHODS: list[Hypergradient[Any]] = [
    Reverse(window=None, segment=None),
    Reverse(window=4, segment=2),
    Iaptt(),
    Implicit(ConjugateGradient(4, 1e-6), warm_adjoint=True, curvature="hessian", clip=None),
    NoHypergradient(),
]
SINGLE = torch.zeros(3, dtype=torch.float32)
TASKS = ["quadratic", "toy", "hpo", "reweight", "meta", "distill", "sinusoid"]
# Implicit methods differentiate no start, which is all that these two learn.
PAIRS = [(task, method) for task in TASKS for method in ("reverse", "iaptt")] + [
    (task, "cg") for task in TASKS if task not in ("meta", "sinusoid")
]


def trajectory(step: OuterStep, method: Hypergradient[Any], place: str = "cpu") -> list[Estimate]:
    """Six steps of a warm-started quadratic, each on the memory of the last, on data of its own."""
    problem, generator = Quadratic(), torch.Generator().manual_seed(0)
    outer = {"lam": torch.ones(3).to(place)}
    data = StepData(*trees.map_leaves(lambda x: x.to(place), problem.data(6)))
    carry = method.init(outer, loop_of(place).fresh(outer, data))
    found = []
    for _ in range(6):
        drawn = {"scale": torch.rand(6, generator=generator).to(place)}
        found.append(step(outer, data._replace(inner=drawn), carry))
        carry = found[-1].carry
        outer["lam"].sub_(0.1 * found[-1].grad["lam"])
    return found


def loop_of(place: str) -> InnerLoop:
    problem = Quadratic()
    for name in ("hessian", "coupling", "target"):
        setattr(problem, name, getattr(problem, name).to(place))
    return InnerLoop(problem, Momentum(0.05, 0.9), Warm())


def assert_equal(found: list[Estimate], expected: list[Estimate]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(trees.leaves(ours), trees.leaves(theirs), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_replayed_step_is_the_eager_one_bit_for_bit(method: Hypergradient[Any]) -> None:
    step = outer_step(method, loop_of("cpu"))
    assert_equal(trajectory(Replayed(step, rerun), method), trajectory(step, method))


def test_a_step_is_recorded_once() -> None:
    counts: list[int] = []

    def record(fn: Callable[[], Tree]) -> tuple[Tree, Callable[[], None]]:
        counts.append(1)
        return rerun(fn)

    trajectory(Replayed(outer_step(METHODS[0], loop_of("cpu")), record), METHODS[0])
    assert len(counts) == 1


def test_a_memory_that_grows_at_the_first_step_is_held_whole_from_the_second_on() -> None:
    """As a pool of inner iterates does: dropped entries would stay those of the recording."""
    loop = replace(loop_of("cpu"), start=Pool(size=2, renew_every=3))
    method, counts = METHODS[0], []

    def record(fn: Callable[[], Tree]) -> tuple[Tree, Callable[[], None]]:
        counts.append(1)
        return rerun(fn)

    step = outer_step(method, loop)
    assert_equal(trajectory(Replayed(step, record), method), trajectory(step, method))
    assert len(counts) == 2


def test_data_of_either_kind_are_recorded_once_where_a_method_asks_for_all_examples_at_times() -> (
    None
):
    counts: list[int] = []

    def record(fn: Callable[[], Tree]) -> tuple[Tree, Callable[[], None]]:
        counts.append(1)
        return rerun(fn)

    def step(outer: Any, data: StepData, carry: Any) -> Estimate:
        every = sum(x["x"].sum() for x in data.whole.values())
        return Estimate({}, data.inner["x"].sum() + every, carry, {})

    replayed = Replayed(step, record)
    for number in range(6):
        data = minibatches(torch.full((2, 1), float(number)))
        if number % 3 == 0:
            data = data._replace(whole={"inner": {"x": torch.full((4,), 100.0 + number)}})
        assert replayed({}, data, {}).loss == step({}, data, {}).loss
    assert len(counts) == 2


def echo(outer: Any, data: StepData, carry: Any) -> Estimate:
    return Estimate({}, data.inner["x"].sum(), {**carry, "x": data.inner["x"][0]}, {})


def minibatches(x: Tensor) -> StepData:
    return StepData({}, {"x": x}, {})


def test_minibatches_that_repeat_one_batch_are_held_and_copied_once() -> None:
    seen: list[Tensor] = []

    def step(outer: Any, data: StepData, carry: Any) -> Estimate:
        seen.append(data.inner["x"])
        return echo(outer, data, carry)

    replayed = Replayed(step, rerun)
    for value in (1.0, 2.0):
        data = minibatches(torch.full((7, 3), value).expand(100, 7, 3))
        assert replayed({}, data, {}).loss == 100 * 21 * value
    assert {x.untyped_storage().nbytes() for x in seen} == {7 * 3 * 8}
    assert {x.stride() for x in seen} == {(0, 3, 1)}


def test_a_memory_that_repeats_at_the_first_step_only_is_held_whole() -> None:
    def step(outer: Any, data: StepData, carry: Any) -> Estimate:
        return Estimate({}, carry["inner"].sum(), carry, {})

    replayed, data = Replayed(step, rerun), minibatches(torch.ones(2, 1))
    first = torch.tensor(1.0).expand(3)
    for inner in (first, torch.arange(3.0)):
        assert replayed({}, data, {"inner": inner}).loss == inner.sum()


def test_one_minibatch_may_come_in_any_layout() -> None:
    replayed, single = Replayed(echo, rerun), torch.arange(3.0)
    for x in (single.expand(1, 3), single[None] + 1):
        assert replayed({}, minibatches(x), {}).loss == x.sum()


@pytest.mark.parametrize(
    ("later", "got"),
    [
        (SINGLE.expand(4, 3), r"\[4, 3\] of torch.float32 after \[2, 3\] of torch.float32"),
        (
            SINGLE.repeat(2, 1),
            r"\[2, 3\] of torch.float32 after",
        ),  # not the same at each inner step
        (SINGLE.int().expand(2, 3), "of torch.int32 after"),
    ],
)
def test_data_of_another_shape_are_refused(later: Tensor, got: str) -> None:
    replayed = Replayed(echo, rerun)
    replayed({}, minibatches(SINGLE.expand(2, 3)), {})
    with pytest.raises(UsageError, match=f"needs tensors of one shape, .*{got}"):
        replayed({}, minibatches(later), {})


def test_a_step_whose_recording_failed_is_recorded_at_the_next_call() -> None:
    counts: list[int] = []

    def record(fn: Callable[[], Tree]) -> tuple[Tree, Callable[[], None]]:
        counts.append(1)
        if len(counts) == 1:
            raise RuntimeError("at its first call")
        return rerun(fn)

    replayed, data = Replayed(echo, record), minibatches(torch.ones(2, 3))
    with pytest.raises(RuntimeError, match="at its first call"):
        replayed({}, data, {})
    assert replayed({}, data, {}).loss == 6


class Recording:
    """What torch does of a recording beneath Python, as far as a failure leaves traces.

    Its allocator notes the recordings that go on, and may free nothing while there is one. Where
    the GPU refuses to end a recording, or has no memory for its graph, torch raises at once.

    Args:
        refuses: Whether the GPU refuses to end the next recording: something was not permitted.
        error: What torch raises where the GPU ended the next recording; None where all is well.
    """

    def __init__(self, refuses: bool, error: Exception | None) -> None:
        self.refuses, self.error = refuses, error
        self.current = self.usual = "the usual stream"
        self.underway: list[tuple[int, int]] = []  # pools of recordings
        self.pools: dict[tuple[int, int], int] = {}  # how many use each
        self.handles = 0

    def handle(self) -> tuple[int, int]:
        self.handles += 1
        return (0, self.handles)

    @contextlib.contextmanager
    def stream(self, stream: str) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def empty_cache(self) -> None:
        if self.underway:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    def end_allocate(self, device: int, pool: tuple[int, int]) -> None:
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.remove(pool)

    def release(self, device: int, pool: tuple[int, int]) -> None:
        self.pools[pool] -= 1

    def graph(self) -> "Graph":
        return Graph(self)


class Graph:
    def __init__(self, gpu: Recording) -> None:
        self.gpu, self.ended = gpu, False

    def capture_begin(self, pool: tuple[int, int], **options: Any) -> None:
        self.pool = pool
        self.gpu.underway.append(pool)
        self.gpu.pools[pool] = 1

    def capture_end(self) -> None:
        refuses, self.gpu.refuses = self.gpu.refuses, False
        if refuses:
            raise RuntimeError("CUDA error: operation failed due to a previous error in capture")
        self.gpu.end_allocate(0, self.pool)
        self.ended = True
        if error := self.gpu.error:
            self.gpu.error = None
            raise error

    def reset(self) -> None:
        if self.ended:
            self.gpu.release(0, self.pool)

    def replay(self) -> None: ...


NO_MEMORY = torch.AcceleratorError("CUDA error: out of memory")
TOO_LARGE = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
WAITS = RuntimeError("CUDA error: operation not permitted when stream is capturing")
WRONG = UsageError("a wrong setting")


@pytest.mark.parametrize(
    ("raised", "refuses", "at_end", "expected", "words"),
    [
        (WAITS, True, None, UsageError, "that no graph can hold: CUDA error: operation not perm"),
        (WAITS, False, None, UsageError, "that no graph can hold: CUDA error: operation not perm"),
        (None, True, None, UsageError, "that no graph can hold: CUDA error: operation failed due"),
        (None, False, NO_MEMORY, torch.AcceleratorError, "CUDA error: out of memory"),
        (TOO_LARGE, True, None, torch.OutOfMemoryError, "Tried to allocate 20.00 GiB"),
        (TOO_LARGE, False, None, torch.OutOfMemoryError, "Tried to allocate 20.00 GiB"),
        (WRONG, True, None, UsageError, "^a wrong setting$"),
        (KeyboardInterrupt(), True, None, KeyboardInterrupt, "^$"),
    ],
)
def test_a_recording_that_fails_says_why_and_leaves_the_gpu_to_others(
    raised: BaseException | None,
    refuses: bool,
    at_end: Exception | None,
    expected: type[BaseException],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu, calls = Recording(refuses, at_end), 0

    def fn() -> Tensor:
        nonlocal calls
        calls += 1
        if raised is not None and calls == capture.WARM_UP + 1:  # in the recording
            try:
                raise KeyError("handled")
            except KeyError:
                raise raised from None
        return SINGLE

    streams: list[mock.MagicMock] = []

    def new_stream() -> mock.MagicMock:
        streams.append(mock.MagicMock())
        return streams[-1]

    capture._side_stream.cache_clear()
    for name, fake in {
        "device": lambda device: contextlib.nullcontext(),
        "Stream": new_stream,
        "stream": gpu.stream,
        "current_stream": lambda: mock.MagicMock(),
        "current_device": lambda: 0,
        "CUDAGraph": gpu.graph,
        "graph_pool_handle": gpu.handle,
        "synchronize": lambda: None,
        "empty_cache": gpu.empty_cache,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    for name, fake in {
        "_cuda_endAllocateToPool": gpu.end_allocate,
        "_cuda_releasePool": gpu.release,
        "_host_emptyCache": lambda: None,
    }.items():
        monkeypatch.setattr(torch._C, name, fake, raising=False)
    monkeypatch.setattr(capture, "_abandoned", [])
    with pytest.raises(expected, match=words):
        cuda_graph(fn, torch.device("cuda"))
    assert gpu.current is gpu.usual
    assert gpu.underway == []
    assert set(gpu.pools.values()) == {0}
    for _ in range(2):  # later jobs
        results, replay = cuda_graph(fn, torch.device("cuda"))
        replay()
        assert results is SINGLE
    assert len(streams) == 2  # one for the recording that failed, and one for all others
    capture._side_stream.cache_clear()


def test_this_version_of_torch_has_the_private_functions_that_end_a_failed_recording() -> None:
    """As 2.13 has. Where one is missing, the memory of a graph that failed goes to later tensors.

    The recording above and the simulated device bring their own, and would not miss them.
    """
    assert hasattr(torch._C, "_cuda_endAllocateToPool")
    assert hasattr(torch._C, "_cuda_releasePool")


def test_the_setting_chooses_the_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "cuda_graph", lambda fn, device: rerun(fn))
    monkeypatch.setattr(autodiff, "compiled", lambda step: ("compiled", step))
    step, cpu = outer_step(METHODS[0], loop_of("cpu")), torch.device("cpu")
    assert captured(step, None, cpu) is step
    compiled: Any = captured(step, "compile", cpu)
    assert compiled == ("compiled", step)
    found = trajectory(captured(step, "cuda_graph", cpu), METHODS[0])
    assert_equal(found, trajectory(step, METHODS[0]))


def runner(directory: Path, task: str, method: str, *more: str) -> Runner:
    directory.mkdir()
    chosen = [f"task={task}", f"method={method}", "inner_steps=3", "outer_steps=4", "log_every=1"]
    config = composed("device=cpu", *chosen, *small(task), *more)
    return runner_in(config, directory)


def rows(directory: Path) -> pd.DataFrame:
    return pd.read_csv(directory / "train.csv").drop(columns=["seconds", "peak_memory_mb"])


@pytest.mark.parametrize(("task", "method"), PAIRS)
def test_a_run_of_replays_writes_the_rows_of_an_eager_one(
    task: str, method: str, tmp_path: Path
) -> None:
    eager, replayed = (runner(tmp_path / name, task, method) for name in ("eager", "replayed"))
    replayed.estimate = Replayed(replayed.estimate, rerun)
    eager.run()
    replayed.run()
    pd.testing.assert_frame_equal(
        rows(tmp_path / "replayed"), rows(tmp_path / "eager"), check_exact=True
    )


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_cuda_graph_gives_the_numbers_of_an_eager_step(method: Hypergradient[Any]) -> None:
    step = outer_step(method, loop_of("cuda"))
    replayed = captured(step, "cuda_graph", torch.device("cuda"))
    assert_equal(trajectory(replayed, method, "cuda"), trajectory(step, method, "cuda"))


@pytest.mark.gpu
def test_a_step_that_waits_for_the_gpu_is_refused() -> None:
    x = torch.ones(3, device="cuda")
    with pytest.raises(UsageError, match="needs an outer step that never waits for the GPU, got "):
        cuda_graph(lambda: x * x.sum().item(), torch.device("cuda"))


@pytest.mark.gpu
def test_a_step_too_large_for_the_memory_of_a_gpu_is_told_as_that() -> None:
    where, calls = torch.device("cuda"), 0

    def fn() -> Tensor:
        nonlocal calls
        calls += 1
        return torch.empty(2**50 if calls > capture.WARM_UP else 3, device=where)

    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        cuda_graph(fn, where)
    results, _ = cuda_graph(lambda: torch.ones(3, device=where), where)
    assert results.shape == (3,)


@pytest.mark.gpu
def test_a_step_that_no_graph_can_hold_leaves_the_gpu_to_the_next_one() -> None:
    where, x = torch.device("cuda"), torch.ones(3, device="cuda")
    before = torch.cuda.current_stream()
    for _ in range(2):
        with pytest.raises(UsageError, match="that no graph can hold: "):
            cuda_graph(lambda: x * x.sum().item(), where)
        assert torch.cuda.current_stream() == before
        assert not torch.cuda.is_current_stream_capturing()
        torch.cuda.empty_cache()  # which no recording may go on for
    results, replay = cuda_graph(lambda: 2 * x, where)
    x.add_(1)
    replay()
    assert results.tolist() == [4, 4, 4]


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("task", "method"), [one_in(3, number, *pair) for number, pair in enumerate(PAIRS)]
)
def test_a_run_on_a_gpu_is_the_same_with_a_graph(task: str, method: str, tmp_path: Path) -> None:
    choice = ["device=cuda", "device.dtype=float64", "device.deterministic=true"]
    runner(tmp_path / "eager", task, method, *choice).run()
    runner(tmp_path / "graph", task, method, *choice, "device.capture=cuda_graph").run()
    # The same kernels, though in a graph a library may choose others: to rounding.
    pd.testing.assert_frame_equal(
        rows(tmp_path / "graph"), rows(tmp_path / "eager"), rtol=1e-9, atol=1e-12
    )


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("task", "method", "more"),
    [
        ("distill", "direct", ["task/objective=kernel_ridge", "start=pool", "solver=momentum"]),
        ("quadratic", "exact", []),
    ],
    ids=["frepo", "exact"],
)
def test_a_linear_system_is_solved_within_a_graph(
    task: str, method: str, more: list[str], tmp_path: Path
) -> None:
    choice = ["device=cuda", "device.dtype=float64", "device.deterministic=true", *more]
    runner(tmp_path / "eager", task, method, *choice).run()
    runner(tmp_path / "graph", task, method, *choice, "device.capture=cuda_graph").run()
    runner(tmp_path / "cpu", task, method, *choice, "device=cpu", "device.dtype=float64").run()
    for name, rtol in (("graph", 1e-9), ("cpu", 1e-7)):  # on a CPU, sums in another order
        pd.testing.assert_frame_equal(
            rows(tmp_path / name), rows(tmp_path / "eager"), rtol=rtol, atol=1e-12
        )
