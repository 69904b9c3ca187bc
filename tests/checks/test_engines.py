"""A part that takes derivatives from torch itself is told which, where, and what to use."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from bilevel_cli import check_method, check_solver, check_task

METHOD = '''
"""A method: torch.func.grad is only mentioned here."""

import functorch_of_mine
import torch
import torch.func as transforms
from torch import autograd
from torch.func import grad as derivative

from bilevel_cli import Carry, Cost, Estimate, Hypergradient, autodiff


def helper(loss):
    return torch.func.vjp(loss)


class Tool:
    def backward(self):
        return 0

    def hidden(self):
        return torch.vmap(abs)


class Mine(Hypergradient[Carry]):
    def init(self, outer, state):
        return {{"inner": state}}

    def backward(self):
        return 0

    def own(self, loss):
        return autograd.grad(loss, ())

    def estimate(self, loop, outer, data, carry):
        # torch.func.grad would be wrong here, and loss.backward() too.
        def end(outer):
            state = loop.run(loop.begin(outer, data, carry["inner"]), outer, data)
            return loop.problem.outer_loss(state["inner"], outer, data.outer), state

        text = "torch.autograd.grad"
        {line}
        slope, (loss, state) = autodiff.grad_and_value(end, has_aux=True)(outer)
        return Estimate(slope, loss, {{"inner": state}}, {{}})

    def cost(self, num_steps, outer, inner, metrics):
        return Cost(num_steps, num_steps)

    def claim(self):
        torch.func.grad(abs)  # a reference may share no code with the method
'''


def loaded(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of this text, in a package of its own."""
    (folder / "ownparts").mkdir(exist_ok=True)
    (folder / "ownparts" / "method.py").write_text(text)
    (folder / "functorch_of_mine.py").write_text("from torch.func import grad as slope\n")
    monkeypatch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name.startswith("ownparts")]:
        monkeypatch.delitem(sys.modules, name)
    return importlib.import_module("ownparts.method")


@pytest.mark.parametrize(
    ("line", "used", "instead"),
    [
        ("torch.func.grad(end)", "torch.func.grad", "autodiff.grad"),
        ("transforms.jacrev(end)", "torch.func.jacrev", "autodiff.jacfwd"),
        ("derivative(end)", "torch.func.grad", "autodiff.grad"),
        ("from torch.func import vmap as v; v(end)", "torch.func.vmap", "autodiff.vmap"),
        ("torch.autograd.grad(end, ())", "torch.autograd.grad", "autodiff.grad"),
        ("self.own(end)", "torch.autograd.grad", "autodiff.grad"),
        ("helper(end)", "torch.func.vjp", "autodiff.vjp"),
        ("Tool().hidden()", "torch.func.vmap", "autodiff.vmap"),
        ("end(outer)[0].backward()", "Tensor.backward", "autodiff.grad"),
        ("torch.autograd.functional.jvp", "torch.autograd.functional.jvp", "autodiff"),
        ("transforms.functional_call", "torch.func.functional_call", "functional"),
        ("functorch_of_mine.slope(end)", "torch.func.grad", "autodiff.grad"),
        ("tool = lambda x: torch.func.grad(x)", "torch.func.grad", "autodiff.grad"),
    ],
)
def test_a_method_that_asks_torch_is_told_to_ask_autodiff(
    line: str, used: str, instead: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = METHOD.format(line=line)
    module = loaded(text, tmp_path, monkeypatch)
    with pytest.raises(AssertionError) as caught:
        check_method(module.Mine())
    said = str(caught.value)
    assert f" uses {used} ({tmp_path}/ownparts/method.py, line " in said
    assert said.endswith(f"Use bilevel_cli.{instead}.")
    number = int(said.partition("line ")[2].partition(")")[0])
    there = text.splitlines()[number - 1]
    assert used.rpartition(".")[2] in there or line in there


@pytest.mark.parametrize(
    "line", ["self.backward()", "x = torch.autograd.Function, torch.no_grad, torch.func"]
)
def test_names_in_comments_and_other_names_of_torch_are_no_uses(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_method(loaded(METHOD.format(line=line), tmp_path, monkeypatch).Mine())


PARTS = """
import torch

from bilevel_cli import InnerSolver, Task


class Own(Task):
    init_outer = sample = evaluate = None

    def init_inner(self, outer, data):
        return data.init

    def inner_loss(self, inner, outer, batch):
        return torch.func.grad(lambda z: z.square().sum())(inner["z"]).sum()

    outer_loss = inner_loss


class Steps(InnerSolver):
    def init(self, inner):
        return {"inner": inner}

    def step(self, oracle, state):
        loss = oracle.inner_loss(state["inner"])
        return {"inner": torch.autograd.grad(loss, list(state["inner"].values()))}
"""


def test_a_task_and_a_solver_are_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = loaded(PARTS, tmp_path, monkeypatch)
    with pytest.raises(AssertionError, match=r"Own.inner_loss uses torch.func.grad \(.*line 14\)"):
        check_task(module.Own())
    with pytest.raises(AssertionError, match=r"Steps.step uses torch.autograd.grad \(.*line 25\)"):
        check_solver(module.Steps())
