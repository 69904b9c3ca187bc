"""Random numbers that float32 and float64 runs of one seed share, to rounding.

torch draws other numbers in float32 than in float64. So every draw has a type of its own, whatever
the run's, and is cast. That type is float32, as runs have it by default. It is float64 where
trajectories are kept in float64 (tests/golden): problems in closed form, and the random numbers of
methods.
"""

import torch
from torch import Tensor


def normal(
    *shape: int, generator: torch.Generator, drawn_in: torch.dtype = torch.float32
) -> Tensor:
    """Standard normal numbers in torch's default type, on the device of the generator.

    Args:
        shape: Of the result.
        generator: Draws them.
        drawn_in: The type that decides which they are.
    """
    drawn = torch.randn(shape, generator=generator, dtype=drawn_in, device=generator.device)
    return drawn.to(torch.get_default_dtype())


def uniform(
    *shape: int, generator: torch.Generator, drawn_in: torch.dtype = torch.float32
) -> Tensor:
    """As `normal`, between 0 and 1; rounding to float32 may make 1 of what was drawn in float64."""
    drawn = torch.rand(shape, generator=generator, dtype=drawn_in, device=generator.device)
    return drawn.to(torch.get_default_dtype())
