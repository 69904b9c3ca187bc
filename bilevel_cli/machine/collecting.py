"""Python's search for garbage, which has nothing to find while libraries are imported."""

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Searches for no garbage during imports and checks of a command, nor among what they made.

    Modules, classes, functions and parsed sources stay. Python searches them again at each so many
    new objects: a tenth to a fifth of the CPU time of importing torch. `gc.freeze` also spares them
    the searches of the run, each of which would walk half a million objects. Where torch is there
    already, and where a program has switched the search off, nothing changes.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
