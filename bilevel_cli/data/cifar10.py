"""CIFAR-10, from its official binary files."""

import io
import itertools
import tarfile
from pathlib import Path

import torch
from torch import Tensor

from bilevel_cli.data.base import Labelled, Pixels
from bilevel_cli.data.reading import files

FOLDER = "cifar-10-batches-bin"
TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
RECORD = 1 + 3 * 32 * 32  # the label, then the red, the green and the blue pixels, row by row
REPLACE = "Replace the file."
MAX_MEGABYTES = 40.0  # of a file; the official ones have 30.7
MAX_MEMBERS = 1000  # of the archive; the official one has 9


class Cifar10(Pixels):
    """Photographs of ten kinds, 50,000 to split and 10,000 for test (Krizhevsky, 2009).

    `x` has shape [n, 3, 32, 32]. Files: https://www.cs.toronto.edu/~kriz/cifar.html, the binary
    version, packed or unpacked. The version for Python is a pickle, which is not read.

    Args:
        root: Folder that holds `cifar-10-batches-bin` or `cifar-10-binary.tar.gz`, or is the
            former; null for the cache.
        download: Whether to download absent files.
        url: Folder on the server.
        train: Number of training examples, of the 50,000, or null.
        validation: Number of validation examples, of the 50,000, or null.
        test: Number of test examples, of the 10,000, or null for all.
        standardize: As `Pixels`.
    """

    benchmark = True
    num_classes = 10
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    md5 = "c32a1d4ab5d03f1284b67883e8d87530"

    def __init__(
        self,
        root: str | None,
        download: bool,
        url: str,
        train: int | None,
        validation: int | None,
        test: int | None,
        standardize: bool,
    ) -> None:
        super().__init__(train, validation, test, standardize)
        self.root, self.download, self.url = root, download, url

    @property
    def class_names(self) -> list[str]:
        return self.names.split()

    def pixels(self) -> tuple[Labelled, Labelled]:
        content = self._content()
        return self._parsed(content, TRAIN), self._parsed(content, ("test_batch.bin",))

    def _parsed(self, content: dict[str, bytes], names: tuple[str, ...]) -> Labelled:
        for name in names:
            if not content[name] or len(content[name]) % RECORD:
                raise ValueError(
                    f"Cifar10 needs records of {RECORD} bytes in {name}, got "
                    f"{len(content[name])} bytes. Replace the file."
                )
        records = _records(b"".join(content[name] for name in names))
        labels = records[:, 0].long()
        if labels.max() > 9:
            raise ValueError(
                f"Cifar10 needs labels from 0 to 9, got {int(labels.max())} in record "
                f"{int(labels.argmax())} of {', '.join(names)}. Replace the file."
            )
        return Labelled(records[:, 1:].reshape(-1, 3, 32, 32), labels, torch.arange(len(labels)))

    def _content(self) -> dict[str, bytes]:
        base = files.cache_folder() if self.root is None else Path(self.root).expanduser()
        for folder in (base / FOLDER, base):
            if (folder / TRAIN[0]).exists():
                paths = [folder / name for name in (*TRAIN, "test_batch.bin")]
                return {
                    path.name: files.content(
                        files.inside(path, base, "Cifar10"), "Cifar10", MAX_MEGABYTES, REPLACE
                    )
                    for path in paths
                }
        return self._unpacked(self._archive(base))

    def _archive(self, base: Path) -> Path:
        try:
            return files.find(
                "cifar-10-binary.tar.gz",
                who="Cifar10",
                root=self.root,
                folders=(FOLDER,),
                url=self.url,
                md5=self.md5,
                max_megabytes=7 * MAX_MEGABYTES,
                download=self.download,
            )
        except ValueError as error:
            pickles = ("cifar-10-batches-py", "cifar-10-python.tar.gz", "data_batch_1")
            found = [base / name for name in pickles if (base / name).exists()]
            if not found or self.download:
                raise
            raise ValueError(
                f"Cifar10 needs the binary version, got {found[0]}, the version for Python, whose "
                "pickles could run any code. Fetch cifar-10-binary.tar.gz, or set "
                "data.download=true."
            ) from error

    def _unpacked(self, path: Path) -> dict[str, bytes]:
        """The members of the archive, in memory: none is written to disk."""
        wanted = {f"{FOLDER}/{name}": name for name in (*TRAIN, "test_batch.bin")}
        content = {}
        try:
            packed = io.BytesIO(files.content(path, "Cifar10", 7 * MAX_MEGABYTES, REPLACE))
            with tarfile.open(fileobj=packed, mode="r:") as archive:
                for member in itertools.islice(archive, MAX_MEMBERS):
                    # Neither links nor holes: a sparse member unpacks to any size.
                    plain = member.isreg() and not member.issparse()
                    if plain and member.name in wanted:
                        stream = archive.extractfile(member)
                        assert stream is not None
                        content[wanted[member.name]] = stream.read()
        except (tarfile.TarError, EOFError) as error:
            raise ValueError(f"Cifar10 cannot read {path}: {error}. Replace the file.") from error
        absent = sorted(set(wanted) - {f"{FOLDER}/{name}" for name in content})
        if absent:
            raise ValueError(f"Cifar10 needs {absent[0]} in {path}, got none. Replace the file.")
        return content


def _records(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, RECORD)
