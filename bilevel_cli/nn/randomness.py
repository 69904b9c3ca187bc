"""The shared generators of torch, Python and numpy, which layers of a model draw from.

Everything else in this project draws from generators that it is handed.
"""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def states() -> dict[str, Any]:
    """The state of each shared generator, by name."""
    found = {
        "torch": torch.get_rng_state(),
        "Python's random": random.getstate(),
        "numpy.random": np.random.get_state(),
    }
    if _on_gpu():
        for device, state in enumerate(torch.cuda.get_rng_state_all()):
            found[f"torch on cuda:{device}"] = state
    return found


@contextlib.contextmanager
def apart(seed: int) -> Iterator[None]:
    """What is drawn within depends on `seed` alone. Afterwards all generators are as before.

    Args:
        seed: In [0, 2^63).
    """
    before = states()
    try:
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        if _on_gpu():
            torch.cuda.manual_seed_all(seed)
        yield
    finally:
        torch.set_rng_state(before["torch"])
        random.setstate(before["Python's random"])
        np.random.set_state(before["numpy.random"])
        for name, state in before.items():
            if name.startswith("torch on "):
                torch.cuda.set_rng_state(state, name.removeprefix("torch on "))


def _on_gpu() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
