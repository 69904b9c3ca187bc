"""MNIST and Fashion-MNIST, from their official files."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch

from bilevel_cli.data.base import Examples, Labelled, Splits, standardized
from bilevel_cli.data.reading import files, idx

MAX_MEGABYTES = 50.0  # of a file: 60,000 images of 784 bytes are 47 MB before they are packed


class Mnist(Examples):
    """Handwritten digits, 60,000 to split and 10,000 for test (LeCun, Cortes, Burges, 1998).

    `x` has shape [n, 1, 28, 28]. Files: http://yann.lecun.com/exdb/mnist/.

    Args:
        root: Folder that holds the files or `MNIST/raw`, as torchvision lays them out; null for the
            cache.
        download: Whether to download absent files.
        url: Folder on the server.
        train: Number of training examples, of the 60,000.
        validation: Number of validation examples, of the 60,000.
        test: Number of test examples, of the 10,000.
        standardize: Whether every pixel gets mean 0 and variance 1 over the training examples. One
            that is constant there is only shifted.
    """

    benchmark = True
    num_classes = 10
    folders: ClassVar[tuple[str, ...]] = ("MNIST/raw", "MNIST")
    md5: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    }

    def __init__(
        self,
        root: str | None,
        download: bool,
        url: str,
        train: int,
        validation: int,
        test: int,
        standardize: bool,
    ) -> None:
        super().__init__(train, validation, test)
        self.root, self.download, self.url = root, download, url
        self.standardize = standardize

    def read(self) -> tuple[Labelled, Labelled | None]:
        return self._part("train"), self._part("t10k")

    def splits(self, generator: torch.Generator) -> Splits:
        parts = super().splits(generator)
        return standardized(parts) if self.standardize else parts

    def _part(self, part: str) -> Labelled:
        images_path = self._find(f"{part}-images-idx3-ubyte.gz")
        labels_path = self._find(f"{part}-labels-idx1-ubyte.gz")
        images, labels = idx.read(images_path, (28, 28)), idx.read(labels_path, ())
        if len(images) != len(labels):
            raise ValueError(
                f"{type(self).__name__} needs as many labels as images, got {len(labels)} in "
                f"{labels_path} and {len(images)} in {images_path}. {idx.AGAIN}"
            )
        if labels.max() >= self.num_classes:
            raise ValueError(
                f"{type(self).__name__} needs labels from 0 to {self.num_classes - 1}, "
                f"got {int(labels.max())} in {labels_path}. {idx.AGAIN}"
            )
        x = images.unsqueeze(1).to(torch.get_default_dtype()).div_(255)
        return Labelled(x, labels.long(), torch.arange(len(labels)))

    def _find(self, name: str) -> Path:
        return files.find(
            name,
            who=type(self).__name__,
            root=self.root,
            folders=self.folders,
            url=self.url,
            md5=self.md5[name],
            max_megabytes=MAX_MEGABYTES,
            download=self.download,
        )


class FashionMnist(Mnist):
    """Articles of clothing in MNIST's format (Xiao, Rasul, Vollgraf, 2017, arXiv:1708.07747).

    Args: as `Mnist`, with `FashionMNIST/raw` for `MNIST/raw`.
    """

    folders = ("FashionMNIST/raw", "FashionMNIST")
    md5: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    }
