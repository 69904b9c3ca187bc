"""Torch's compiler, which a run that compiles nothing does not wait for.

torch.optim imports it to mark a step as one that is not to be compiled, and torch.autograd imports
its symbolic sizes, and sympy with them, to compare two shapes. Both take longer than the first
outer step of a small run: 1.4 of the 2.7 seconds of CPU time from the command to that step.
"""

import contextlib
import importlib
import importlib.util
import logging
import operator
import sys
import warnings
from collections.abc import Iterator
from threading import Timer
from types import ModuleType
from typing import Any

log = logging.getLogger(__name__)

PATIENCE = 30.0  # seconds of compiling after which somebody may think that nothing happens

# What torch asks of each module where nothing is compiled, with the same results: there a step
# marks nothing, and the sizes of tensors are whole numbers.
ASKED: dict[str, dict[str, Any]] = {
    "torch._dynamo": {
        "disable": lambda fn, *args, **kwargs: fn,
        "graph_break": lambda *args, **kwargs: None,
    },
    "torch.fx.experimental.symbolic_shapes": {"expect_true": bool, "sym_eq": operator.eq},
}


class Deferred(ModuleType):
    """Stands for a module until something is asked of it that the stand-in does not have.

    Args:
        name: Of the module.
        package: Whether the module has others below it.
        known: What the stand-in answers itself.
    """

    def __init__(self, name: str, package: bool, known: dict[str, Any]) -> None:
        super().__init__(name)
        self._has_below = package
        vars(self).update(known)

    def __getattr__(self, name: str) -> Any:
        # An import of a module below asks for `__path__`. Other such names are asked by whoever
        # looks all modules over, and `__path__` by every `from ... import` too.
        below = name == "__path__" and self._has_below
        if name.startswith("__") and not below:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if sys.modules.get(self.__name__) is self:
            sys.modules.pop(self.__name__, None)
        return getattr(importlib.import_module(self.__name__), name)


def defer() -> None:
    """Puts a stand-in where a module is not imported yet. It is loaded as soon as it is needed."""
    for name, known in ASKED.items():
        if name in sys.modules:
            continue
        package, _, last = name.rpartition(".")
        parent = importlib.import_module(package)
        spec = importlib.util.find_spec(name)
        if spec is None:  # a torch that has no such module
            continue
        has_below = spec.submodule_search_locations is not None
        module = sys.modules[name] = Deferred(name, has_below, known)
        setattr(parent, last, module)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Meanwhile, the compiler keeps to itself what concerns those who write it."""
    told = logging.getLogger("torch._inductor.ir")
    before, told.disabled = told.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        told.disabled = before


@contextlib.contextmanager
def told_where_slow() -> Iterator[None]:
    """Meanwhile, the outer steps are compiled; the user is told so if that takes a while."""
    text = (
        "The outer steps are still being compiled after %.0f s. With device.capture=null they are "
        "taken at once, and more slowly."
    )
    timer = Timer(PATIENCE, log.info, (text, PATIENCE))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
