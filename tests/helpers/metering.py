"""The most memory that tensors took at once, counted without asking the system."""

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Metered(TorchDispatchMode):
    """Counts the bytes of tensors that operations make in its context, and that still live.

    What was there before does not count, nor do the workspaces of libraries.

    Attributes:
        peak: The most so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        self._note((args, kwargs), new=False)
        result = func(*args, **(kwargs or {}))
        self._note(result, new=True)
        return result

    def _note(self, tree: Any, new: bool) -> None:
        for x in tree_leaves(tree):
            if isinstance(x, Tensor) and x.untyped_storage()._cdata not in self._known:
                storage = x.untyped_storage()
                size = storage.nbytes() if new else 0
                self._known.add(storage._cdata)
                self._now += size
                self.peak = max(self.peak, self._now)
                weakref.finalize(storage, self._freed, storage._cdata, size)

    def _freed(self, name: int, size: int) -> None:
        self._known.discard(name)
        self._now -= size
