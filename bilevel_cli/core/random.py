"""The independent random numbers behind the seed of a run."""

import hashlib
from typing import Any

import torch
from torch import Tensor


class Stream(torch.Generator):
    """A source of random numbers that remembers what is left of each epoch drawn from it.

    Attributes:
        orders: For each epoch, by its name: the examples that it has yet to show, in their order.
    """

    orders: dict[str, Tensor]

    def order(self, name: str) -> Tensor | None:
        """What remains of the present epoch called `name`; None before the first."""
        return self.__dict__.setdefault("orders", {}).get(name)

    def state(self) -> dict[str, Any]:
        """What `restore` needs to continue: tensors and dicts of them."""
        return {"random": self.get_state(), "orders": dict(self.__dict__.get("orders", {}))}

    def restore(self, state: dict[str, Any]) -> None:
        self.set_state(state["random"])
        self.orders = {name: order.to(self.device) for name, order in state["orders"].items()}


def generator(seed: int, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """One of the independent sources of random numbers behind a seed.

    Streams are apart so that two methods with one seed see the same data, whatever each draws.

    Args:
        seed: The run's seed.
        stream: What the numbers are for.
        device: Where they are drawn.
    """
    return torch.Generator(device).manual_seed(stream_seed(seed, stream))


def stream_seed(seed: int, stream: str) -> int:
    """The seed of one of the streams behind a run's seed."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
