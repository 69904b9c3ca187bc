"""Files of data sets, small, broken and hostile; and what tests of data sets say of them.

`built` is a data set of its option, `message` what it says of a file that it refuses, and `bounded`
the memory in which it does.
"""

import bz2
import gzip
import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import settings_of
from PIL import Image
from problems import seeded
from torch import Tensor

from bilevel_cli.data.table import OwnTable, Table

NOWHERE = "http://127.0.0.1:9/"  # where no server answers


def message(call: Callable[[], object]) -> str:
    """The one line that the call fails with."""
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        call()
    return str(caught.value)


def bounded(call: Callable[[], object], megabytes: int = 10) -> Callable[[], None]:
    """`call`, in so much memory at most: by default a tenth of what bombs in tests unpack to."""

    def run() -> None:
        tracemalloc.start()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        try:
            call()
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak - before < megabytes * 10**6

    return run


def extremes(x: Tensor) -> tuple[float, float]:
    return x.min().item(), x.max().item()


def built(cls: Callable[..., Any], option: str, **settings: Any) -> Any:
    """A data set with the settings of its option under conf/, but for those given."""
    given: dict[Any, Any] = {**settings_of("data", option), **settings}
    return cls(**{str(key): value for key, value in given.items() if key != "_target_"})


def own(path: Path, cls: type[OwnTable] = Table, **settings: Any) -> Any:
    """A small table whose column `churn` is to be predicted."""
    chosen = {"path": str(path), "target": "churn", "max_megabytes": 1.0} | settings
    return built(cls, "table", **chosen)


def everything(data: Any) -> Tensor:
    """All rows of all parts, in their order in the file."""
    parts = data.splits(seeded(0))
    order = torch.cat([part.index for part in parts]).argsort()
    return torch.cat([part.x for part in parts])[order]


def packed(array: Tensor) -> bytes:
    """`array` in the IDX format."""
    header = bytes([0, 0, 8, array.dim()]) + struct.pack(f">{array.dim()}I", *array.shape)
    return header + array.to(torch.uint8).numpy().tobytes()


PARTS = {"train": 20, "t10k": 10}


def write_mnist(folder: Path) -> None:
    """Example i is of one grey, i for training and 100 + i for test; its label is i mod 10."""
    folder.mkdir(parents=True, exist_ok=True)
    for first, (part, count) in zip((0, 100), PARTS.items(), strict=True):
        images = (first + torch.arange(count))[:, None, None].expand(count, 28, 28)
        for kind, array in (("images-idx3", images), ("labels-idx1", torch.arange(count) % 10)):
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(packed(array)))


ROWS = {"tr": 12, "val": 5, "t": 9}


def svmlight(first: int, count: int) -> bytes:
    """Row i is of class 1 every third time; its first feature is i, its last i / 2."""
    signs = (("+1" if row % 3 == 0 else "-1", row) for row in range(first, first + count))
    return "".join(f"{sign} 1:{row} 22:{row / 2}\n" for sign, row in signs).encode()


def write_ijcnn1(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for first, (part, count) in zip((0, 12, 100), ROWS.items(), strict=True):
        (folder / f"ijcnn1.{part}.bz2").write_bytes(bz2.compress(svmlight(first, count)))


CHARACTERS = {
    "images_background": ["Greek/character01", "Greek/character02", "Tifinagh/character01"],
    "images_evaluation": ["Angelic/character01", "ULOG/character01"],
}


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


SMALL_PNG = png(Image.new("RGB", (8, 8)))


def drawing(character: int, drawer: int) -> bytes:
    """White paper with a block of ink: its height tells the character, its width the drawer."""
    paper = np.full((105, 105), 255, dtype=np.uint8)
    paper[: 15 * (character + 1), : 5 * drawer] = 0
    return png(Image.fromarray(paper).convert("1"))


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def members(stem: str) -> dict[str, bytes]:
    names = sorted(name for names in CHARACTERS.values() for name in names)
    return {
        f"{stem}/{name}/{names.index(name):04}_{drawer:02}.png": drawing(names.index(name), drawer)
        for name in CHARACTERS[stem]
        for drawer in range(1, 21)
    }


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)
