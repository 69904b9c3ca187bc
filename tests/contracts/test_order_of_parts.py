"""The files of all methods have their parts in one order: who has read one finds all in others."""

import ast
from pathlib import Path

import pytest

import bilevel_cli

PACKAGE = Path(bilevel_cli.__file__).parent
METHODS = sorted([*PACKAGE.glob("methods/[!_]*.py"), PACKAGE / "skeletons/method/last_steps.py"])
STATES = ("Carry", "TypedDict")  # how the names of bases of states end
# Within the class. Settings come before, helpers after.
PARTS = (
    *("__post_init__", "remembers", "extra_batches", "extras", "whole_every", "holds"),
    *("init", "begin", "draw"),
    *("requires", "check", "doubts", "zero_tells", "follows_inner_loss", "followed"),
    *("estimate", "cost", "claim"),
)
SETTING, HELPER = "a setting", "a helper"
ORDER = (SETTING, *PARTS, HELPER)


def part(node: ast.stmt) -> str:
    """The name of a part of a class, or what kind of part it is."""
    match node:
        case ast.AnnAssign(target=ast.Name(id=name)):
            return name if name in PARTS else SETTING
        case ast.FunctionDef(name=name) | ast.Assign(targets=[ast.Name(id=name)]):
            return name if name in PARTS else HELPER
    raise AssertionError(f"line {node.lineno} is no part of a method")


def parts(found: ast.ClassDef) -> list[str]:
    return [part(node) for node in found.body if not isinstance(node, ast.Expr)]


def is_state(node: ast.stmt) -> bool:
    bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
    return any(base.endswith(STATES) for base in bases)


def kind(node: ast.stmt) -> str:
    """What a statement of the file is: its beginning, a state, the method or a helper."""
    if is_state(node):
        return "a state"
    if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
        return "the method"
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return HELPER
    return "the beginning"  # the docstring, imports and constants


def assert_ordered(found: list[str], order: tuple[str, ...]) -> None:
    assert found == sorted(found, key=order.index)


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_a_file_is_its_states_its_method_and_its_helpers(path: Path) -> None:
    kinds = [kind(node) for node in ast.parse(path.read_text()).body]
    assert_ordered(kinds, ("the beginning", "a state", "the method", HELPER))
    assert kinds.count("the method") == 1


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_the_parts_of_a_method_are_in_one_order(path: Path) -> None:
    body = ast.parse(path.read_text()).body
    for node in body:
        if isinstance(node, ast.ClassDef) and kind(node) == "the method":
            assert_ordered(parts(node), ORDER)


def test_the_interface_has_them_in_the_same_order() -> None:
    body = ast.parse((PACKAGE / "core/method.py").read_text()).body
    (interface,) = (
        node for node in body if isinstance(node, ast.ClassDef) and node.name == "Hypergradient"
    )
    found = parts(interface)
    assert_ordered(found, ORDER)
    assert [name for name in found if name != HELPER] == [
        name for name in PARTS if name != "__post_init__"
    ]


def test_a_part_out_of_order_is_seen() -> None:
    (found,) = ast.parse(
        "class X:\n    lr: float\n    def claim(self): ...\n    requires = ()"
    ).body
    assert isinstance(found, ast.ClassDef)
    assert parts(found) == [SETTING, "claim", "requires"]
    with pytest.raises(AssertionError):
        assert_ordered(parts(found), ORDER)
