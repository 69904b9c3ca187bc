"""How far estimates are from the hypergradient, by inner steps: docs/concepts/unrolled_implicit.md.

A quadratic problem whose hypergradient is known in closed form, in float64.
"""

import look
import torch

from bilevel_cli.core import trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.core.problem import StepData
from bilevel_cli.linear_solvers.cg import ConjugateGradient
from bilevel_cli.linear_solvers.identity import Identity
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.cold import Cold
from bilevel_cli.tasks.examples.quadratic import Quadratic

STEPS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150)
METHODS: dict[str, tuple[Hypergradient, str]] = {
    "reverse": (Reverse(window=None, segment=None), look.BLUE),
    "truncated (5 steps)": (Reverse(window=5, segment=None), look.GREEN),
    "cg (10 products)": (
        Implicit(
            ConjugateGradient(max_steps=10, rtol=1e-12),
            warm_adjoint=False,
            curvature="hessian",
            clip=None,
        ),
        look.ORANGE,
    ),
    "identity": (
        Implicit(Identity(), warm_adjoint=False, curvature="hessian", clip=None),
        look.PURPLE,
    ),
}


def draw() -> None:
    torch.set_default_dtype(torch.float64)
    task = Quadratic(20, 5, 0.0, torch.device("cpu"), torch.Generator().manual_seed(0))
    outer = {"lam": torch.ones(5)}
    response = torch.linalg.solve(task.hessian, task.coupling @ outer["lam"])
    adjoint = torch.linalg.solve(task.hessian, response - task.target)
    exact = {"lam": task.coupling.T @ adjoint}
    loop = InnerLoop(task, GradientDescent(0.1), Cold())
    drawing = look.figure(700, 300)
    axes = drawing.subplots()
    for name, (method, colour) in METHODS.items():
        errors = []
        for steps in STEPS:
            start = {"z": torch.zeros(20)}
            data = StepData(start, {"scale": torch.ones(steps)}, {})
            carry = method.init(outer, {"inner": start})
            found = method.estimate(loop, outer, data, carry).grad
            errors.append((trees.norm(trees.axpy(-1.0, exact, found)) / trees.norm(exact)).item())
        axes.loglog(STEPS, errors, "o-", color=colour, markersize=3.5, linewidth=1.6)
        look.label(axes, STEPS[-1], errors[-1], name, colour)
    axes.set(xlabel="inner steps K", ylabel="relative error", xlim=(0.9, 420))
    axes.set_title("Distance of an estimate to the hypergradient")
    axes.set_xticks([1, 10, 100], ["1", "10", "100"])
    look.save(drawing, "depth")


if __name__ == "__main__":
    draw()
