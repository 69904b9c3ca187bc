"""TorchOpt (Ren et al., 2023, arXiv:2211.06934): functional optimizers, implicit decorators."""

import warnings

import torch
import torchopt
from torch import Tensor

from benchmarks.case import Case, Implementation, over_episodes
from bilevel_cli.core.problem import Batch

NAME = "TorchOpt"
Tensors = tuple[Tensor, ...]
warnings.filterwarnings("ignore", ".*functorch", FutureWarning)  # it uses an older name


def unrolled(case: Case) -> Implementation:
    def one(inner: Batch, query: Batch) -> Tensors:
        start, outer = case.variables()
        optimizer = torchopt.FuncOptimizer(torchopt.sgd(case.lr, momentum=case.momentum))
        z = start
        for _ in range(case.steps):
            z = optimizer.step(case.inner_loss(case.at(z), z, outer, inner), z)
        loss = case.outer_loss(case.at(z), z, outer, query)
        return torch.autograd.grad(loss, tuple(outer.values()) or start)

    return over_episodes(case, one)


def implicit(case: Case) -> Implementation:
    inner = case.episodes[0][0]
    solve = (
        torchopt.linear_solve.solve_cg(maxiter=case.products, rtol=0.0)
        if case.is_cg
        else torchopt.linear_solve.solve_inv(ns=True, maxiter=case.products - 1, alpha=case.lr)
    )

    def objective(z: Tensors, outer: Tensors) -> Tensor:
        return case.inner_loss(case.at(z), z, dict(zip(case.outer, outer, strict=True)), inner)

    @torchopt.diff.implicit.custom_root(torch.func.grad(objective), argnums=1, solve=solve)
    def solution(z: Tensors, outer: Tensors) -> Tensors:
        optimizer = torchopt.sgd(case.lr, momentum=case.momentum)
        z = tuple(w.detach().clone().requires_grad_() for w in z)
        state = optimizer.init(z)
        with torch.enable_grad():
            for _ in range(case.steps):
                grads = torch.autograd.grad(objective(z, outer), z)
                updates, state = optimizer.update(grads, state, params=z, inplace=True)
                z = torchopt.apply_updates(z, updates, inplace=True)
        return z

    def one(_: Batch, query: Batch) -> Tensors:
        start, outer = case.variables()
        z = solution(start, tuple(outer.values()))
        return torch.autograd.grad(
            case.outer_loss(case.at(z), z, outer, query), tuple(outer.values())
        )

    return over_episodes(case, one)
