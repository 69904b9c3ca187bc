"""An outer step size that stays as it is."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR


class Constant(ConstantLR):
    """The step size stays as it is.

    Args:
        optimizer: Whose step size.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer, factor=1.0)  # torch's factor of a few steps is not for the user
