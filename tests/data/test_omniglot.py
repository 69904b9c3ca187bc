"""The data sets, on small stand-ins written here and on the real files where these are at hand."""

import bz2
import gzip
import hashlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import SHARED_DATA as REAL
from configs import options, settings_of
from data_files import (
    CHARACTERS,
    CONF,
    bounded,
    drawing,
    members,
    message,
    packed,
    png,
    seeded,
    svmlight,
    write_ijcnn1,
    write_mnist,
    write_zip,
)
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from bilevel_cli.data import omniglot
from bilevel_cli.data.base import Classes, Examples, Regression, Source, TwoClasses
from bilevel_cli.data.breast_cancer import BreastCancer
from bilevel_cli.data.diabetes import Diabetes
from bilevel_cli.data.digits import Digits
from bilevel_cli.data.ijcnn1 import Ijcnn1
from bilevel_cli.data.mnist import FashionMnist, Mnist
from bilevel_cli.data.omniglot import Omniglot
from bilevel_cli.data.reading import files, idx
from bilevel_cli.data.reading.rotations import rotated_classes

needs_mnist = pytest.mark.skipif(
    not (REAL / "MNIST" / "raw").is_dir(), reason="needs shared/data/MNIST/raw beside the checkout"
)
needs_ijcnn1 = pytest.mark.skipif(
    not (REAL / "libsvm").is_dir(), reason="needs shared/data/libsvm beside the checkout"
)
needs_omniglot = pytest.mark.skipif(
    not (REAL / "omniglot-py").is_dir(), reason="needs shared/data/omniglot-py beside the checkout"
)
NOWHERE = "http://127.0.0.1:9/"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test touches the user's cache or a proxy."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(files, "cache_folder", lambda: folder)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server on this machine, and the folder that it serves."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    folder = tmp_path / "server"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/", folder
        running.shutdown()
        thread.join()


def extremes(x: Tensor) -> tuple[float, float]:
    return x.min().item(), x.max().item()


# ---- configuration


@pytest.mark.parametrize("name", options("data"))
def test_every_option_is_constructed_without_reading_a_file(name: str, cache: Path) -> None:
    assert isinstance(instantiate(settings_of("data", name)), Source | Classes)
    assert not cache.exists()


# ---- files


def find(
    root: Path | None, *, url: str = NOWHERE, md5: str = "0" * 32, download: bool = False
) -> Path:
    return files.find(
        "a.gz",
        who="Mnist",
        root=None if root is None else str(root),
        folders=("MNIST/raw", "MNIST"),
        url=url,
        md5=md5,
        download=download,
    )


@pytest.mark.parametrize("folder", ["MNIST/raw", "MNIST", "."])
@pytest.mark.parametrize("name", ["a.gz", "a"])
def test_a_file_is_found_in_root_and_in_the_known_folders_below_it_packed_or_not(
    tmp_path: Path, folder: str, name: str
) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / name).touch()
    assert find(tmp_path).samefile(tmp_path / folder / name)


def test_the_folder_of_the_data_set_is_preferred_to_root(tmp_path: Path) -> None:
    (tmp_path / "MNIST").mkdir()
    (tmp_path / "a.gz").touch()
    (tmp_path / "MNIST" / "a.gz").touch()
    assert find(tmp_path) == tmp_path / "MNIST" / "a.gz"


def test_the_cache_answers_when_root_is_null_but_not_for_another_data_set(cache: Path) -> None:
    cache.mkdir()
    (cache / "a.gz").touch()
    assert "MNIST/raw" in message(lambda: find(None))
    (cache / "MNIST").mkdir()
    (cache / "MNIST" / "a.gz").touch()
    assert find(None) == cache / "MNIST" / "a.gz"


def test_an_absent_file_is_named_with_the_places_searched_and_the_remedies(tmp_path: Path) -> None:
    places = ", ".join(str(tmp_path / folder) for folder in ("MNIST/raw", "MNIST", ""))
    assert message(lambda: find(tmp_path)) == (
        f"Mnist needs the file a.gz, found in none of {places}. "
        "Set data.root=... to the folder that holds it, or data.download=true."
    )


@pytest.mark.parametrize("root", ["cache", "root"])
def test_a_download_is_checked_kept_below_root_or_in_the_cache_and_silent(
    tmp_path: Path,
    server: tuple[str, Path],
    root: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    url, folder = server
    (folder / "a.gz").write_bytes(b"content")
    md5 = hashlib.md5(b"content").hexdigest()
    given = None if root == "cache" else tmp_path / root
    kept = tmp_path / root / "MNIST" / "raw"
    assert find(given, url=url, md5=md5, download=True) == kept / "a.gz"
    assert os.listdir(kept) == ["a.gz"]
    assert (kept / "a.gz").read_bytes() == b"content"
    assert capfd.readouterr() == ("", "")
    # Found again without the server, and without asking for a download.
    assert find(given) == kept / "a.gz"


def test_a_download_with_a_wrong_checksum_is_refused_and_leaves_nothing(
    server: tuple[str, Path], cache: Path
) -> None:
    url, folder = server
    (folder / "a.gz").write_bytes(b"changed")
    text = message(lambda: find(None, url=url, download=True))
    assert text.startswith(f"Mnist needs a.gz with md5 {'0' * 32}, got another file from {url}a.gz")
    assert os.listdir(cache / "MNIST" / "raw") == []


def test_a_download_that_breaks_off_leaves_nothing(
    server: tuple[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    (folder / "a.gz").write_bytes(b"half")

    def promise_more(self: SimpleHTTPRequestHandler, keyword: str, value: str) -> None:
        header(self, keyword, "1000" if keyword == "Content-Length" else value)

    header = SimpleHTTPRequestHandler.send_header
    monkeypatch.setattr(SimpleHTTPRequestHandler, "send_header", promise_more)
    md5 = hashlib.md5(b"half").hexdigest()
    text = message(lambda: find(None, url=url, md5=md5, download=True))
    assert text.startswith(f"Mnist could not download {url}a.gz")
    assert os.listdir(cache / "MNIST" / "raw") == []


def test_a_file_that_the_server_lacks_is_reported(server: tuple[str, Path]) -> None:
    assert "404" in message(lambda: find(None, url=server[0], download=True))


def test_a_server_that_does_not_answer_is_reported() -> None:
    with socket.socket() as held:  # bound but not listening: connections are refused
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        text = message(lambda: find(None, url=url, download=True))
    assert text.startswith(f"Mnist could not download {url}/a.gz")
    assert "Check the network, data.url and data.root" in text


@pytest.mark.parametrize("url", ["", "no-scheme/", "file:///etc/"])
def test_a_url_that_is_none_is_reported(url: str) -> None:
    assert "could not download" in message(lambda: find(None, url=url, download=True))


def test_a_root_that_cannot_hold_the_download_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    text = message(lambda: find(tmp_path / "file", download=True))
    assert text.startswith("Mnist could not download")


# ---- IDX


IMAGES = torch.arange(3 * 28 * 28).reshape(3, 28, 28) % 256


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_an_idx_file_is_read_plain_or_gzipped(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(compress(packed(IMAGES)))
    assert torch.equal(idx.read(path, (28, 28)), IMAGES.to(torch.uint8))


WHOLE = packed(IMAGES)
HUGE = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 28, 28)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "should begin with the IDX magic number 00000803, got nothing"),
        (b"PK\x03\x04" + WHOLE, "should begin with the IDX magic number 00000803, got 504b0304"),
        (packed(torch.zeros(3)), "should begin with the IDX magic number 00000803, got 00000801"),
        (b"\0\0\x0d\x03" + WHOLE[4:], "got 00000d03"),
        (WHOLE[:10], "ends within its IDX header"),
        (packed(torch.zeros(3, 32, 32)), "promises shape [3, 32, 32]"),
        (packed(torch.zeros(0, 28, 28)), "promises shape [0, 28, 28]"),
        (HUGE, "promises shape [2147483648, 28, 28]"),
        (WHOLE[:-1], "should hold 2352 bytes after its header, got only 2351"),
        (WHOLE + b"\0", "should hold 2352 bytes after its header, got more"),
        (gzip.compress(WHOLE, mtime=0)[:-20], "cannot be read: Compressed file ended"),
        (gzip.compress(WHOLE, mtime=0)[:-8] + bytes(8), "cannot be read: CRC check failed"),
        (b"\x1f\x8b" + bytes(100), "cannot be read: Unknown compression method"),
        (gzip.compress(WHOLE, mtime=0)[:10] + b"\xff" * 50, "cannot be read: Error -3"),
        (gzip.compress(WHOLE + b"\0", mtime=0), "got more"),
    ],
)
def test_a_damaged_idx_file_is_named_with_its_damage(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    text = message(lambda: idx.read(path, (28, 28)))
    assert text.startswith(str(path))
    assert reason in text
    assert text.endswith(idx.AGAIN)


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(WHOLE + bytes(10**8), 1))
    assert "got more" in message(bounded(lambda: idx.read(path, (28, 28))))


# ---- MNIST


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


# ---- tables and small images of scikit-learn


@pytest.mark.parametrize(
    "data", [Digits(600, 600, 597), BreastCancer(200, 150, 219)], ids=["digits", "breast_cancer"]
)
def test_embedded_examples_are_drawn_once_each_and_alike_for_one_seed(data: Examples) -> None:
    parts, again, other = (data.splits(seeded(seed)) for seed in (0, 0, 1))
    assert [len(p.y) for p in parts] == [data.train, data.validation, data.test]
    everything = torch.cat([part.index for part in parts]).sort().values
    assert torch.equal(everything, torch.arange(len(everything)))
    for part, same in zip(parts, again, strict=True):
        assert torch.equal(part.x, same.x)
        assert torch.equal(part.y, same.y)
        assert part.x.dtype == torch.get_default_dtype()
        assert torch.unique(part.y).tolist() == list(range(data.num_classes))
    assert not torch.equal(parts.train.index, other.train.index)


def test_one_example_more_than_there_are_is_refused() -> None:
    text = message(lambda: Digits(600, 600, 598).splits(seeded(0)))
    assert text.startswith("Digits needs train + validation + test <= 1797 examples, got 1798.")
    assert "got validation=0. Set data.validation." in message(lambda: BreastCancer(200, 0, 219))


def test_digits_have_pixels_from_0_to_1() -> None:
    pool, official = Digits(600, 600, 597).read()
    assert official is None
    assert pool.x.shape == (1797, 1, 8, 8)
    assert extremes(pool.x) == (0, 1)
    assert torch.equal(pool.x * 16, (pool.x * 16).round())


def test_digits_make_twenty_classes_to_learn_from_and_twenty_new_ones() -> None:
    data = Digits(600, 600, 597)
    parts, again = data.classes(), data.classes()
    # The rarest digit, 8, has 174 images; a fifth of them, 34, is for validation.
    shapes = [(20, 140, 1, 8, 8), (20, 34, 1, 8, 8), (20, 174, 1, 8, 8)]
    assert [part.shape for part in parts] == shapes
    for part, same in zip(parts, again, strict=True):
        assert part.dtype == torch.uint8
        assert extremes(part) == (0, 255)
        assert torch.equal(part, same)
    pool, _ = data.read()
    first = torch.stack([pool.x[pool.y == digit][0] for digit in range(10)])
    unrotated = torch.cat([parts.train[:5, 0], parts.test[:5, 0]])
    torch.testing.assert_close(unrotated / 255, first, atol=0.5 / 255, rtol=0)
    seen = {image.numpy().tobytes() for image in parts.train.flatten(0, 1)}
    held_out = {image.numpy().tobytes() for image in parts.validation.flatten(0, 1)}
    assert seen.isdisjoint(held_out)
    assert "20 classes" in data.split_statement


def test_four_quarter_turns_make_four_classes_and_a_fifth_would_repeat_the_first() -> None:
    images = torch.arange(2 * 3 * 1 * 4 * 4).reshape(2, 3, 1, 4, 4)
    turned = rotated_classes(images).reshape(4, 2, 3, 1, 4, 4)
    assert torch.equal(turned[0], images)
    # Half a turn reverses rows and columns, a quarter carries the last column to the first row.
    assert torch.equal(turned[2], images.flip(-2, -1))
    assert torch.equal(turned[1][..., 0, :], images[..., :, -1])
    assert torch.equal(rotated_classes(turned[3])[2:4], images)


def test_breast_cancer_is_standardised_by_its_training_part_alone() -> None:
    data = BreastCancer(200, 150, 219)
    pool, _ = data.read()
    assert pool.x.shape == (569, 30)
    assert pool.y.bincount().tolist() == [212, 357]  # malignant, benign
    parts = data.splits(seeded(0))
    # A mean of 200 numbers of order one is exact to some hundred roundings.
    tolerance = 200 * torch.finfo(parts.train.x.dtype).eps
    raw = pool.x[parts.train.index]
    torch.testing.assert_close(parts.train.x.mean(0), torch.zeros(30), atol=tolerance, rtol=0)
    torch.testing.assert_close(
        parts.train.x.std(0, correction=0), torch.ones(30), atol=tolerance, rtol=0
    )
    torch.testing.assert_close(
        parts.test.x, (pool.x[parts.test.index] - raw.mean(0)) / raw.std(0, correction=0)
    )


def test_a_feature_that_does_not_vary_in_the_training_part_stays_finite() -> None:
    assert all(part.x.isfinite().all() for part in BreastCancer(1, 1, 1).splits(seeded(0)))


def test_diabetes_has_real_targets_standardised_by_its_training_part_alone() -> None:
    data = Diabetes(150, 150, 142)
    pool, official = data.read()
    assert official is None
    assert pool.x.shape == (442, 10)
    # Published range and mean of the progression: 25 to 346, and 152.1.
    assert extremes(pool.y) == (25, 346)
    assert abs(pool.y.mean().item() - 152.13) < 0.01
    assert pool.y.dtype == torch.get_default_dtype()
    parts = data.splits(seeded(0))
    raw = pool.take(parts.train.index)
    for values in (parts.train.x, parts.train.y[:, None]):
        mean, std = values.mean(0), values.std(0, correction=0)
        # A mean of 150 numbers of order one is exact to some hundred roundings.
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-13, rtol=0)
        torch.testing.assert_close(std, torch.ones_like(std), atol=1e-13, rtol=0)
    test = pool.take(parts.test.index)
    torch.testing.assert_close(parts.test.y, (test.y - raw.y.mean()) / raw.y.std(correction=0))
    assert all(part.y.isfinite().all() for part in Diabetes(1, 1, 1).splits(seeded(0)))


# ---- ijcnn1


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
    server: tuple[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    write_ijcnn1(folder)
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert set(md5) == set(Ijcnn1.md5)
    monkeypatch.setattr(Ijcnn1, "md5", md5)
    assert len(ijcnn1(None, url=url).read()[0].y) == 17
    assert sorted(os.listdir(cache / "libsvm")) == sorted(md5)


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


def test_kinds_of_data_say_what_a_task_may_be_posed_on() -> None:
    assert issubclass(BreastCancer, TwoClasses)
    assert issubclass(Ijcnn1, TwoClasses)
    assert issubclass(TwoClasses, Examples)
    assert not issubclass(Diabetes, Examples)
    assert issubclass(Diabetes, Regression)


# ---- Omniglot


def background() -> dict[str, bytes]:
    return members("images_background")


def write_omniglot(root: Path) -> None:
    for stem in CHARACTERS:
        write_zip(root / f"{stem}.zip", members(stem))


def reader(root: Path | None, *, url: str = NOWHERE, train: int = 2, seed: int = 1) -> Omniglot:
    return Omniglot(None if root is None else str(root), url != NOWHERE, url, seed, train, 1)


def ink(images: Tensor) -> tuple[int, int]:
    """Rows and columns of the block of ink, in pixels of the 105x105 original."""
    dark = images.squeeze() > 127
    return round(dark.any(1).sum().item() * 105 / 28), round(dark.any(0).sum().item() * 105 / 28)


def test_omniglot_is_dark_paper_with_bright_ink_in_the_order_of_names(tmp_path: Path) -> None:
    write_omniglot(tmp_path / "omniglot-py")
    parts = reader(tmp_path).classes()
    assert [part.shape for part in parts] == [(n, 20, 1, 28, 28) for n in (8, 4, 8)]
    assert all(part.dtype == torch.uint8 for part in parts)
    assert all(extremes(part) == (0, 255) for part in parts)
    order = torch.randperm(5, generator=seeded(1)).tolist()
    unrotated = torch.cat([parts.train[:2], parts.validation[:1], parts.test[:2]])
    for character, images in zip(order, unrotated, strict=True):
        for drawer in range(1, 21):
            rows, columns = ink(images[drawer - 1])
            # A pixel of the small image is 3.75 of the original.
            assert abs(rows - 15 * (character + 1)) <= 3.75
            assert abs(columns - 5 * drawer) <= 3.75


def test_omniglot_gives_no_character_to_two_parts_and_every_rotation_to_one(
    tmp_path: Path,
) -> None:
    write_omniglot(tmp_path)
    parts = reader(tmp_path).classes()
    seen: list[set[bytes]] = []
    for part in parts:
        upright = part[: len(part) // 4]
        assert torch.equal(part, rotated_classes(upright))
        seen.append({image.numpy().tobytes() for image in upright.flatten(0, 1)})
    assert sum(map(len, seen)) == len(set.union(*seen)) == 5 * 20


def test_omniglot_is_split_by_its_own_seed_and_alike_at_every_call(tmp_path: Path) -> None:
    write_omniglot(tmp_path)
    first = reader(tmp_path, seed=1).classes().train
    torch.manual_seed(7)
    assert torch.equal(first, reader(tmp_path, seed=1).classes().train)
    assert not torch.equal(first, reader(tmp_path, seed=2).classes().train)
    assert "split_seed=1" in reader(tmp_path).split_statement


def test_the_default_split_of_omniglot_does_not_change_with_the_version_of_torch() -> None:
    order = torch.randperm(
        1623, generator=seeded(OmegaConf.load(CONF / "omniglot.yaml").split_seed)
    )
    assert order[:5].tolist() == [112, 1360, 850, 791, 710]


def test_omniglot_leaves_characters_for_test(tmp_path: Path) -> None:
    write_omniglot(tmp_path)
    text = message(reader(tmp_path, train=4).classes)
    assert "Omniglot needs train + validation < 5 characters" in text
    assert "got 4 + 1" in text
    assert "data.train" in message(lambda: reader(tmp_path, train=0))


def test_omniglot_decodes_once_and_again_when_a_zip_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_omniglot(tmp_path)
    decoded = 0
    decode = omniglot._decode

    def counted(paths: list[Path]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        nonlocal decoded
        decoded += 1
        return decode(paths)

    monkeypatch.setattr(omniglot, "_decode", counted)
    first, again = (reader(tmp_path).classes() for _ in range(2))
    assert decoded == 1
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    (kept,) = cache.iterdir()
    assert kept.name.startswith("omniglot-28x28-")

    for damage in (b"", b"damaged", kept.read_bytes()[:-1000]):
        kept.write_bytes(damage)
        again = reader(tmp_path).classes()
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert decoded == 4

    changed = background() | {
        f"images_background/New/character01/{i:02}_01.png": drawing(0, 1) for i in range(20)
    }
    write_zip(tmp_path / "images_background.zip", changed)
    assert len(reader(tmp_path).classes().test) == 4 * 3
    assert decoded == 5


def test_omniglot_works_without_a_cache_that_can_be_written(tmp_path: Path, cache: Path) -> None:
    write_omniglot(tmp_path)
    cache.touch()  # a file where the folder should be; a mode would not stop root
    assert len(reader(tmp_path).classes().train) == 8


def test_a_cache_that_fails_halfway_leaves_no_file(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(path: Path, array: object, **options: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    write_omniglot(tmp_path)
    monkeypatch.setattr(np, "save", full_disk)
    assert len(reader(tmp_path).classes().train) == 8
    assert list(cache.iterdir()) == []


def test_omniglot_downloads_its_two_files(
    server: tuple[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    write_omniglot(folder)
    md5 = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in Omniglot.md5}
    monkeypatch.setattr(Omniglot, "md5", md5)
    assert len(reader(None, url=url).classes().train) == 8
    assert sorted(os.listdir(cache / "omniglot-py")) == sorted(md5)


GREEK = "images_background/Greek/character01/0001_01.png"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not a png", "cannot identify image file"),
        (drawing(0, 1)[:60], "cannot read"),
        (png(Image.new("L", (28, 28))), "size (28, 28), not (105, 105)"),
        (bytes(2**20 + 1), "1048577 bytes, at most 1048576 are read"),
        (png(Image.new("1", (20000, 20000))), "cannot read"),  # a decompression bomb
    ],
)
def test_a_damaged_image_is_named_with_its_zip(tmp_path: Path, content: bytes, reason: str) -> None:
    write_omniglot(tmp_path)
    path = tmp_path / "images_background.zip"
    write_zip(path, background() | {GREEK: content})
    text = message(reader(tmp_path).classes)
    assert text.startswith(f"Omniglot cannot read {GREEK} in {path}: ")
    assert reason in text


def test_a_zip_member_that_lies_about_its_size_is_not_unpacked(tmp_path: Path) -> None:
    write_omniglot(tmp_path)
    path = tmp_path / "images_background.zip"
    write_zip(path, background() | {GREEK: bytes(10**8)})
    size = struct.pack("<I", 10**8)
    content = path.read_bytes()
    assert content.count(size) == 2
    path.write_bytes(content.replace(size, struct.pack("<I", 500)))
    text = message(bounded(reader(tmp_path).classes))
    assert text.startswith(f"Omniglot cannot read {GREEK} in {path}: Bad CRC-32")


def test_other_members_of_a_zip_are_not_read(tmp_path: Path) -> None:
    write_omniglot(tmp_path)
    extra = {"../evil.png": b"", "images_background/": b"", "__MACOSX/._0001_01.png": b"x"}
    write_zip(tmp_path / "images_background.zip", background() | extra)
    assert len(reader(tmp_path).classes().train) == 8


def test_a_zip_that_is_damaged_empty_or_incomplete_is_named(tmp_path: Path) -> None:
    write_omniglot(tmp_path)
    path = tmp_path / "images_background.zip"
    whole = background()

    content = path.read_bytes()
    version = content.find(b"PK\x01\x02") + 6  # of the format that the first member needs
    for damaged in (content[:-100], content[:version] + b"\xff" + content[version + 1 :], b""):
        path.write_bytes(damaged)
        assert f"Omniglot needs {path} to be a zip file" in message(reader(tmp_path).classes)

    write_zip(path, {"readme.txt": b""})
    assert f"got none of them in {path}" in message(reader(tmp_path).classes)

    del whole[next(iter(whole))]
    write_zip(path, whole)
    text = message(reader(tmp_path).classes)
    assert "needs 20 images of every character, got 19 of Greek/character01" in text


@needs_omniglot
def test_the_real_omniglot_has_1623_characters_in_the_published_split() -> None:
    data = instantiate(OmegaConf.load(CONF / "omniglot.yaml"), root=str(REAL))
    parts = data.classes()
    shapes = [(4 * count, 20, 1, 28, 28) for count in (1100, 100, 423)]
    assert [part.shape for part in parts] == shapes
    upright = torch.cat([part[: len(part) // 4] for part in parts])
    assert len(upright) == 1623
    # Ink covers 8.0 percent of the originals (every 20th measured), and resizing keeps the mean.
    assert abs(upright.double().mean().item() / 255 - 0.08) < 0.01
