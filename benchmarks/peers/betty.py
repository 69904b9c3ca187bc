"""Betty (Choe et al., 2023, arXiv:2207.02849): problems in a graph, run by an engine.

Used for what it is known for, implicit differentiation.
"""

import contextlib
import copy
import io
from typing import Any

import torch
from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.logging import get_logger
from betty.problems import ImplicitProblem
from torch import Tensor

from benchmarks.case import Case, Implementation, Values
from bilevel_cli.core.trees import Params

NAME = "Betty"


class _Problem(ImplicitProblem):
    batch: Any

    def get_batch(self) -> Any:
        return self.batch


class _Inner(_Problem):
    case: Case
    upper: Any

    def training_step(self, batch: Any) -> Tensor:
        z = list(self.module.parameters())
        return self.case.inner_loss(self.module, z, self.upper.module.named, batch)


class _Outer(_Problem):
    case: Case
    lower: Any

    def training_step(self, batch: Any) -> Tensor:
        model = self.lower.module
        return self.case.outer_loss(model, list(model.parameters()), self.module.named, batch)

    def custom_optimizer_step(self) -> None:
        self.found = [value.grad for value in self.module.values]


def implicit(case: Case) -> Implementation:
    config = Config(
        type="cg" if case.is_cg else "neumann",
        unroll_steps=case.steps,
        cg_iterations=case.products,
        neumann_iterations=case.products - 1,
        neumann_alpha=case.lr,
    )
    model = copy.deepcopy(case.model)
    device = str(next(model.parameters()).device)
    optimizer = torch.optim.SGD(model.parameters(), case.lr, momentum=case.momentum)
    upper = _Outer("upper", Config(retain_graph=True), module=Values(case), device=device)
    lower = _Inner("lower", config, module=model, optimizer=optimizer, device=device)
    upper.case = lower.case = case
    lower.batch, upper.batch = case.episodes[0]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it was given
        get_logger().setLevel("ERROR")
        engine = Engine(
            [lower, upper],
            EngineConfig(train_iters=case.steps, valid_step=10**9),
            {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
        )

    def hypergradient() -> Params:
        with torch.no_grad():
            for value, begin in zip(model.parameters(), case.model.parameters(), strict=True):
                value.copy_(begin)
        engine.run()
        return dict(zip(case.names, upper.found, strict=True))

    return hypergradient
