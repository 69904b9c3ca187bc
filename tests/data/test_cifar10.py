"""CIFAR-10 in its binary version: read, downloaded, unpacked, or refused."""

import gzip
import hashlib
import io
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import pytest
import standins
import torch
from configs import SHARED_DATA as REAL
from data_files import Trap, built, message
from problems import seeded

from bilevel_cli.data.cifar10 import FOLDER, RECORD, TRAIN, Cifar10

pytestmark = pytest.mark.usefixtures("data_cache")
UNPACK = REAL / "unpack_cifar10.py"


def cifar10(root: Path | None, **settings: Any) -> Cifar10:
    sizes = {"train": 20, "validation": 20, "test": None}
    return built(Cifar10, "cifar10", root=root and str(root), **{**sizes, **settings})


def packed(folder: Path) -> bytes:
    """The official archive of the stand-in."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(folder / FOLDER, FOLDER)
    return buffer.getvalue()


def test_cifar10_reads_labels_then_red_green_and_blue_rows(tmp_path: Path) -> None:
    standins.cifar10(tmp_path)
    train, test = cifar10(tmp_path).read()
    assert test is not None
    raw = [np.fromfile(tmp_path / FOLDER / name, np.uint8).reshape(10, 3073) for name in TRAIN]
    records = torch.from_numpy(np.concatenate(raw))
    assert train.x.shape == (50, 3, 32, 32)
    assert torch.equal(train.y, records[:, 0].long())
    assert torch.equal(train.index, torch.arange(50))
    # Row 3, column 5 of the green plane: one byte for the label, 1024 for red, 3 * 32 + 5.
    torch.testing.assert_close(train.x[:, 1, 3, 5] * 255, records[:, 1 + 1024 + 101].double())
    assert test.x.shape == (20, 3, 32, 32)
    assert cifar10(tmp_path).class_names[9] == "truck"
    parts = cifar10(tmp_path, standardize=True).splits(seeded(0))
    assert [len(part.y) for part in parts] == [20, 20, 20]
    # 20,480 pixels a channel: n u = 2e-12, in whatever order they are added.
    means = parts.train.x.mean((0, 2, 3))
    torch.testing.assert_close(means, torch.zeros(3), atol=1e-11, rtol=0)
    torch.testing.assert_close(parts.train.x.std((0, 2, 3), correction=0), torch.ones(3))
    raw_test = test.take(parts.test.index)
    ratio = (raw_test.x[0, 0, 0, 0] - raw_test.x[0, 0, 0, 1]) / train.x[parts.train.index].std(
        (0, 2, 3), correction=0
    )[0]
    torch.testing.assert_close(parts.test.x[0, 0, 0, 0] - parts.test.x[0, 0, 0, 1], ratio)


def test_cifar10_is_found_in_root_below_it_in_the_cache_and_packed(
    tmp_path: Path, data_cache: Path
) -> None:
    standins.cifar10(tmp_path)
    expected = cifar10(tmp_path).read()[0].x
    assert torch.equal(cifar10(tmp_path / FOLDER).read()[0].x, expected)
    standins.cifar10(data_cache)
    assert torch.equal(cifar10(None).read()[0].x, expected)
    archive = tmp_path / "packed" / "cifar-10-binary.tar.gz"
    archive.parent.mkdir()
    archive.write_bytes(packed(tmp_path))
    assert torch.equal(cifar10(archive.parent).read()[0].x, expected)
    assert [path.name for path in archive.parent.iterdir()] == [archive.name]  # not unpacked


def test_cifar10_is_downloaded_with_its_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standins.cifar10(tmp_path)
    content = packed(tmp_path)
    monkeypatch.setattr(Cifar10, "md5", hashlib.md5(content).hexdigest())

    def retrieve(url: str, known_hash: str, fname: str, path: Path, downloader: Any) -> str:
        assert url == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
        assert known_hash == f"md5:{Cifar10.md5}"
        path.mkdir(parents=True)
        (path / fname).write_bytes(content)
        return str(path / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert len(cifar10(None, download=True).read()[0].y) == 50
    assert len(cifar10(None).read()[0].y) == 50  # from the cache


def test_the_pickles_of_cifar10_are_refused_and_the_binary_version_named(tmp_path: Path) -> None:
    home = tmp_path / "cifar-10-batches-py"
    home.mkdir()
    (home / "data_batch_1").write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    for root in (tmp_path, home):
        text = message(cifar10(root).read)
        assert "needs the binary version, got" in text
        assert "cifar-10-binary.tar.gz" in text
    assert not (tmp_path / "ran").exists()
    assert "found in none of" in message(cifar10(tmp_path / "absent").read)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", f"records of {RECORD} bytes in data_batch_3.bin, got 0 bytes"),
        (bytes(RECORD - 1), "got 3072 bytes"),
        (bytes(RECORD + 1), "got 3074 bytes"),
        (b"\x0a" + bytes(RECORD - 1), "labels from 0 to 9, got 10 in record 20"),
        (bytes(41 * 10**6), "reads at most 40 MB"),
        (gzip.compress(bytes(41 * 10**6), mtime=0), "reads at most 40 MB"),
        (None, "cannot read"),
    ],
    ids=["empty", "short", "trailing", "label", "long", "bomb", "absent"],
)
def test_a_damaged_batch_of_cifar10_is_named(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    standins.cifar10(tmp_path)
    path = tmp_path / FOLDER / "data_batch_3.bin"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    text = message(cifar10(tmp_path).read)
    assert reason in text or (content is None and "to be a file" in text)
    assert "data_batch_3.bin" in text


def test_a_damaged_archive_of_cifar10_is_named(tmp_path: Path) -> None:
    standins.cifar10(tmp_path)
    whole = packed(tmp_path)
    (tmp_path / FOLDER / "test_batch.bin").unlink()
    incomplete = packed(tmp_path)
    path = tmp_path / "packed" / "cifar-10-binary.tar.gz"
    path.parent.mkdir()
    for content, reason in (
        (whole[:-20], "cannot read"),
        (b"", "cannot read"),
        (gzip.compress(b"no archive", mtime=0), "cannot read"),
        (incomplete, "needs cifar-10-batches-bin/test_batch.bin in"),
    ):
        path.write_bytes(content)
        text = message(cifar10(path.parent).read)
        assert reason in text
        assert str(path) in text


@pytest.mark.slow
@pytest.mark.skipif(not UNPACK.exists(), reason="needs shared/data beside the checkout")
def test_the_real_cifar10_has_ten_classes_of_equal_size(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(UNPACK), str(tmp_path)], check=True, capture_output=True)
    train, test = cifar10(tmp_path).read()
    assert test is not None
    assert train.y.bincount().tolist() == [5000] * 10
    assert test.y.bincount().tolist() == [1000] * 10
    # The means that every tutorial divides by the channels: 0.4914, 0.4822, 0.4465.
    means = torch.tensor([0.4914, 0.4822, 0.4465])
    torch.testing.assert_close(train.x.mean((0, 2, 3)), means.to(train.x), atol=5e-5, rtol=0)
