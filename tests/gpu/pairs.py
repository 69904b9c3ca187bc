"""One pair of task and method on a CUDA device, real or simulated, held to the same pair on a CPU.

The tests of the simulated device and `make verify-gpu` share this. The caller has made sure that
there is a device: nothing here knows whether it is real.
"""

import contextlib
import pickle
import tempfile
import time
import traceback
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from configs import configured, options, small
from omegaconf import DictConfig
from runners import runner_in
from torch.utils._pytree import tree_leaves
from waits import nobody_waits

from bilevel_cli.core import trees
from bilevel_cli.core.method import CannotServe, Cost, Estimate
from bilevel_cli.core.problem import StepData
from bilevel_cli.errors import UsageError
from bilevel_cli.machine.capture import captured
from bilevel_cli.machine.device import settings_restored
from bilevel_cli.nn import randomness
from bilevel_cli.runs.divergence import Diverged
from bilevel_cli.runs.runner import Runner
from bilevel_cli.runs.state import Inputs

PACKAGE = "bilevel_cli/"
SIZES = ("inner_steps=3", "outer_steps=3", "device=cpu", "device.dtype=float64")
# Waits that an outer step may make, with the reason, by the innermost function of the package on
# the way there. No graph can hold a step that makes one.
ALLOWED_WAITS: dict[str, str] = {
    "core/dense.py:eigh": "torch asks whether it has converged, and has no eigh_ex",
    ":init_outer": "metrics=norms draws the start again, at a row, which waits anyway",
}
# Sums in another order, in float64, in systems of condition 1e6 or so.
GAP = 1e-6
# The same kernels, though in a graph a library may choose others.
GRAPH_GAP = 1e-9


class Row(NamedTuple):
    """What was found of one pair. Plain numbers and words, for JSON.

    Attributes:
        task: The option of the task.
        method: The option of the method.
        refused: Why a CPU does not serve the pair; None where it does.
        error: What broke, in which part of the check and where; None where nothing did.
        gap: The largest difference of two estimates from the CPU's, relative to the largest number
            of each tensor. None where there is none.
        wait: Where a whole outer step waited for the device; None where it did not.
        graph_gap: As `gap`, of a CUDA graph from the eager estimates on the device.
        no_graph: Why no graph can hold the step; None where one does.
        seconds: Of the whole check.
    """

    task: str
    method: str
    refused: str | None = None
    error: str | None = None
    gap: float | None = None
    wait: str | None = None
    graph_gap: float | None = None
    no_graph: str | None = None
    seconds: float = 0.0

    @property
    def served(self) -> bool:
        return self.refused is None and self.error is None

    @property
    def allowed(self) -> bool:
        """Whether the wait is listed, with a reason."""
        return self.wait is not None and any(part in self.wait for part in ALLOWED_WAITS)

    @property
    def faults(self) -> list[str]:
        """What is wrong, one sentence each. Empty where nothing is."""
        found = [self.error] if self.error else []
        # Written so that a difference which is no number is a fault.
        if self.gap is not None and not self.gap <= GAP:
            found.append(f"the estimate is {self.gap:.1e} off the CPU's")
        if self.wait and not self.allowed:
            found.append(f"an outer step waits: {self.wait}")
        if self.graph_gap is not None and not self.graph_gap <= GRAPH_GAP:
            found.append(f"the graph is {self.graph_gap:.1e} off the eager estimate")
        if self.no_graph and not self.allowed:
            found.append(self.no_graph)
        return found


def pairs() -> list[tuple[str, str]]:
    """All pairs of task and method under conf/."""
    return [(task, method) for task in options("task") for method in options("method")]


def unserved(rows: list[Row]) -> list[str]:
    """The tasks that serve no method and the methods that serve no task, a sentence each.

    A fault that refuses every pair of a task would else pass for so many refusals.

    Args:
        rows: What was found of all pairs. Of some of them it says too much.
    """
    found = []
    for kind in ("task", "method"):
        for name in sorted({getattr(row, kind) for row in rows}):
            of_it = [row for row in rows if getattr(row, kind) == name]
            if not any(row.served for row in of_it):
                reason = of_it[0].refused or of_it[0].error
                found.append(f"{kind}={name}: none of its {len(of_it)} pairs is served: {reason}")
    return found


def check(task: str, method: str, *overrides: str) -> Row:
    """Holds one pair on the device "cuda" to the pair on a CPU.

    Two estimates from the CPU's own inputs are the CPU's; all that they return is on the device; a
    whole outer step, draws and optimizer too, waits for nothing and draws from no global generator;
    a CUDA graph gives both eager estimates; a run goes to its end, or diverges where the CPU's
    does, and what it learned can be read where there is no GPU.

    Args:
        task: The option of the task, which is made small.
        method: The option of the method.
        overrides: More of the command line.
    """
    begun = time.perf_counter()
    row = Row(task, method)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), settings_restored():
        config = configured(
            f"task={task}",
            f"method={method}",
            *SIZES,
            "device.deterministic=true",
            *small(task),
            *overrides,
        )
        row = _checked(row, config, Path(folder))
    return row._replace(seconds=round(time.perf_counter() - begun, 3))


def _checked(row: Row, config: DictConfig, folder: Path) -> Row:
    stage = "on the CPU"
    try:
        try:
            cpu = _built(config, "cpu", folder)
            steps = _two_steps(cpu)
        except (UsageError, CannotServe) as error:
            return row._replace(refused=_first_line(error))
        stage = "on the device"
        gpu = _built(config, "cuda", folder)
        stage = "estimate"
        moved = [_on_device(inputs) for inputs, _ in steps]
        found = [gpu.estimate(*inputs) for inputs in moved]
        expected = [estimate for _, estimate in steps]
        row = row._replace(gap=max(map(_gap, found, expected)))
        if list(map(_types, found)) != list(map(_types, expected)):
            return row._replace(error="estimate: has other types than on a CPU")
        if off := sorted({name for estimate in found for name in _elsewhere(estimate._asdict())}):
            return row._replace(error=f"estimate: left on the host: {', '.join(off)}")
        stage = "outer step"
        whole_step(gpu)  # libraries wait once, when they are loaded
        # Of the device's own memory: that of the CPU was moved there as a whole.
        own = {"outer": gpu.state.outer, "carry": gpu.state.carry}
        if off := sorted(_elsewhere(own)):
            return row._replace(error=f"outer step: left on the host: {', '.join(off)}")
        before = _states()
        wait = waited(gpu)
        row = row._replace(wait=wait)
        if wait is None and before != _states():
            return row._replace(error="outer step: draws from a global generator")
        stage = "graph"
        row = _graph(row, gpu, moved, found)
        stage, before = "run", _states()
        _end_alike(gpu, cpu)
        if before != _states():
            return row._replace(error="run: draws from a global generator")
        if there := sorted(path.name for path in gpu.folder.glob("*.pt") if on_gpu(path)):
            return row._replace(error=f"run: left in {', '.join(there)} on the device")
    except Exception as error:  # whatever it is, it is what was found of the pair
        return row._replace(error=f"{stage}: {told(error)}")
    return row


def _built(config: DictConfig, device: str, folder: Path) -> Runner:
    config = config.copy()
    config.device.name = device
    (folder / device).mkdir()
    return runner_in(config, folder / device)


def _end_alike(gpu: Runner, cpu: Runner) -> None:
    """Runs to the end on the device, and writes what was learned.

    Where that diverges, so does the same run on the CPU.
    """
    try:
        gpu.run()
        gpu.result()
    except Diverged as error:
        try:
            cpu.run()
        except Diverged:
            return
        raise error


def _two_steps(runner: Runner) -> list[tuple[Inputs, Estimate]]:
    """The first two outer steps of a run: what went in, and what came out."""
    found = []
    for _ in range(2):
        advance = runner._advance()
        outer, data, carry = next(advance)
        inputs = trees.map_leaves(torch.clone, outer), data, carry  # the step moves outer in place
        estimate = runner.estimate(outer, data, carry)
        found.append((inputs, estimate))
        with contextlib.suppress(StopIteration):
            advance.send(estimate)
    return found


def whole_step(runner: Runner) -> None:
    advance = runner._advance()
    estimate = runner.estimate(*next(advance))
    with contextlib.suppress(StopIteration):
        advance.send(estimate)


def waited(runner: Runner) -> str | None:
    """Where an outer step waits for the device; None where it does not.

    Raises:
        RuntimeError: It fails otherwise.
    """
    try:
        with nobody_waits():
            whole_step(runner)
    except RuntimeError as error:
        if "called a synchronizing CUDA operation" not in str(error):
            raise
        return told(error)
    return None


def _graph(row: Row, runner: Runner, moved: list[Inputs], eager: list[Estimate]) -> Row:
    """Records the outer step on the last inputs, and replays it from there to the first.

    In another order than the eager calls: a method that remembers something besides its carry, on
    which a graph knows no better than at its recording, would be right in the same one.
    """
    both = list(zip(moved, eager, strict=True))
    try:
        graph = captured(runner.outer_step, "cuda_graph", torch.device("cuda"))
        # All before any is looked at: a replay must leave alone what the one before it gave.
        found = [(graph(*inputs), estimate) for inputs, estimate in reversed(both)]
        return row._replace(graph_gap=max(_gap(*pair) for pair in found))
    except UsageError as error:
        return row._replace(no_graph=_first_line(error))


def _on_device(inputs: Inputs) -> Inputs:
    """The same inputs on the device, repeated along the dimensions along which they are."""

    def moved(x: torch.Tensor) -> torch.Tensor:
        return trees.narrow(x, x).to("cuda").expand(x.shape)

    outer, data, carry = (trees.map_leaves(moved, part) for part in inputs)
    return outer, StepData(*data), carry


def _gap(found: Estimate, expected: Estimate) -> float:
    """The largest difference, relative to the largest number of each tensor."""
    largest = 0.0
    for a, b in zip(_numbers(found), _numbers(expected), strict=True):
        a, b = a.detach().cpu().double(), b.detach().cpu().double()
        # Where both are not finite, and the same, there is no difference.
        off = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs())
        if off.any():
            scale = 1e-9 + b.nan_to_num(0.0, 0.0, 0.0).abs().max()
            largest = max(largest, float((off / scale).nan_to_num(torch.inf).max()))
    return largest


def _numbers(estimate: Estimate) -> list[torch.Tensor]:
    """All of an estimate but what it cost, which the device decides."""
    costs = dict.fromkeys(Cost._fields, torch.zeros(()))
    metrics = {name: costs.get(name, value) for name, value in estimate.metrics.items()}
    return trees.leaves(estimate._replace(metrics=metrics))


def _types(estimate: Estimate) -> list[torch.dtype]:
    return [leaf.dtype for leaf in _numbers(estimate)]


def _elsewhere(parts: dict[str, Any]) -> Iterator[str]:
    """The names of trees of tensors that are not on the device."""
    for name, part in parts.items():
        if any(leaf.device.type != "cuda" for leaf in trees.leaves(part)):
            yield name


def on_gpu(path: Path) -> bool:
    """Whether a file of torch has tensors of the device, so that no other machine can read it."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        loaded = torch.load(path, weights_only=True)
    except pickle.UnpicklingError:  # of what has the simulated device
        return True
    return any(x.device.type != "cpu" for x in tree_leaves(loaded) if isinstance(x, torch.Tensor))


def _states() -> dict[str, Any]:
    """The states of torch's own generators."""
    return {n: x.tolist() for n, x in randomness.states().items() if n.startswith("torch")}


def told(error: BaseException) -> str:
    """What an error says, and where in the package and the tests it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f"{_short(f.filename)}:{f.name}" for f in frames if "/torch/" not in f.filename]
    inner = [place for place in own if place.startswith(PACKAGE)] or own
    return f"{type(error).__name__}: {_first_line(error)} [{inner[-1]}]"


def _short(filename: str) -> str:
    before, package, path = filename.rpartition(PACKAGE)
    return package + path if package else Path(before + path).name


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__
