"""How far a peer is from ours: the same steps from the same start, on the same blocks."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.stochastic.programs import Peer
from benchmarks.stochastic.rules import Numbers
from bilevel_cli.core.problem import StepData
from bilevel_cli.runs.runner import Runner


def gap(run: Runner, peer: Peer, steps: int) -> float:
    """The largest distance of inner and outer parameters along the way, by how far ours went.

    Args:
        run: A run of ours that has taken no step. It takes them here.
        peer: Its peer.
        steps: Outer steps.
    """
    state, advance = peer.begin(), jax.jit(peer.step)
    largest = {"inner": 0.0, "outer": 0.0}
    start = _ours(run)
    for _ in range(steps):
        with torch.no_grad():
            inputs = run.state.draw()
            run.state.take(inputs, run.estimate(*inputs), lambda *_: {})
        state = advance(peer.data, state, numbers(inputs[1]))
        for name, ours in _ours(run).items():
            distance = float(np.linalg.norm(ours - np.asarray(state[name])))
            largest[name] = max(largest[name], distance if math.isfinite(distance) else math.inf)
    return max(
        largest[name] / float(np.linalg.norm(ours - start[name]))
        for name, ours in _ours(run).items()
    )


def _ours(run: Runner) -> dict[str, NDArray[Any]]:
    """The inner and the outer parameters, copied."""
    both = {"inner": run.state.inner(), "outer": run.state.outer}
    return {
        name: next(iter(params.values())).detach().numpy().copy() for name, params in both.items()
    }


def numbers(data: StepData) -> Numbers:
    """The numbers of the blocks of an outer step of ours, and what else was drawn for it."""

    def seen(value: Any) -> Any:
        return jnp.asarray(value.numpy())

    found = {"inner": seen(data.inner["block"]), "outer": seen(data.outer["block"])}
    if data.extra:
        found["extra"] = seen(data.extra["block"])
    for name, value in data.noise.items():
        found["power" if name == "power" else "directions"] = seen(value)
    return found
