"""The host: the CPU that Python runs on.

On it, reading the value of a tensor waits for nothing, and threads of Python compute side by side.
On every other device a value has to be waited for, and many things are computed in one call.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def is_host(device: torch.device) -> bool:
    """Whether tensors on `device` are computed by the host itself."""
    return device.type == "cpu"


def on_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies of tensors on the host, without a graph, each with memory of its own.

    However many there are, the host waits for a GPU once: every copy is on its way by then.
    """
    # Into memory that torch pins: to any other, a copy is waited for.
    copies = [x.detach().to("cpu", non_blocking=x.is_cuda, copy=True) for x in tensors]
    for device in {x.device for x in tensors if x.is_cuda}:
        torch.cuda.synchronize(device)
    return copies
