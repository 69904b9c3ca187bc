"""The shortest programs in torch.autograd: the float64 reference, and a peer like the others."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from benchmarks.case import Case, Implementation, over_episodes
from bilevel_cli.core.problem import Batch
from bilevel_cli.core.trees import Params

NAME = "plain autograd"
Tensors = Sequence[Tensor]
Product = Callable[[Tensor], Tensor]


def _iterates(
    case: Case, z: Tensors, outer: Params, batch: Batch, graph: bool
) -> Iterator[Tensors]:
    """z_1, ..., z_T."""
    velocity: Tensors = [torch.zeros_like(w) for w in z]
    for _ in range(case.steps):
        loss = case.inner_loss(case.at(z), z, outer, batch)
        step: Tensors = torch.autograd.grad(loss, list(z), create_graph=graph)
        if case.momentum:
            step = velocity = [case.momentum * v + g for v, g in zip(velocity, step, strict=True)]
        z = [w - case.lr * g for w, g in zip(z, step, strict=True)]
        if not graph:
            z = [w.detach().requires_grad_() for w in z]
        yield z


def unrolled(case: Case) -> Implementation:
    def one(inner: Batch, query: Batch) -> Tensors:
        start, outer = case.variables()
        *_, z = _iterates(case, start, outer, inner, graph=True)
        loss = case.outer_loss(case.at(z), z, outer, query)
        return torch.autograd.grad(loss, list(outer.values()) or start)

    return over_episodes(case, one)


def pessimistic(case: Case) -> Implementation:
    def one(inner: Batch, query: Batch) -> Tensors:
        start, outer = case.variables()
        iterates, losses = [], []
        for z in _iterates(case, start, outer, inner, graph=True):
            iterates.append(z)
            with torch.no_grad():
                losses.append(case.outer_loss(case.at(z), z, outer, query))
        z = iterates[int(torch.stack(losses).argmax())]
        loss = case.outer_loss(case.at(z), z, outer, query)
        return torch.autograd.grad(loss, list(outer.values()))

    return over_episodes(case, one)


def implicit(case: Case) -> Implementation:
    def one(inner: Batch, query: Batch) -> Tensors:
        start, outer = case.variables()
        for z in _iterates(case, start, outer, inner, graph=False):
            last = list(z)
        slope = torch.autograd.grad(case.outer_loss(case.at(last), last, outer, query), last)
        loss = case.inner_loss(case.at(last), last, outer, inner)
        gradient = _flat(torch.autograd.grad(loss, last, create_graph=True))

        def product(v: Tensor) -> Tensor:
            return _flat(torch.autograd.grad(gradient, last, v, retain_graph=True))

        adjoint = (_cg if case.is_cg else _neumann)(case, product, _flat(slope))
        return [-g for g in torch.autograd.grad(gradient, list(outer.values()), adjoint)]

    return over_episodes(case, one)


def _flat(tensors: Tensors) -> Tensor:
    return torch.cat([x.flatten() for x in tensors])


def _cg(case: Case, product: Product, rhs: Tensor) -> Tensor:
    solution, residual, direction = torch.zeros_like(rhs), rhs, rhs
    for _ in range(case.products):
        image, before = product(direction), residual @ residual
        step = before / (direction @ image)
        solution, residual = solution + step * direction, residual - step * image
        direction = residual + (residual @ residual) / before * direction
    return solution


def _neumann(case: Case, product: Product, rhs: Tensor) -> Tensor:
    term = total = rhs
    for _ in range(case.products - 1):
        term = term - case.lr * product(term)
        total = total + term
    return case.lr * total
