"""Arrays of numpy's files, read without pickles."""

import io
import math
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from bilevel_cli.data.reading import files
from bilevel_cli.errors import out_of_memory


def read_npz(
    path: str | None, names: tuple[str, ...], who: str, max_megabytes: float
) -> dict[str, NDArray[Any]]:
    """Arrays of an npz file by name, never a pickle.

    Args:
        path: Of the file; null is refused.
        names: Of the arrays.
        who: The class that needs them, for messages.
        max_megabytes: Largest size of the arrays together.

    Raises:
        ValueError: The file or an array is absent, damaged or too large.
    """
    found = files.own(path, who, "data.path")
    again = f"Write {found} anew by numpy.savez."
    files.require_file(found, who)
    try:
        archive = files.open_zip(found)
    except Exception as error:  # zipfile documents no closed list
        raise ValueError(f"{who} needs {found} to be an npz file: {error}. {again}") from error
    with archive:
        sizes = {member.filename: member.file_size for member in archive.infolist()}
        for name in names:
            if f"{name}.npy" not in sizes:
                known = ", ".join(key.removesuffix(".npy") for key in list(sizes)[:20])
                raise ValueError(
                    f"{who} needs an array {name!r} in {found}, got {known or 'none'}. {again}"
                )
        if sum(sizes[f"{name}.npy"] for name in names) > max_megabytes * 1e6:
            raise files.too_large(who, str(found), max_megabytes)
        arrays = {}
        for name in names:
            try:
                with archive.open(f"{name}.npy") as stream:
                    # No more than was promised, which a crafted member may exceed.
                    content = stream.read(sizes[f"{name}.npy"])
                arrays[name] = parse_npy(content)
            except Exception as error:  # nor does it for what a member may hold
                if out_of_memory(error):
                    raise
                reason = " ".join(str(error).split())
                raise ValueError(
                    f"{who} cannot read {name!r} in {found}: {reason}. {again}"
                ) from error
    return arrays


def parse_npy(content: bytes) -> NDArray[Any]:
    """An array from the bytes of an npy file, whose header is checked before memory is taken.

    Raises:
        ValueError: The bytes are not what the header promises, or a pickle.
    """
    stream = io.BytesIO(content)
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format version {version}, only 1.0 and 2.0 are read")
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, columns_first, dtype = header(stream)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which could run any code")
    held, promised = len(content) - stream.tell(), math.prod(shape) * dtype.itemsize
    if held != promised:
        raise ValueError(f"shape {shape} of {dtype} promises {promised} bytes, there are {held}")
    flat = np.frombuffer(content, dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if columns_first else "C")
