"""What processes of one run tell each other: tensors and plain values, and no code.

The objects that torch.distributed sends by itself are pickles, which run code when they are read.
A value here is made of nested dicts, lists and tuples of tensors on the CPU, numbers, strings and
None. All processes must make the same calls. A call raises RuntimeError where another process has
ended.
"""

import contextlib
import io
import sys
import traceback
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

PLAIN = (str, int, float)


def broadcast(value: Any) -> Any:
    """The value that the first process gives, whatever the others give."""
    content = _bytes(value)
    size = torch.tensor([len(content)])
    dist.broadcast(size, 0)
    if dist.get_rank():
        content = content.new_empty(int(size))
    dist.broadcast(content, 0)
    return _value(content)


def gather(value: Any) -> list[Any]:
    """The values that all processes give, by rank."""
    content = _bytes(value)
    count = dist.get_world_size()
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(count)]
    dist.all_gather(sizes, torch.tensor([len(content)]))
    longest = int(max(sizes))
    padded = torch.cat([content, content.new_zeros(longest - len(content))])
    parts = [content.new_empty(longest) for _ in range(count)]
    dist.all_gather(parts, padded)
    return [_value(part[: int(size)]) for part, size in zip(parts, sizes, strict=True)]


def described(error: Exception, where: str) -> list[Any]:
    """An error as plain values, with its traceback as text.

    Args:
        error: The error.
        where: Which process raised it, in words such as "On rank 1".
    """
    kind = type(error)
    args = error.args if all(isinstance(a, PLAIN) for a in error.args) else (str(error),)
    note = f"{where}: {''.join(traceback.format_exception(error))}"
    return [kind.__module__, kind.__qualname__, list(args), note]


def error_of(description: list[Any]) -> Exception:
    """The error that was described, with its traceback as a note.

    It is a RuntimeError with the same words where this process has not imported its class, or
    cannot make one from the words.
    """
    module, name, args, note = description
    kind = getattr(sys.modules.get(module), name, None)
    error: Exception = RuntimeError(f"{name}: {' '.join(map(str, args))}")
    if isinstance(kind, type) and issubclass(kind, Exception):
        with contextlib.suppress(Exception):  # its constructor may take something else
            error = kind(*args)
    error.add_note(note)
    return error


def _bytes(value: Any) -> Tensor:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _value(content: Tensor) -> Any:
    return torch.load(io.BytesIO(content.numpy().tobytes()), weights_only=True)
