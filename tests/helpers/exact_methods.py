"""What exact methods say of one problem."""

from typing import Any

import torch

from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.core.solver import InnerSolver
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params
from bilevel_cli.linear_solvers.cg import ConjugateGradient
from bilevel_cli.linear_solvers.exact import Exact
from bilevel_cli.linear_solvers.minres import MinimumResidual
from bilevel_cli.methods.forward import Forward
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.starts.cold import Cold

EXACT: dict[str, Hypergradient[Any]] = {
    "reverse": Reverse(window=None, segment=None),
    "checkpointed": Reverse(window=None, segment=10),
    "forward": Forward(),
    "exact": Implicit(
        Exact(damping=0.0, rtol=None), warm_adjoint=False, curvature="hessian", clip=None
    ),
    "cg": Implicit(
        ConjugateGradient(500, 1e-13), warm_adjoint=False, curvature="hessian", clip=None
    ),
    "minres": Implicit(
        MinimumResidual(500, 1e-13), warm_adjoint=False, curvature="hessian", clip=None
    ),
}


def hypergradients(
    task: Task, solver: InnerSolver[Any], num_steps: int, outer: Params
) -> dict[str, Params]:
    """The hypergradient that each exact method finds after as many inner steps from a fresh start.

    They agree where the inner problem is solved.
    """
    loop, generator = InnerLoop(task, solver, Cold()), torch.Generator().manual_seed(0)
    data = loop.drawn(outer, task.sample(num_steps, generator), generator)
    found = {}
    for name, method in EXACT.items():
        method.check(loop, outer, data)
        carry = method.init(outer, loop.fresh(outer, data))
        found[name] = method.estimate(loop, outer, data, carry).grad
    return found
