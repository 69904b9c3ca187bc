"""Scores of the peers along a run, at the published step sizes: curves.csv.

Its columns are those of our runs, so that a picture can show both: `step`, `seconds` of wall clock
and `cpu` seconds of computing with compilation, `inner_grads` and `hvps` as train.csv counts them,
and `score`: the squared norm of the exact hypergradient on ijcnn1, the test error on MNIST. Both
are computed by our task.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import results
from benchmarks.stochastic import cases
from bilevel_cli.core.trees import Params
from bilevel_cli.runs.runner import Runner

CHUNKS = {"ijcnn1": 2000, "mnist": 100}  # outer steps of one call
SPARSE = 10  # calls between two scores, once there were so many
CALLS = 2e9  # gradients and products of one example, with which the published curves end
FASTEST = "xla_cpu_copy_insertion_use_region_analysis"


def run(folder: Path, only: str, data: str, seconds: float) -> None:
    """Writes curves.csv.

    Args:
        folder: Where it goes.
        only: Cases whose name contains this.
        data: The folder of the real data.
        seconds: Of CPU time, after which a curve ends, if not by the number of calls.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before JAX counts the cores
    import jax

    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(1)
    path = folder / "curves.csv"
    path.unlink(missing_ok=True)
    for name in cases.names():
        if only in name:
            _curve(path, name, data, seconds)


def _curve(path: Path, name: str, data: str, seconds: float) -> None:
    from benchmarks.stochastic import clock, programs  # here: they import JAX

    # Nothing of ours is compiled: the run is never begun.
    config = cases.configured(name, "device.capture=null", data=data)
    with tempfile.TemporaryDirectory() as folder:
        ours = cases.built(config, Path(folder))
    chunk = 10 if config.task.batch_size is None else CHUNKS[name.split()[0]]
    peer = programs.peer(ours)
    program, carry = peer.program(chunk, **{FASTEST: True})
    scored = _Scored(ours)
    cost = ours.experiment.method.cost(
        ours.plan.schedule.inner_steps, ours.state.outer, ours.state.inner(), {}
    )
    calls = (cost.inner_grads + cost.hvps) * peer.data[0]["y"].shape[1]
    wall, cpu = 0.0, 0.0
    for number in range(1, 10**9):
        begin = clock.now()
        carry = programs.waited(program(carry))
        wall, cpu = (
            total + more for total, more in zip((wall, cpu), clock.since(begin), strict=True)
        )
        step = number * chunk
        over = cpu > seconds or step * calls >= CALLS
        if number & (number - 1) == 0 or number % SPARSE == 0 or over:
            score = scored.at(carry[0])
            counts = {"inner_grads": step * cost.inner_grads, "hvps": step * cost.hvps}
            results.append(path, case=name, step=step, seconds=wall, cpu=cpu, **counts, score=score)
            over = over or score != score
        if over:
            return


@dataclass(frozen=True)
class _Scored:
    """The score of a state of a peer, by our task.

    Args:
        run: A run of ours.
    """

    run: Runner

    def at(self, state: dict[str, Any]) -> float:
        part = self.run.experiment
        inner = _named(self.run.state.inner(), state["inner"])
        outer = _named(self.run.state.outer, state["outer"])
        with torch.no_grad():
            scores = part.task.evaluate(part.loop, outer, inner)
        if "hypergradient_norm2" in scores:
            return float(scores["hypergradient_norm2"])
        return 1 - float(scores["test_accuracy"])


def _named(like: Params, value: Any) -> Params:
    """An array of JAX as the only parameter of a tree."""
    import jax

    ((name, tensor),) = like.items()
    return {name: torch.from_numpy(jax.device_get(value).copy()).reshape(tensor.shape)}
