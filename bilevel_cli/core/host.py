"""The host: the CPU that Python runs on.

On it, reading the value of a tensor waits for nothing, and threads of Python compute side by side.
On every other device a value has to be waited for, and many things are computed in one call.
"""

import torch


def is_host(device: torch.device) -> bool:
    """Whether tensors on `device` are computed by the host itself."""
    return device.type == "cpu"
