"""Reads IDX files, the format of MNIST (http://yann.lecun.com/exdb/mnist/)."""

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

MAX_BYTES = 2**30  # twenty times MNIST: a larger promise is a damaged header
AGAIN = "Replace the file, for example by deleting it and setting data.download=true."


def read(path: Path, item: tuple[int, ...]) -> Tensor:
    """The unsigned bytes of a file, gzipped or plain, of shape [n, *item], uint8.

    Never takes more memory than the header promises, and that is at most `MAX_BYTES`.

    Args:
        path: Of the file.
        item: Shape of one example; () for labels.

    Raises:
        ValueError: The file is not what the header promises, or not of this shape.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream: io.BufferedIOBase = gzip.GzipFile(fileobj=raw) if packed else raw
            return _parse(stream, path, item)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}. {AGAIN}") from error


def _parse(stream: io.BufferedIOBase, path: Path, item: tuple[int, ...]) -> Tensor:
    dimensions = 1 + len(item)
    magic = bytes([0, 0, 8, dimensions])  # 8: unsigned bytes
    header = stream.read(4 + 4 * dimensions)
    if header[:4] != magic:
        raise ValueError(
            f"{path} should begin with the IDX magic number {magic.hex()}, "
            f"got {header[:4].hex() or 'nothing'}. {AGAIN}"
        )
    if len(header) < 4 + 4 * dimensions:
        raise ValueError(f"{path} ends within its IDX header. {AGAIN}")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    if shape[1:] != item or not 1 <= math.prod(shape) <= MAX_BYTES:
        raise ValueError(
            f"{path} should hold examples of shape {list(item)}, at most {MAX_BYTES} bytes in all, "
            f"got a header that promises shape {list(shape)}. {AGAIN}"
        )
    size = math.prod(shape)
    body = stream.read(size + 1)  # one more, to see trailing bytes; a gzip bomb is not unpacked
    if len(body) != size:
        held = "more" if len(body) > size else f"only {len(body)}"
        raise ValueError(f"{path} should hold {size} bytes after its header, got {held}. {AGAIN}")
    return torch.frombuffer(bytearray(body), dtype=torch.uint8).reshape(shape)
