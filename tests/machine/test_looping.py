"""A loop over steps that is compiled as one function has the numbers of the steps."""

import builtins
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bilevel_cli.core import trees
from bilevel_cli.core.trees import Tree
from bilevel_cli.machine import looping
from bilevel_cli.machine.looping import NotCompiled, Step, compiled

STEPS = 5
KNOWN = torch.__version__.startswith("2.13.")
needs_known = pytest.mark.skipif(not KNOWN, reason="an earlier torch may compile no loop")


def eager(step: Step, moving: Tree, given: Tree) -> tuple[Tree, Tree]:
    report: Tree = None
    moving = trees.map_leaves(torch.clone, moving)
    for number in range(STEPS):
        row = trees.map_leaves(lambda x, number=number: x[number], given)
        moving, report = step(moving, row)
    return moving, report


def looped(step: Step, moving: Tree, given: Tree) -> tuple[Tree, Tree]:
    moving = trees.map_leaves(torch.clone, moving)
    report = compiled(step, moving, given)(moving, given, STEPS)
    return moving, report


def given() -> dict[str, Tensor]:
    rows = torch.tensor([2, 0, 1, 1, 0, 2])[:, None]
    return {"x": torch.randn(6, 3), "row": rows}  # room for one more step than is taken


def pair() -> dict[str, Tensor]:
    return {"a": torch.arange(1.0, 4.0), "b": -torch.arange(5.0, 8.0)}


@needs_known
def test_a_loop_has_the_numbers_of_its_steps_whatever_shares_memory_in_them() -> None:
    task = torch.randn(3)

    def step(m: Any, g: Any) -> tuple[Tree, Tree]:
        row = g["row"]
        table = m["table"].index_put((row,), m["table"][row] + g["x"].sum())
        other = m["other"].scatter(0, row, g["x"][:1])
        total = m["total"] + 0.5 * g["x"]
        nan = torch.where(g["x"] > 0, m["nan"], torch.nan * m["nan"])
        after = {
            "swapped": {"a": m["swapped"]["b"], "b": m["swapped"]["a"]},
            "table": table,
            "read_before": m["table"][row][0],
            "other": other,
            "total": total,
            "previous": m["total"],
            "twice": (total, total),
            "turned": m["turned"].T,
            "held": task,
            "still": m["still"],
            "nan": nan,
            "infinite": m["infinite"] * 1e120,
            "single": m["single"] * 0.5 + 1,
            "none": m["none"],
        }
        report = {
            "before": m["total"],
            "view": total[1:],
            "same": (total, total),
            "task": task,
            "old_table": m["table"].sum(0),
            "narrow": total[:1].expand(4, 1),
            "largest": nan.abs().amax(),
            "finite": torch.stack([nan.isfinite().all(), m["infinite"].isfinite().all()]),
        }
        return after, report

    moving = {
        "swapped": pair(),
        "table": torch.zeros(3, 4),
        "read_before": torch.zeros(4),
        "other": torch.zeros(3),
        "total": torch.ones(3),
        "previous": torch.zeros(3),
        "twice": (torch.zeros(3), torch.zeros(3)),
        "turned": torch.arange(9.0).reshape(3, 3),
        "held": torch.zeros(3),
        "still": torch.ones(2),
        "nan": torch.ones(3),
        "infinite": torch.ones(3),
        "single": torch.ones(3, dtype=torch.float32),
        "none": torch.zeros(0),
    }
    rows = given()
    ours, theirs = looped(step, moving, rows), eager(step, moving, rows)
    assert theirs[1]["finite"].tolist() == [False, False]  # both occur
    for one, other in zip(trees.leaves(ours), trees.leaves(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14, equal_nan=True)


@needs_known
def test_a_loop_takes_as_many_steps_as_it_is_told_and_goes_on_from_there() -> None:
    def step(m: Any, g: Any) -> tuple[Tree, Tree]:
        return {"a": m["a"] + g["x"]}, {"sum": m["a"].sum()}

    rows, moving = given(), {"a": torch.zeros(3)}
    loop = compiled(step, moving, rows)
    loop(moving, rows, 1)
    torch.testing.assert_close(moving["a"], rows["x"][0])
    report = loop(moving, rows, 6)
    torch.testing.assert_close(moving["a"], rows["x"].sum(0) + rows["x"][0])
    torch.testing.assert_close(report["sum"], rows["x"][:5].sum() + rows["x"][0].sum())
    for wrong in ({"a": torch.zeros(4)}, {"a": torch.zeros(3).float()}, {"a": torch.zeros(6)[::2]}):
        with pytest.raises(ValueError, match="shapes it was compiled for"):
            loop(wrong, rows, 1)
    with pytest.raises(ValueError, match="shapes it was compiled for"):
        loop(moving, {n: x[:3] for n, x in rows.items()}, 1)  # less room than there was


@needs_known
def test_a_wrong_row_raises_and_reads_nothing_elsewhere() -> None:
    def step(m: Any, g: Any) -> tuple[Tree, Tree]:
        return {"a": m["a"].index_put((g["row"],), m["a"][g["row"]] + 1)}, {}

    rows, moving = given(), {"a": torch.zeros(3)}
    loop = compiled(step, moving, rows)
    rows["row"][2] = 7
    with pytest.raises(IndexError, match="a number of none of them"):
        loop(moving, rows, STEPS)
    assert not moving["a"].any()  # looked at before the first step


REFUSED: dict[str, tuple[Callable[[Any, Any], Tree], str]] = {
    "random": (lambda m, g: m["a"] + torch.rand(3), "draws random numbers"),
    "dropout": (lambda m, g: torch.nn.functional.dropout(m["a"]), "draws random numbers"),
    "value": (lambda m, g: m["a"] * float(m["a"].sum()), "data-dependent"),
    "decided": (lambda m, g: m["a"] if m["a"].sum() > 0 else -m["a"], "data-dependent"),
    "counted": (lambda m, g: m["a"][m["a"] > 0], "."),
    "shape": (lambda m, g: torch.cat([m["a"], m["a"]])[:4], "changes its shape"),
    "type": (lambda m, g: m["a"].float(), "changes its shape"),
    "own error": (lambda m, g: 1 / 0, "ZeroDivisionError: division by zero"),
}


@needs_known
@pytest.mark.parametrize("name", REFUSED)
def test_a_step_that_no_loop_can_hold_is_refused_with_its_reason(name: str) -> None:
    fn, reason = REFUSED[name]
    with pytest.raises(NotCompiled, match=reason):
        compiled(lambda m, g: ({**m, "a": fn(m, g)}, {}), pair(), given())


def test_a_step_with_another_nesting_is_refused() -> None:
    with pytest.raises(NotCompiled):
        compiled(lambda m, g: ({"a": m["a"]}, {}), pair(), given())


@pytest.mark.parametrize(
    "gone", ["torch._inductor.compile_fx", "torch._subclasses.fake_tensor", "torch._guards"]
)
def test_a_torch_without_a_private_module_compiles_no_loop(
    gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = builtins.__import__

    def without(name: str, *given: Any, **more: Any) -> Any:
        if name == gone:
            raise ImportError(f"No module named {gone}")
        return usual(name, *given, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(NotCompiled, match=f"No module named {gone}"):
        compiled(lambda m, g: (m, {}), pair(), given())


def test_the_private_functions_of_torch_are_known_to_hold_up_to_this_version() -> None:
    # With a later one, run this file and the slow tests of fused runs, and name it here.
    assert tuple(map(int, torch.__version__.split(".")[:2])) <= (2, 13), looping.__doc__
