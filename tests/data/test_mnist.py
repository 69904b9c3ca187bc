"""MNIST and Fashion-MNIST, on small stand-ins and on the real files where these are at hand."""

import hashlib
from functools import partial
from pathlib import Path

import pytest
import torch
from configs import SHARED_DATA as REAL
from data_files import NOWHERE, extremes, message, packed, write_mnist
from problems import seeded

from bilevel_cli.data.mnist import FashionMnist, Mnist

pytestmark = pytest.mark.usefixtures("data_cache")

needs_mnist = pytest.mark.skipif(
    not (REAL / "MNIST" / "raw").is_dir(), reason="needs shared/data/MNIST/raw beside the checkout"
)


def mnist(
    root: Path | None,
    *,
    cls: type[Mnist] = Mnist,
    download: bool = False,
    url: str = NOWHERE,
    train: int = 8,
    validation: int = 6,
    test: int = 5,
    standardize: bool = False,
) -> Mnist:
    folder = None if root is None else str(root)
    return cls(folder, download, url, train, validation, test, standardize)


def test_mnist_reads_pixels_from_0_to_1_with_labels_and_numbers(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    train, test = mnist(tmp_path).read()
    assert test is not None
    assert train.x.shape == (20, 1, 28, 28)
    assert train.x.dtype == torch.get_default_dtype()
    torch.testing.assert_close(test.x[:, 0, 5, 7], (100.0 + torch.arange(10)) / 255)
    assert train.y.dtype == train.index.dtype == torch.int64
    assert torch.equal(train.y, torch.arange(20) % 10)
    assert torch.equal(train.index, torch.arange(20))


def test_mnist_draws_disjoint_parts_and_tests_on_the_official_test_set(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    train, validation, test = mnist(tmp_path).splits(seeded(0))
    assert [len(part.y) for part in (train, validation, test)] == [8, 6, 5]
    assert len({*train.index.tolist(), *validation.index.tolist()}) == 14
    for part, first in ((train, 0), (validation, 0), (test, 100)):
        torch.testing.assert_close(part.x[:, 0, 0, 0] * 255, 1.0 * first + part.index)
        assert torch.equal(part.y, part.index % 10)


def test_standardized_images_have_the_statistics_of_the_training_part_pixel_by_pixel(
    tmp_path: Path,
) -> None:
    write_mnist(tmp_path)
    images = torch.randint(256, (20, 28, 28), generator=seeded(1))
    images[:, 3, 4] = 7  # the same in every image
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(packed(images))
    raw = mnist(tmp_path).splits(seeded(0))
    parts = mnist(tmp_path, standardize=True).splits(seeded(0))
    means, stds = parts.train.x.mean(0), parts.train.x.std(0, correction=0)
    ones = torch.ones(1, 28, 28)
    ones[0, 3, 4] = 0
    # Eight numbers of order one: exact to some roundings of float64.
    torch.testing.assert_close(means, torch.zeros(1, 28, 28), atol=1e-14, rtol=0)
    torch.testing.assert_close(stds, ones, atol=1e-14, rtol=0)
    assert torch.equal(parts.train.y, raw.train.y)
    scale = raw.train.x.std(0, correction=0)
    scale[0, 3, 4] = 1  # what does not vary is divided by one
    for part, before in zip(parts, raw, strict=True):
        torch.testing.assert_close(part.x, (before.x - raw.train.x.mean(0)) / scale)


def test_fashion_mnist_never_reads_the_files_of_mnist_below_a_common_root(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw")
    assert len(mnist(tmp_path).read()[0].y) == 20
    text = message(mnist(tmp_path, cls=FashionMnist).read)
    assert text.startswith("FashionMnist needs the file train-images-idx3-ubyte.gz")


def test_mnist_refuses_labels_that_are_not_as_many_as_images(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(packed(torch.zeros(19)))
    text = message(mnist(tmp_path).read)
    assert "Mnist needs as many labels as images, got 19 in" in text
    assert "20 in" in text


def test_mnist_refuses_labels_beyond_its_classes(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(packed(torch.full((10,), 10)))
    assert "Mnist needs labels from 0 to 9, got 10 in" in message(mnist(tmp_path).read)


def test_mnist_refuses_more_examples_than_there_are(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    for data, text in (
        (mnist(tmp_path, train=15), "train + validation <= 20"),
        (mnist(tmp_path, test=11), "test <= 10"),
    ):
        assert text in message(partial(data.splits, seeded(0)))


def test_mnist_downloads_its_four_files_and_then_reads_them_offline(
    tmp_path: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    write_mnist(folder)
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert set(md5) == set(Mnist.md5) == set(FashionMnist.md5)
    monkeypatch.setattr(Mnist, "md5", md5)
    online = mnist(tmp_path / "root", url=url, download=True).splits(seeded(0))
    offline = mnist(tmp_path / "root").splits(seeded(0))
    assert torch.equal(online.train.x, offline.train.x)


@needs_mnist
def test_the_real_mnist_has_the_published_number_of_each_digit() -> None:
    train, test = mnist(REAL).read()
    assert test is not None
    assert train.x.shape == (60000, 1, 28, 28)
    assert test.x.shape == (10000, 1, 28, 28)
    assert extremes(train.x) == (0, 1)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert train.y.bincount().tolist() == counts
    assert test.y.bincount()[:2].tolist() == [980, 1135]
    # The mean pixel of the training set, 0.1307, is in every MNIST tutorial.
    assert abs(train.x.mean().item() - 0.1307) < 5e-5


@needs_mnist
@pytest.mark.parametrize("cls", [Mnist, FashionMnist])
def test_the_checksums_are_those_of_the_official_files(cls: type[Mnist]) -> None:
    for name, md5 in cls.md5.items():
        content = (REAL / cls.folders[0] / name).read_bytes()
        assert hashlib.md5(content).hexdigest() == md5
