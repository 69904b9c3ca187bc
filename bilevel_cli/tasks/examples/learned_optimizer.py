"""Small training problems on which an optimizer is learned, and new ones on which it is tried."""

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bilevel_cli.core import autodiff, draws, trees
from bilevel_cli.core.loop import InnerLoop
from bilevel_cli.core.problem import Batch, StepData
from bilevel_cli.core.solver import InnerSolver, Learned
from bilevel_cli.core.task import Task
from bilevel_cli.core.trees import Params
from bilevel_cli.solvers.adam import Adam
from bilevel_cli.solvers.gd import GradientDescent
from bilevel_cli.starts.cold import Cold

INPUTS = 2  # of a network
LOG_LR = "log_lr"


class LearnedOptimizer(Task):
    """A set of quadratics and small networks, trained all at once by the inner solver.

        f(z) = sum_p f_p(z_p),    F(z) = mean_p f_p(z_p) without noise, p over all problems
        f_p  = (z_p - e)' A_p (z_p - e) / 2                            of a quadratic
        f_p  = mean_i (network(x_i; z_p) - y_i - e_i)^2                of a network

    with noise e that is drawn in every step. The problems are drawn once, and the start of z anew
    at every outer step. The outer parameters are those of the solver: the numbers of
    solver=learned_rule, or learned step sizes. They act through the steps alone, and nothing is
    solved to the end. So what serves is a method that sees the steps: reverse mode, or evolution
    strategies. PES (Vicol et al., 2021, arXiv:2112.13835) and ES-Single (2023, arXiv:2304.11153)
    cut a training of `horizon` windows into windows of `inner_steps` steps, and learn from the mean
    of F over all of them; others learn from the last F.

    Curvatures are log-uniform between 1 / condition and 1, in random directions. A network has one
    hidden layer of tanh; its targets are those of another one, scaled to variance 1.

    Scores, on as many new problems of the same kind, whose training is as noisy: F after
    `eval_steps` steps (final_loss), and the mean of F over these steps (mean_loss). Beside them,
    both for gradient descent (gd_*) and Adam (adam_*), with the one step size of `step_sizes`
    that is the best for this score on the training problems. Then the settings that were learned.

    Args:
        quadratics: Their number, >= 0.
        networks: Their number, >= 0; there must be one problem at least.
        dim: Unknowns of a quadratic.
        condition: Largest ratio of the curvatures of a quadratic, >= 1.
        width: Hidden units of a network.
        points: Points that a network is fitted to, >= 2.
        noise: Standard deviation of e, >= 0.
        eval_steps: Steps of a trial on new problems.
        step_sizes: Among which gradient descent and Adam are tuned.
        device: Where the problems live.
        generator: Draws them.
    """

    def __init__(
        self,
        quadratics: int,
        networks: int,
        dim: int,
        condition: float,
        width: int,
        points: int,
        noise: float,
        eval_steps: int,
        step_sizes: list[float],
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        least = {"quadratics": (quadratics, 0), "networks": (networks, 0), "dim": (dim, 1)}
        least |= {"width": (width, 1), "points": (points, 2), "eval_steps": (eval_steps, 1)}
        for name, (count, bound) in least.items():
            if count < bound:
                raise ValueError(
                    f"LearnedOptimizer needs {name} >= {bound}, got {name}={count}. "
                    f"Set task.{name}."
                )
        if not quadratics + networks:
            raise ValueError(
                "LearnedOptimizer needs a problem to train on, got quadratics=0, networks=0. "
                "Set task.quadratics or task.networks."
            )
        if not (1 <= condition < math.inf and 0 <= noise < math.inf):
            raise ValueError(
                "LearnedOptimizer needs a finite condition >= 1 and a finite noise >= 0, got "
                f"condition={condition}, noise={noise}. Set task.condition and task.noise."
            )
        if not step_sizes or not all(0 < lr < math.inf for lr in step_sizes):
            raise ValueError(
                f"LearnedOptimizer needs finite step_sizes > 0, got {list(step_sizes)}. "
                "Set task.step_sizes."
            )
        self.quadratics, self.networks = quadratics, networks
        self.dim, self.condition, self.width, self.points = dim, condition, width, points
        self.noise, self.eval_steps, self.device = noise, eval_steps, device
        self.step_sizes = list(step_sizes)
        self.problems, self.new_problems = self._drawn(generator), self._drawn(generator)
        self.eval_seed = int(torch.randint(2**62, (1,), generator=generator))

    def init_outer(self, generator: torch.Generator) -> Params:
        return {}  # what is learned belongs to the solver

    def sample(self, num_steps: int, generator: torch.Generator) -> StepData:
        return self.trained(self.problems, num_steps, generator)

    def trained(self, problems: Batch, num_steps: int, generator: torch.Generator) -> StepData:
        """A training of all problems: its start, and the noise of its steps.

        Args:
            problems: `problems` or `new_problems`, which are the outer batch.
            num_steps: Inner steps.
            generator: On the task's device.
        """
        start: Params = {}
        inner = {n: value.expand(num_steps, *value.shape) for n, value in problems.items()}
        for name in ("minimum", "y"):  # what the noise of a step moves
            if name in problems:
                e = draws.normal(num_steps, *problems[name].shape, generator=generator)
                inner[name] = problems[name] + self.noise * e
        if self.quadratics:
            start["z"] = draws.normal(self.quadratics, self.dim, generator=generator)
        if self.networks:
            start |= self._weights(generator)
        return StepData(start, inner, problems)

    def losses(self, inner: Params, batch: Batch) -> Tensor:
        """f_p of each problem, of shape [quadratics + networks], the quadratics first.

        Args:
            inner: z.
            batch: The problems, with the noise of a step in what it moves, or without.
        """
        found = []
        if self.quadratics:
            z = inner["z"] - batch["minimum"]
            found.append(0.5 * torch.einsum("pi,pij,pj->p", z, batch["curvature"], z))
        if self.networks:
            found.append((_outputs(inner, batch["x"]) - batch["y"]).square().mean(1))
        return torch.cat(found)

    def inner_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self.losses(inner, batch).sum()  # so that each problem has its own gradient

    def outer_loss(self, inner: Params, outer: Params, batch: Batch) -> Tensor:
        return self.losses(inner, batch).mean()

    def evaluate(self, loop: InnerLoop, outer: Params, inner: Params) -> dict[str, Tensor]:
        losses = self.course(loop, outer, self._trial(self.new_problems))
        scores = {"final_loss": losses[-1], "mean_loss": losses.mean()}
        learned = trees.prefixed("solver.", loop.solver.settings(outer))
        return scores | self._tuned | {name: x for name, x in learned.items() if not x.dim()}

    @cached_property
    def _tuned(self) -> dict[str, Tensor]:
        """The scores of gradient descent and Adam, each with its best step size."""
        lr, found = Learned(LOG_LR), {}
        solvers: dict[str, InnerSolver[Any]] = {
            "gd": GradientDescent(lr),
            "adam": Adam(lr, beta1=0.9, beta2=0.999, eps=1e-8),
        }
        for name, solver in solvers.items():
            old, new = (
                self._courses(solver, self._trial(some))
                for some in (self.problems, self.new_problems)
            )
            for score, of_old, of_new in (
                ("final", old[:, -1], new[:, -1]),
                ("mean", old.mean(1), new.mean(1)),
            ):
                best = of_old.nan_to_num(nan=math.inf).argmin()
                found[f"{name}_{score}_loss"] = of_new[best]
        return found

    def _courses(self, solver: InnerSolver[Any], data: StepData) -> Tensor:
        """F after each step of a training with each step size, [step sizes, steps]."""
        loop = InnerLoop(self, solver, Cold())
        logs = torch.tensor([math.log(lr) for lr in self.step_sizes], device=self.device)

        def one(log: Tensor) -> Tensor:
            return self.course(loop, {LOG_LR: log}, data)

        found: Tensor = autodiff.vmap(one)(logs)
        return found

    def _trial(self, problems: Batch) -> StepData:
        generator = torch.Generator(self.device).manual_seed(self.eval_seed)
        return self.trained(problems, self.eval_steps, generator)

    def course(self, loop: InnerLoop, outer: Params, data: StepData) -> Tensor:
        """F after each step of a training, of shape [steps]."""
        begun, counts = (
            loop.begin(outer, data, loop.fresh(outer, data)),
            range(1, data.num_steps + 1),
        )
        passed = loop.passing(begun, outer, data, counts)
        return torch.stack([self.outer_loss(one["inner"], outer, data.outer) for one in passed])

    def _drawn(self, generator: torch.Generator) -> Batch:
        """Problems of both kinds.

        Args:
            generator: On the CPU.
        """
        exact, found = torch.float64, {}

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=exact)

        if self.quadratics:
            vectors = torch.linalg.qr(normal(self.quadratics, self.dim, self.dim))[0]
            spread = torch.rand(self.quadratics, 1, self.dim, generator=generator, dtype=exact)
            found["curvature"] = vectors * self.condition**-spread @ vectors.mT
            found["minimum"] = torch.zeros(self.quadratics, self.dim, dtype=exact)
        if self.networks:
            x = normal(self.networks, self.points, INPUTS)
            teacher = {name: value.to(exact) for name, value in self._weights(generator).items()}
            y = _outputs(teacher, x)
            found |= {"x": x, "y": (y - y.mean(1, keepdim=True)) / y.std(1, keepdim=True)}
        return {n: value.to(self.device, torch.get_default_dtype()) for n, value in found.items()}

    def _weights(self, generator: torch.Generator) -> Params:
        """Of networks at random, on the device of the generator."""

        def normal(*shape: int) -> Tensor:
            return draws.normal(self.networks, *shape, generator=generator)

        hidden, head = normal(INPUTS, self.width), normal(self.width)
        return {
            "hidden.weight": hidden / math.sqrt(INPUTS),
            "hidden.bias": 0.1 * normal(1, self.width),
            "head.weight": head / math.sqrt(self.width),
            "head.bias": 0.1 * normal(1),
        }


def _outputs(weights: Params, x: Tensor) -> Tensor:
    """What each network makes of its own points `x`, [networks, points, 2]: [networks, points]."""
    hidden = (x @ weights["hidden.weight"] + weights["hidden.bias"]).tanh()
    return (hidden @ weights["head.weight"][:, :, None])[:, :, 0] + weights["head.bias"]
