"""A function of many things, each on a core of its own."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from bilevel_cli.core import counting

Result = TypeVar("Result")


def on_cores(
    fn: Callable[..., Result], *arguments: Sequence[Any], workers: int | None = None
) -> list[Result]:
    """What `fn` returns for each item, as `map` does, on threads that share the cores.

    Many small products are faster one to a core than each on all cores.

    Args:
        fn: Called on several threads at once. It finds autograd on or off as the caller has it.
        arguments: Sequences of one length: the first arguments of all calls, then the second ones.
        workers: Calls at a time, each of which has its share of the cores; None for one a core.

    Raises:
        Exception: What the first of the calls that failed raised.
    """
    threads = torch.get_num_threads()
    workers = workers or threads
    enabled = torch.is_grad_enabled()  # a new thread does not inherit it

    def call(*items: Any) -> Result:
        torch.set_num_threads(max(1, threads // workers))
        with torch.set_grad_enabled(enabled):
            return fn(*items)

    try:
        with ThreadPoolExecutor(workers) as pool:
            return list(counting.counted(pool.map(call, *arguments), len(arguments[0])))
    finally:
        torch.set_num_threads(threads)
