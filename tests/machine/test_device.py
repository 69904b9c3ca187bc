"""Devices, their settings and random numbers; and an outer step that never waits for a GPU."""

import ctypes
import gc
import json
import os
import re
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from commands import bilevel_run, close_logs
from configs import composed, one_in, options, small
from hydra.utils import instantiate
from problems import Quadratic
from runners import runner_in
from torch.utils._pytree import tree_map
from waits import nobody_waits

from bilevel_cli.config import early
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Estimate, Hypergradient
from bilevel_cli.core.random import generator
from bilevel_cli.errors import UsageError
from bilevel_cli.linear_solvers.cg import ConjugateGradient
from bilevel_cli.machine import device as machine
from bilevel_cli.machine import memory
from bilevel_cli.machine.device import WORKSPACE, Device
from bilevel_cli.machine.memory import peak_memory_mb
from bilevel_cli.machine.precision import precision
from bilevel_cli.methods.iaptt import Iaptt
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.methods.none import NoHypergradient
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.runs.runner import Runner
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.cold import Cold

ROOT = Path(__file__).parents[2]
STREAMS = ("data", "initialisation", "sampling", "noise")
SETTINGS: dict[str, Any] = {
    "name": "cpu",
    "dtype": "float32",
    "matmul_precision": "highest",
    "precision": None,
    "deterministic": False,
    "threads": None,
    "memory_budget": "auto",
    "episodes_chunk": None,
    "linear": "auto",
    "capture": None,
}


@pytest.fixture
def settings_of_torch() -> Iterator[Callable[[], dict[str, Any]]]:
    """Reads the settings that `prepare` may change, and restores them in the end."""

    def read() -> dict[str, Any]:
        return {
            "dtype": torch.get_default_dtype(),
            "matmul_precision": torch.get_float32_matmul_precision(),
            "tf32_convolutions": torch.backends.cudnn.allow_tf32,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "benchmark": torch.backends.cudnn.benchmark,
            "threads": torch.get_num_threads(),
        }

    before = read()
    yield read
    torch.set_default_dtype(before["dtype"])
    torch.set_float32_matmul_precision(before["matmul_precision"])
    torch.backends.cudnn.allow_tf32 = before["tf32_convolutions"]
    torch.use_deterministic_algorithms(before["deterministic"])
    torch.backends.cudnn.benchmark = before["benchmark"]
    torch.set_num_threads(before["threads"])


def device(**changes: Any) -> Device:
    return Device(**SETTINGS | changes)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("matmul_precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_a_device_applies_its_settings(
    dtype: str,
    matmul_precision: str,
    deterministic: bool,
    settings_of_torch: Callable[[], dict[str, Any]],
) -> None:
    found = device(
        dtype=dtype, matmul_precision=matmul_precision, deterministic=deterministic, threads=2
    ).prepare()
    assert found == torch.device("cpu")
    assert settings_of_torch() == {
        "dtype": getattr(torch, dtype),
        "matmul_precision": matmul_precision,
        "tf32_convolutions": matmul_precision != "highest",
        "deterministic": deterministic,
        "benchmark": not deterministic,
        "threads": 2,
    }


def test_threads_are_left_as_they_are_where_none_are_named(
    settings_of_torch: Callable[[], dict[str, Any]],
) -> None:
    before = settings_of_torch()["threads"]
    device().prepare()
    assert settings_of_torch()["threads"] == before


def test_auto_is_a_gpu_where_there_is_one(settings_of_torch: Callable[[], Any]) -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert device(name="auto").prepare().type == expected


@pytest.mark.parametrize("option", options("device"))
def test_every_option_prepares_or_says_that_torch_cannot_use_it(
    option: str, settings_of_torch: Callable[[], Any]
) -> None:
    made: Device = instantiate(composed(f"device={option}").device)
    if made.name.startswith("cuda") and not torch.cuda.is_available():
        with pytest.raises(ValueError, match=f"got device.name={made.name}: "):
            made.prepare()
    else:
        assert made.prepare().type in ("cpu", "cuda")


@pytest.mark.parametrize("name", ["cuda:99", "cpu:x"])
def test_an_unknown_device_is_refused_before_anything_changes(
    name: str, settings_of_torch: Callable[[], dict[str, Any]]
) -> None:
    before = settings_of_torch()
    message = rf"needs a device that torch can use, got device\.name={name}: .+ Use device=cpu or "
    with pytest.raises(ValueError, match=message) as caught:
        device(name=name, deterministic=True, threads=2).prepare()
    assert "\n" not in str(caught.value)
    assert settings_of_torch() == before


@pytest.mark.parametrize("name", ["mps", "mps:0", "xpu", "meta", "hpu", "auto:1", "warp", ""])
def test_a_device_that_runs_are_not_made_for_is_refused_where_it_is_named(name: str) -> None:
    """Before torch is asked, whose own words come at the first operation that is missing."""
    reason = "Apple's GPUs have no float64" if "mps" in name else "made for no other kind"
    message = rf"one GPU such as cuda:1, got device\.name={name or 'none'}\. .*{reason}"
    with pytest.raises(ValueError, match=message):
        device(name=name)
    with pytest.raises(UsageError, match=reason):
        early.check(composed("task=quadratic", f"device.name='{name}'"))


def test_the_variable_of_cublas_is_set_when_the_package_is_imported_and_the_users_is_kept() -> None:
    """torch reads it once, at the first product: a later run of a process cannot set it."""
    for before, after in ((None, ":4096:8"), (":16:8", ":16:8"), (":0:0", ":0:0")):
        environment = {name: text for name, text in os.environ.items() if name != WORKSPACE}
        environment |= {} if before is None else {WORKSPACE: before}
        code = f"import os, bilevel_cli; print(os.environ['{WORKSPACE}'])"
        program = [sys.executable, "-S", "-c", code]
        found = subprocess.run(
            program, env=environment, cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert found.stdout.strip() == after


def test_what_a_job_set_is_gone_in_the_next_job_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_threads: None
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    sizes = ["task=quadratic", "device=cpu", "outer_steps=1", "hydra.sweep.dir=."]
    assert bilevel_run(monkeypatch, "-m", *sizes, "device.threads=1,null") == 0
    close_logs()
    found = {
        path.parent.name: json.loads(path.read_text())["threads"]
        for path in tmp_path.glob("*/manifest.json")
    }
    assert sorted(found.values()) == [1, 2]
    assert os.environ[WORKSPACE]


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler for capture=compile, got none"):
        device(capture="compile").prepare()


def test_a_cuda_graph_without_a_gpu_is_refused_before_anything_changes(
    settings_of_torch: Callable[[], dict[str, Any]],
) -> None:
    before = settings_of_torch()
    message = "needs a GPU for capture=cuda_graph, got device.name=cpu. Use device=cuda, or"
    with pytest.raises(ValueError, match=message):
        device(capture="cuda_graph", deterministic=True, matmul_precision="high").prepare()
    assert settings_of_torch() == before


def test_a_precision_ends_with_its_context(settings_of_torch: Callable[[], dict[str, Any]]) -> None:
    device(matmul_precision="high").prepare()
    before = settings_of_torch()
    with precision("highest"):
        within = settings_of_torch()
    changed = {"matmul_precision": "highest", "tf32_convolutions": False}
    assert within == before | changed
    assert settings_of_torch() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float16"}, "A device needs dtype to be one of float32, float64, got float16."),
        (
            {"matmul_precision": "low"},
            "A device needs matmul_precision to be one of highest, high, medium, got low.",
        ),
        (
            {"capture": "graph"},
            "A device needs capture to be one of null, compile, cuda_graph, got graph.",
        ),
        ({"threads": 0}, "A device needs threads >= 1 or null, got threads=0."),
        ({"episodes_chunk": -1}, "A device needs episodes_chunk >= 1 or null, got episodes_chunk="),
    ],
)
def test_an_unusable_setting_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        device(**changes)


def test_a_stream_begins_again_at_the_same_numbers() -> None:
    for seed in (0, 1):
        for stream in STREAMS:
            once, again = (
                torch.randn(100, generator=generator(seed, stream), dtype=torch.float64)
                for _ in range(2)
            )
            assert torch.equal(once, again)


def test_streams_of_one_seed_and_seeds_of_one_stream_are_independent() -> None:
    count = 20_000
    drawn = [
        torch.randn(count, generator=generator(seed, stream), dtype=torch.float64)
        for seed in range(3)
        for stream in STREAMS
    ]
    for one, other in combinations(drawn, 2):
        # The product of independent normals has mean 0 and variance 1; five standard errors.
        assert abs((one @ other).item() / count) < 5 / count**0.5


def test_a_stream_does_not_hear_of_what_others_draw() -> None:
    sampling, noise = generator(3, "sampling"), generator(3, "noise")
    torch.rand(1000, generator=noise)
    torch.rand(1000)
    expected = torch.rand(5, generator=generator(3, "sampling"))
    assert torch.equal(torch.rand(5, generator=sampling), expected)


def test_seeds_of_streams_stay_what_they_were() -> None:
    # Published results are repeated with them: they must not depend on the process or the version.
    seeds = [generator(0, stream).initial_seed() for stream in ("sampling", "noise")]
    assert seeds == [1196928559710480898, 5127903134280592399]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_the_peak_of_memory_lies_between_what_is_in_use_and_what_there_is() -> None:
    held = torch.ones(4_000_000, dtype=torch.float64)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    resident = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    everything = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
    assert resident > held.nbytes / 1e6
    # Each processor keeps a batch of pages uncounted: 32, or two for each processor.
    cores = os.cpu_count() or 1
    uncounted = cores * max(32, 2 * cores) * os.sysconf("SC_PAGE_SIZE") / 1e6
    assert resident - 2 * uncounted <= peak_memory_mb(torch.device("cpu")) < everything


MALLOC = """
import ctypes, json, threading, torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from bilevel_cli.config.options import CONF

class Info(ctypes.Structure):  # mallinfo2 of malloc.h
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

info = ctypes.CDLL(None).mallinfo2
info.restype = Info
instantiate(OmegaConf.load(CONF / "device/cpu.yaml")).prepare()

def take():
    before = info()
    held = torch.ones(2**24)
    during = info()
    del held
    mapped.append(during.hblkhd - before.hblkhd)
    returned.append(during.arena + during.hblkhd - info().arena - info().hblkhd)

mapped, returned = [], []
take()
thread = threading.Thread(target=take)
thread.start()
thread.join()
print(json.dumps({"mapped": mapped, "returned": returned}))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="asks glibc, from 2.33 on")
def test_a_large_tensor_takes_no_pages_of_its_own_and_gives_none_back() -> None:
    program = [sys.executable, "-c", MALLOC]
    found = subprocess.run(program, capture_output=True, text=True, check=True)
    # Bytes, here and in a thread; 64 MB each time without the setting.
    assert json.loads(found.stdout) == {"mapped": [0, 0], "returned": [0, 0]}


def on(place: str, method: Hypergradient[Any], steps: int = 6) -> Callable[[], Estimate]:
    """An outer step of the quadratic, all of it on the device `place`."""
    problem = Quadratic()
    outer, data = tree_map(lambda x: x.to(place), (problem.outer_init(), problem.data(steps)))
    problem.hessian, problem.target = problem.hessian.to(place), problem.target.to(place)
    problem.coupling = problem.coupling.to(place)
    loop = InnerLoop(problem, GradientDescent(0.1), Cold())
    carry = method.init(outer, loop.fresh(outer, data))
    return lambda: method.estimate(loop, outer, data, carry)


def outer_steps(task: str, place: str, directory: Path) -> Iterator[Callable[[], None]]:
    """An outer step of a run, all but its tables, for a few methods on a task in small."""
    for method in ("reverse", "iaptt", "cg"):
        choice = [f"task={task}", f"method={method}", f"device={place}", "inner_steps=3"]
        config = composed(*choice, *small(task))
        folder = directory / method
        folder.mkdir()
        try:
            runner = runner_in(config, folder)
        except UsageError:  # cg does not serve a learned start, nor steps along no gradient
            assert method == "cg"
            continue

        def step(runner: Runner = runner) -> None:
            advance = runner._advance()
            estimate = runner.estimate(*next(advance))
            with pytest.raises(StopIteration):
                advance.send(estimate)

        yield step


@pytest.mark.parametrize("task", [one_in(2, i, task) for i, task in enumerate(options("task"))])
def test_an_outer_step_looks_at_no_tensor(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would make the host wait for a GPU, seen on a CPU."""
    # torch's Adam counts its steps on the CPU. IAPTT and what it shares with reverse follow
    # tensors of a CPU alone, as `core.host.is_host` and `core.autodiff.mapped` tell them.
    allowed = ("torch/optim/", "methods/iaptt.py", "methods/parts/unroll.py")

    def guard(name: str) -> Callable[..., Any]:
        look = getattr(torch.Tensor, name)

        def guarded(*args: Any) -> Any:
            caller = sys._getframe(1)
            assert any(part in caller.f_code.co_filename for part in allowed), (
                f"Tensor.{name} in {caller.f_code.co_filename}:{caller.f_lineno}"
            )
            return look(*args)

        return guarded

    for step in outer_steps(task, "cpu", tmp_path):
        step()
        with monkeypatch.context() as patched:
            for name in ("item", "tolist", "numpy", "__bool__", "__float__", "__int__"):
                patched.setattr(torch.Tensor, name, guard(name))
            step()


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("place", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_fused_optimizer_takes_the_steps_of_a_plain_one(
    optimizer: str, place: str, tmp_path: Path
) -> None:
    found = []
    for fused in ("null", "true"):
        folder = tmp_path / fused
        folder.mkdir()
        choice = ["task=reweight", *small("reweight"), "inner_steps=10", "outer_steps=5"]
        choice.append("device.dtype=float64")
        config = composed(
            *choice, f"device={place}", f"optimizer={optimizer}", f"optimizer.fused={fused}"
        )
        runner = runner_in(config, folder)
        runner.run()
        found.append(runner.state.outer)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "method",
    [
        Reverse(window=None, segment=None),
        Reverse(window=4, segment=2),
        Iaptt(),
        Implicit(ConjugateGradient(4, 1e-6), warm_adjoint=False, curvature="hessian", clip=None),
        NoHypergradient(),
    ],
    ids=str,
)
def test_a_gpu_gives_the_numbers_of_a_cpu_and_nobody_waits_for_it(
    method: Hypergradient[Any],
) -> None:
    step = on("cuda", method)
    step()  # libraries wait once, when they are loaded
    with nobody_waits():
        found = step()
    expected = on("cpu", method)()
    assert all(
        value.device.type == "cuda" for value in (*found.grad.values(), *found.metrics.values())
    )
    assert list(found.metrics) == list(expected.metrics)
    if isinstance(method, Iaptt):  # there all graphs are held, and differentiated
        for name in ("inner_grads", "hvps"):
            assert int(found.metrics.pop(name)) == 6
            expected.metrics.pop(name)
    # float64 in both; sums in another order.
    torch.testing.assert_close(
        tree_map(lambda x: x.cpu(), tuple(found)), tuple(expected), rtol=1e-9, atol=1e-12
    )


@pytest.mark.gpu
@pytest.mark.parametrize("task", [one_in(5, i, task) for i, task in enumerate(options("task"))])
def test_nobody_waits_for_a_gpu_in_the_outer_step_of_a_run(task: str, tmp_path: Path) -> None:
    for step in outer_steps(task, "cuda", tmp_path):
        step()  # libraries wait once, when they are loaded
        with nobody_waits():
            step()


@pytest.mark.gpu(hardware="TF32 is of its kernels")
def test_highest_precision_is_float32_in_matrix_products_and_in_convolutions(
    settings_of_torch: Callable[[], Any],
) -> None:
    device(name="cuda").prepare()
    x, y = torch.randn(2, 8, 64, 64, 64, dtype=torch.float64, device="cuda")
    for exact, found in (
        (x @ y, x.float() @ y.float()),
        (torch.conv2d(x, y[..., :3, :3]), torch.conv2d(x.float(), y[..., :3, :3].float())),
    ):
        # Sums of up to 576 products: float32 is right to 1e-6, the 10 bits of TF32 to 1e-4 at best.
        assert (found - exact).norm() < 1e-5 * exact.norm()


@pytest.mark.gpu
def test_a_process_computes_deterministically_after_it_did_not(
    settings_of_torch: Callable[[], Any],
) -> None:
    for deterministic in (False, True, False, True):
        where = device(name="cuda", deterministic=deterministic).prepare()
        one = torch.ones(1, 1, device=where)
        assert (one @ one).item() == 1


@pytest.mark.gpu
def test_a_sweep_of_one_process_may_turn_determinism_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    sizes = ["task=reweight", *small("reweight"), "device=cuda", "outer_steps=2", "log_every=1"]
    choice = ["hydra.sweep.dir=.", "device.deterministic=false,true", "inner_steps=2"]
    assert bilevel_run(monkeypatch, "-m", *sizes, *choice) == 0
    close_logs()
    found = [json.loads(path.read_text()) for path in tmp_path.glob("*/manifest.json")]
    assert [run["status"] for run in found] == ["completed", "completed"]


@pytest.mark.gpu
def test_a_run_goes_on_on_the_device_where_it_began_and_on_no_other(
    tmp_path: Path, settings_of_torch: Callable[[], Any]
) -> None:
    common = ["task=reweight", *small("reweight"), "inner_steps=2", "log_every=1", "device=cuda"]

    def rows(name: str, steps: int, where: str = "cuda") -> pd.DataFrame:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        choice = [f"outer_steps={steps}", f"device.name={where}", "device.deterministic=true"]
        runner_in(composed(*common, *choice), folder).run()
        return pd.read_csv(folder / "train.csv").drop(columns=["seconds", "peak_memory_mb"])

    rows("parts", 2)
    pd.testing.assert_frame_equal(rows("parts", 4), rows("whole", 4), check_exact=True)
    with pytest.raises(UsageError, match="cannot go on here: device=cuda there and cpu here"):
        rows("parts", 5, "cpu")


def other_products(monkeypatch: pytest.MonkeyPatch) -> None:
    def mm(*given: Any) -> None:
        if torch.are_deterministic_algorithms_enabled():
            raise RuntimeError("Deterministic behavior was enabled, but this operation is not.")

    monkeypatch.setattr(torch, "mm", mm)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (":0:0", r"got CUBLAS_WORKSPACE_CONFIG=:0:0\. Unset it, or"),
        (":4096:8", r"got a process that multiplied .* before\. Import bilevel_cli first, or"),
    ],
)
def test_products_that_do_not_repeat_are_refused_before_anything_changes(
    value: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    settings_of_torch: Callable[[], dict[str, Any]],
) -> None:
    """torch refuses each product where the variable came too late, or has another value."""
    before = settings_of_torch()
    monkeypatch.setenv(WORKSPACE, value)
    monkeypatch.setattr(machine, "is_host", lambda device: False)
    other_products(monkeypatch)
    with pytest.raises(ValueError, match=rf"from the first product of a process on, {reason}"):
        device(deterministic=True).prepare()
    assert settings_of_torch() == before
    device().prepare()


class Circle:
    """What holds itself: nothing frees it but a search for garbage."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.parametrize(("left", "freed"), [(0, False), (1, True)])
def test_a_run_on_a_gpu_begins_without_what_earlier_runs_left(
    left: int, freed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reset: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: left)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    gc.collect()
    gc.disable()
    try:
        kept = weakref.ref(Circle())
        memory.begin(torch.device("cpu"))
        assert (kept() is None, reset) == (False, [])
        memory.begin(torch.device("cuda"))
        assert (kept() is None, reset) == (freed, [torch.device("cuda")])
    finally:
        gc.enable()


def test_memory_that_torch_keeps_on_a_gpu_for_no_tensor_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 100 bytes torch has taken 70, and tensors have 20 of these."""
    known = {"mem_get_info": (30, 100), "memory_reserved": 70, "memory_allocated": 20}
    for name, value in known.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert memory.free(torch.device("cuda")) == 80


@pytest.mark.gpu
def test_the_peak_of_a_gpu_is_that_of_a_run(settings_of_torch: Callable[[], Any]) -> None:
    where = device(name="cuda").prepare()
    before = peak_memory_mb(where)
    torch.ones(8_000_000, dtype=torch.float64, device=where)  # by a run before
    assert peak_memory_mb(where) >= before + 64
    assert peak_memory_mb(device(name="cuda").prepare()) < before + 64


@pytest.mark.gpu
def test_the_memory_that_torch_keeps_for_no_tensor_is_free(
    settings_of_torch: Callable[[], Any],
) -> None:
    where = device(name="cuda").prepare()
    torch.cuda.empty_cache()
    before = memory.free(where)
    held = torch.ones(8_000_000, dtype=torch.float64, device=where)
    assert memory.free(where) <= before - held.nbytes
    del held
    # Others may use the same GPU, a little.
    assert memory.free(where) == pytest.approx(before, abs=16e6)


@pytest.mark.gpu
def test_the_peak_of_a_gpu_is_what_torch_has_allocated_there() -> None:
    held = torch.ones(8_000_000, dtype=torch.float64, device="cuda")
    peak = peak_memory_mb(torch.device("cuda"))
    assert peak >= held.nbytes / 1e6
    assert peak == torch.cuda.max_memory_allocated() / 1e6


@pytest.mark.gpu
def test_a_gpu_that_is_told_to_repeat_itself_gives_every_estimate_the_bits_of_the_first(
    tmp_path: Path, settings_of_torch: Callable[[], Any]
) -> None:
    # A run that goes on has forgotten what was computed before: its first estimate has to be alike.
    given = ["task=meta", "method=reverse", "model=conv4", "model.width=4", "task.episodes=2"]
    given += ["task.queries=1", "device=cuda", "device.deterministic=true"]
    runner = runner_in(composed(*given), tmp_path)
    inputs = next(runner._advance())
    one, *others = [runner.estimate(*inputs) for _ in range(3)]
    for other in others:
        assert all(torch.equal(value, other.grad[name]) for name, value in one.grad.items())
