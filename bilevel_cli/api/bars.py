"""Which progress bar suits the place where Python runs."""

import sys
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from bilevel_cli.runs.progress import Bar


def bar(wanted: bool) -> "Bar | None":
    """What makes the progress bar.

    It is a widget in a notebook that has ipywidgets, and a line of text in one that has not. In a
    terminal it is the bar of the command (None).

    Args:
        wanted: Whether there is to be a bar at all.
    """
    if not wanted:
        return partial(tqdm, disable=True)
    if not in_notebook():
        return None
    if find_spec("ipywidgets"):
        from tqdm.notebook import tqdm as widget  # here: it warns where there is no ipywidgets

        return partial(widget, disable=False)
    # A notebook is no terminal, and shows what goes to standard error as if it were wrong.
    return partial(tqdm, disable=False, file=sys.stdout, ncols=80)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    kernel = sys.modules.get("ipykernel.kernelapp")
    return kernel is not None and kernel.IPKernelApp.initialized()
