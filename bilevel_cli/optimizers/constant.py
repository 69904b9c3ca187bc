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

    def step(self, epoch: int | None = None) -> None:
        """Counts a step: what torch does besides comes to nothing, and takes ten times as long."""
        if epoch is not None or self._step_count < 2:  # torch looks at the first ones
            super().step(epoch)
            return
        self._step_count += 1
        self.last_epoch += 1
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
