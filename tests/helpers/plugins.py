"""A method and a task that live outside of the package, and import what it declares alone."""

METHOD = '''
"""The sign of the hypergradient."""

from dataclasses import dataclass

from bilevel_cli import Carry, Cost, Estimate, Hypergradient, autodiff


@dataclass(frozen=True)
class Sign(Hypergradient[Carry]):
    """Sign of the hypergradient, by backpropagation through the inner steps.

    Args:
        scale: Length of each entry.
    """

    scale: float

    def init(self, outer, state):
        return {"inner": state}

    def estimate(self, loop, outer, data, carry):
        def end(outer):
            state = loop.run(loop.begin(outer, data, carry["inner"]), outer, data)
            return loop.problem.outer_loss(state["inner"], outer, data.outer), state

        grad, (loss, state) = autodiff.grad_and_value(end, has_aux=True)(outer)
        signs = {name: self.scale * value.sign() for name, value in grad.items()}
        return Estimate(signs, loss, {"inner": state}, {})

    def cost(self, num_steps, outer, inner, metrics):
        return Cost(inner_grads=num_steps, hvps=num_steps)
'''


TASK = '''
"""One number that a scalar follower should come near."""

import torch

from bilevel_cli import StepData, Task


class Follow(Task):
    """f = (z - lambda)^2 / 2, F = (z - target)^2 / 2.

    Args:
        target: Where the follower should be.
        device: Where the numbers live.
    """

    def __init__(self, target: float, device: torch.device) -> None:
        self.target, self.zero = target, torch.zeros(1, device=device)

    def init_outer(self, generator):
        return {"lam": self.zero.clone()}

    def init_inner(self, outer, data):
        return data.init

    def sample(self, num_steps, generator):
        noise = torch.randn(num_steps, generator=generator, device=self.zero.device)
        return StepData({"z": self.zero}, {"noise": 0.01 * noise}, {})

    def inner_loss(self, inner, outer, batch):
        return 0.5 * (inner["z"] - outer["lam"] - batch["noise"]).square().sum()

    def outer_loss(self, inner, outer, batch):
        return 0.5 * (inner["z"] - self.target).square().sum()

    def evaluate(self, loop, outer, inner):
        return {"distance": (outer["lam"] - self.target).abs().sum()}
'''


FILES = {
    "mine/__init__.py": "",
    "mine/sign.py": METHOD,
    "mine/follow.py": TASK,
    "conf/method/sign.yaml": (
        "# sign of the hypergradient\n_target_: mine.sign.Sign\nscale: 1.0\n"
    ),
    "conf/task/follow.yaml": (
        "# @package _global_\n# one number to follow\ndefaults:\n  - override /data: null\n"
        "  - override /model: null\n\ntask:\n  _target_: mine.follow.Follow\n  target: 0.7\n\n"
        "suggest:\n  outer_steps: 60\n  inner_steps: 5\n  inner_lr: 0.5\n  outer_lr: 0.05\n"
        "  eval_every: 10\n"
    ),
}
