"""The table ijcnn1, on small stand-ins and on the real files where these are at hand."""

import bz2
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from configs import SHARED_DATA as REAL
from data_files import NOWHERE, message, svmlight, write_ijcnn1
from problems import seeded

from bilevel_cli.data.ijcnn1 import Ijcnn1
from bilevel_cli.data.reading import idx

pytestmark = pytest.mark.usefixtures("data_cache")


needs_ijcnn1 = pytest.mark.skipif(
    not (REAL / "libsvm").is_dir(), reason="needs shared/data/libsvm beside the checkout"
)


def ijcnn1(
    root: Path | None,
    *,
    url: str = NOWHERE,
    train: int | None = None,
    validation: int | None = None,
    test: int = 0,
) -> Ijcnn1:
    folder = None if root is None else str(root)
    return Ijcnn1(folder, url != NOWHERE, url, train, validation, test)


@pytest.mark.parametrize("folder", ["libsvm", "."])
def test_ijcnn1_trains_on_two_files_and_validates_on_the_third(tmp_path: Path, folder: str) -> None:
    write_ijcnn1(tmp_path / folder)
    pool, official = ijcnn1(tmp_path).read()
    assert pool.x.shape == (17, 22)
    assert official.x.shape == (9, 22)
    assert pool.x.dtype == torch.get_default_dtype()
    for part, first in ((pool, 0), (official, 100)):
        numbers = first + torch.arange(len(part.y))
        assert torch.equal(part.x[:, 0].long(), numbers)
        assert torch.equal(part.x[:, 21] * 2, part.x[:, 0])
        assert not part.x[:, 1:21].any()
        assert torch.equal(part.y, (numbers % 3 == 0).long())
    parts = ijcnn1(tmp_path).splits(seeded(0))
    assert [len(part.y) for part in parts] == [17, 9, 0]
    # In random order, as minibatches of neighbours need it.
    assert parts.train.index.tolist() != list(range(17))
    assert sorted(parts.train.index.tolist()) == list(range(17))


def test_ijcnn1_takes_validation_and_test_examples_apart(tmp_path: Path) -> None:
    write_ijcnn1(tmp_path)
    parts = ijcnn1(tmp_path, train=10, test=4).splits(seeded(0))
    assert [len(part.y) for part in parts] == [10, 5, 4]
    assert sorted(torch.cat([part.index for part in parts[1:]]).tolist()) == list(range(9))
    parts = ijcnn1(tmp_path, validation=3, test=2).splits(seeded(0))
    assert [len(part.y) for part in parts] == [17, 3, 2]
    again = ijcnn1(tmp_path, validation=3, test=2).splits(seeded(0))
    assert all(torch.equal(a.x, b.x) for a, b in zip(parts, again, strict=True))


def test_ijcnn1_finds_unpacked_files_too(tmp_path: Path) -> None:
    write_ijcnn1(tmp_path)
    for path in list(tmp_path.glob("*.bz2")):
        path.with_suffix("").write_bytes(bz2.decompress(path.read_bytes()))
        path.unlink()
    assert len(ijcnn1(tmp_path).read()[0].y) == 17


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"train": 0}, "Ijcnn1 needs train >= 1 examples or null, got train=0. Set data.train."),
        ({"validation": -1}, "Ijcnn1 needs validation >= 1 examples or null"),
        ({"test": -1}, "Ijcnn1 needs test >= 0 examples, got test=-1"),
        ({"train": 18}, "Ijcnn1 needs train <= 17 examples, got 18"),
        ({"validation": 6, "test": 4}, "Ijcnn1 needs validation + test <= 9 examples, got 10"),
        ({"test": 9}, "Ijcnn1 needs validation + test <= 9 examples, got 10"),
    ],
    ids=str,
)
def test_ijcnn1_refuses_sizes_that_its_files_do_not_have(
    tmp_path: Path, sizes: dict[str, Any], text: str
) -> None:
    write_ijcnn1(tmp_path)
    assert text in message(lambda: ijcnn1(tmp_path, **sizes).splits(seeded(0)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not packed", "could not convert string to float"),
        (bz2.compress(svmlight(0, 3))[:-5], "ended before the end-of-stream"),
        (bz2.compress(b"+1 23:1.0\n"), "23 features"),
        (bz2.compress(b"+1 one\n"), "cannot be read"),
        (bz2.compress(b"2 1:1.0\n"), "labels -1 and +1"),
        (bz2.compress(b""), "cannot be read|labels -1 and +1"),
    ],
)
def test_a_damaged_svmlight_file_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    write_ijcnn1(tmp_path)
    path = tmp_path / "ijcnn1.val.bz2"
    path.write_bytes(content)
    text = message(ijcnn1(tmp_path).read)
    assert text.startswith(str(path))
    assert any(part in text for part in reason.split("|")), text
    assert text.endswith(idx.AGAIN)


def test_ijcnn1_downloads_its_three_files(
    server: tuple[str, Path], data_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    write_ijcnn1(folder)
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert set(md5) == set(Ijcnn1.md5)
    monkeypatch.setattr(Ijcnn1, "md5", md5)
    assert len(ijcnn1(None, url=url).read()[0].y) == 17
    assert sorted(os.listdir(data_cache / "libsvm")) == sorted(md5)


@needs_ijcnn1
def test_the_real_ijcnn1_has_the_published_sizes() -> None:
    for name, md5 in Ijcnn1.md5.items():
        assert hashlib.md5((REAL / "libsvm" / name).read_bytes()).hexdigest() == md5
    pool, official = ijcnn1(REAL).read()
    # LIBSVM's page: 35,000 and 14,990 rows for training, 91,701 for test, 22 features.
    assert pool.x.shape == (35_000 + 14_990, 22)
    assert official.x.shape == (91_701, 22)
    # One in ten is of class 1. The first ten features say which of ten samples a row is.
    assert torch.cat([pool.y, official.y]).bincount().tolist() == [128_126, 13_565]
    assert torch.equal(pool.x[:, :10].sum(1), torch.ones(49_990))
