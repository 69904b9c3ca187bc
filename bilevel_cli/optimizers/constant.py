"""An outer step size that stays as it is."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR


class Constant(ConstantLR):
    """The step size stays as it is.

    Args:
        optimizer: The optimizer that has the step size.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        # torch lowers the step size during the first few steps, unless the factor is 1.
        super().__init__(optimizer, factor=1.0)
