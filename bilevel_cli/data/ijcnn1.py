"""The ijcnn1 table of LIBSVM, from its svmlight files."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch

from bilevel_cli.data.base import Labelled, Splits, TwoClasses
from bilevel_cli.data.reading import files
from bilevel_cli.data.reading.idx import AGAIN

FEATURES = 22
MAX_MEGABYTES = 40.0  # of a file, unpacked; the largest official one has 15.0
MAX_ROWS = 10**6


class Ijcnn1(TwoClasses):
    """141,691 rows of 22 features, one in ten of class 1 (Prokhorov, 2001).

    Training examples are drawn from the 49,990 of the files `tr` and `val`. Validation and test
    examples are drawn from the 91,701 of `t`, and are disjoint. With nulls and test=0 the parts are
    those of the bilevel benchmark (Dagreou et al., 2022, arXiv:2201.13409). Features are as in the
    files.

    Args:
        root: Folder that holds the files or `libsvm`; null for the cache.
        download: Whether to download absent files.
        url: Folder on the server.
        train: Number of training examples; null for all.
        validation: Number of validation examples; null for all but those for test.
        test: Number of test examples, possibly 0.
    """

    benchmark = True
    folders: ClassVar[tuple[str, ...]] = ("libsvm",)
    md5: ClassVar[Mapping[str, str]] = {
        "ijcnn1.tr.bz2": "9889c2e9d957dca5304ed2d285f1be6d",
        "ijcnn1.val.bz2": "9940e6f83e00623a5ca993f189ab18d9",
        "ijcnn1.t.bz2": "66433ab8089acee9e56dc61ac89a2fe2",
    }

    def __init__(
        self,
        root: str | None,
        download: bool,
        url: str,
        train: int | None,
        validation: int | None,
        test: int,
    ) -> None:
        for name, size in (("train", train), ("validation", validation)):
            if size is not None and size < 1:
                raise ValueError(
                    f"Ijcnn1 needs {name} >= 1 examples or null, got {name}={size}. "
                    f"Set data.{name}."
                )
        if test < 0:
            raise ValueError(f"Ijcnn1 needs test >= 0 examples, got test={test}. Set data.test.")
        self.root, self.download, self.url = root, download, url
        self.sizes = train, validation, test

    def read(self) -> tuple[Labelled, Labelled]:
        first, second = self._part("tr"), self._part("val")
        pool = Labelled(
            torch.cat([first.x, second.x]),
            torch.cat([first.y, second.y]),
            torch.arange(len(first.y) + len(second.y)),
        )
        return pool, self._part("t")

    def splits(self, generator: torch.Generator) -> Splits:
        pool, official = self.read()
        train, validation, test = self.sizes
        train = len(pool.y) if train is None else train
        # One at least, so that a test part that takes all of them is refused below.
        validation = max(1, len(official.y) - test) if validation is None else validation
        self._require(train, len(pool.y), "train")
        self._require(validation + test, len(official.y), "validation + test")
        order = torch.randperm(len(pool.y), generator=generator)[:train]
        others = torch.randperm(len(official.y), generator=generator)[: validation + test]
        return Splits(
            pool.take(order), official.take(others[:validation]), official.take(others[validation:])
        )

    def _part(self, part: str) -> Labelled:
        name = f"ijcnn1.{part}.bz2"
        path = files.find(
            name,
            who="Ijcnn1",
            root=self.root,
            folders=self.folders,
            url=self.url,
            md5=self.md5[name],
            max_megabytes=MAX_MEGABYTES,
            download=self.download,
        )
        x, signs = _read(path)
        return Labelled(x, (signs > 0).long(), torch.arange(len(signs)))


def _read(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_svmlight_file  # here: it takes a second to import

    try:
        content = files.content(path, "Ijcnn1", MAX_MEGABYTES, "It is another file.")
        if content.count(b"\n") > MAX_ROWS:
            raise ValueError(f"it has more than {MAX_ROWS} rows")
        table, signs = load_svmlight_file(io.BytesIO(content), n_features=FEATURES)
    except (OSError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read: {reason}. {AGAIN}") from error
    signs = torch.from_numpy(signs)
    if not len(signs) or bool((signs.abs() != 1).any()):
        raise ValueError(f"{path} should hold rows with labels -1 and +1, got others. {AGAIN}")
    return torch.from_numpy(table.toarray()).to(torch.get_default_dtype()), signs
