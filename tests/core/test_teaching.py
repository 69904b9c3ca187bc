"""The page that opens core/ shows three algorithms: they run as they stand there."""

import re
import textwrap
from typing import Any

import pytest
import torch
from problems import Quadratic

import bilevel_cli.core
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.linear_solvers.cg import ConjugateGradient
from bilevel_cli.methods.iaptt import Iaptt
from bilevel_cli.methods.implicit import Implicit
from bilevel_cli.methods.reverse import Reverse
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.learned import Learned
from bilevel_cli.starts.warm import Warm

NAMES = (InnerLoop, GradientDescent, Learned, Warm, Reverse, Implicit, ConjugateGradient, Iaptt)
PARTS = re.findall(r"(?:^    .*\n|^\n)+", str(bilevel_cli.core.__doc__), re.MULTILINE)
PROGRAMS = [textwrap.dedent(part) for part in PARTS if re.search(r"^\s*(loop|outer) = ", part)]
ALGORITHMS, LOOP = PROGRAMS[:3], PROGRAMS[3]


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=["maml", "hyper-cleaning", "iaptt"])
def test_an_algorithm_of_the_page_finds_the_least_outer_loss(algorithm: str) -> None:
    problem = Quadratic()
    outer = {name: value.clone() for name, value in problem.outer_init().items()}
    data = problem.data(40)
    scope: dict[str, Any] = {kind.__name__: kind for kind in NAMES}
    scope |= {"problem": problem, "outer": outer, "data": data, "outer_steps": 100, "torch": torch}
    exec(algorithm, scope)
    exec(LOOP, scope)
    loop, learned = scope["loop"], scope["outer"]
    assert learned.keys() - outer.keys() == ({"init.z"} if "Learned()" in algorithm else set())

    solved = loop.run(loop.begin(learned, data, loop.fresh(learned, data)), learned, data)
    reached = problem.outer_loss(solved["inner"], learned, data.outer)
    # z* = A^-1 B lambda, so the least F is a least-squares residual. Forty steps of gradient
    # descent leave 0.9^40 of the way, and Adam ends within a few hundredths of the minimum.
    response = torch.linalg.solve(problem.hessian, problem.coupling)
    best = torch.linalg.lstsq(response, problem.target).solution
    least = 0.5 * (response @ best - problem.target).square().sum()
    assert reached < 1.05 * least
    if "Learned()" not in algorithm:  # a start that is learned moves what few steps leave
        assert reached > 0.95 * least
