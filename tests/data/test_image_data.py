"""Folders of images, CIFAR-10, and the sets of few-shot episodes."""

import gzip
import hashlib
import io
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import pytest
import standins
import torch
from configs import SHARED_DATA as REAL
from configs import settings_of
from data_files import Mine, bounded, message, png, seeded
from PIL import Image

from bilevel_cli.data.cifar10 import FOLDER, RECORD, TRAIN, Cifar10
from bilevel_cli.data.class_folders import ClassFolders
from bilevel_cli.data.image_folder import ImageFolder
from bilevel_cli.data.reading import images

UNPACK = REAL / "unpack_cifar10.py"


pytestmark = pytest.mark.usefixtures("data_cache")


def built(cls: Callable[..., Any], option: str, **settings: Any) -> Any:
    given: dict[Any, Any] = {**settings_of("data", option), **settings}
    return cls(**{str(key): value for key, value in given.items() if key != "_target_"})


# ---- images of one's own


def folder_of(root: Path, **settings: Any) -> ImageFolder:
    return built(ImageFolder, "image_folder", root=str(root), **{"size": 8, **settings})


def test_images_are_read_in_the_order_of_names_with_their_files(tmp_path: Path) -> None:
    standins.write_images(tmp_path, classes=3, images=4, size=8)
    (tmp_path / "n01" / "readme.txt").write_text("no image")
    (tmp_path / "n01" / ".hidden.png").write_text("no image")
    (tmp_path / ".git").mkdir()
    data = folder_of(tmp_path)
    pool, official = data.read()
    assert official is None
    assert pool.x.shape == (12, 3, 8, 8)
    # Image i of class c is of level 10 c + i.
    levels = torch.tensor([10.0 * c + i for c in range(3) for i in range(4)])
    torch.testing.assert_close(pool.x[:, 1, 2, 3] * 255, levels)
    assert pool.y.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.class_names == ["n00", "n01", "n02"]
    assert data.paths[6] == tmp_path / "n01" / "2.png"
    parts = data.splits(seeded(0))
    assert [len(part.y) for part in parts] == [7, 3, 2]
    for part in parts:
        torch.testing.assert_close(part.x[:, 0, 0, 0] * 255, levels[part.index])


def test_images_of_a_class_make_episodes_of_as_many_as_the_smallest_class_has(
    tmp_path: Path,
) -> None:
    standins.write_images(tmp_path, classes=10, images=3, size=8)
    (tmp_path / "n04" / "2.png").unlink()
    data = folder_of(tmp_path)
    parts = data.classes()
    assert [part.shape for part in parts] == [(n, 2, 3, 8, 8) for n in (6, 2, 2)]
    levels = torch.cat(parts)[:, :, 0, 0, 0]
    assert sorted(levels.flatten().tolist()) == [10 * c + i for c in range(10) for i in range(2)]
    assert torch.equal(parts.train, data.classes().train)
    assert not torch.equal(parts.train, folder_of(tmp_path, split_seed=2).classes().train)
    assert data.split_statement == (
        "6 for training, 2 for validation, 2 for test, shuffled by split_seed=1; 2 images of each"
    )


def test_two_classes_cannot_be_divided_among_three_parts(tmp_path: Path) -> None:
    standins.write_images(tmp_path, classes=2, images=2, size=8)
    assert "needs three classes" in message(folder_of(tmp_path).classes)


def test_images_are_resized_made_grey_and_turned_upright(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    picture = Image.new("RGB", (16, 32), (0, 0, 255))
    picture.paste((255, 255, 255), (0, 0, 16, 16))  # white above blue
    picture.save(tmp_path / "a" / "0.PNG")
    turned = Image.Exif()
    turned[274] = 6  # to be shown after a quarter turn clockwise
    picture.transpose(Image.Transpose.ROTATE_90).save(
        tmp_path / "b" / "0.jpeg", quality=95, exif=turned
    )
    picture.convert("RGBA").save(tmp_path / "b" / "1.png")
    x = folder_of(tmp_path).read()[0].x
    assert x.shape == (3, 3, 8, 8)
    for image in x:
        # JPEG is lossy: some levels of 255.
        torch.testing.assert_close(image[:, 1, 4], torch.ones(3), atol=0.03, rtol=0)
        torch.testing.assert_close(image[:, 6, 4], torch.tensor([0, 0, 1.0]), atol=0.03, rtol=0)
    grey = folder_of(tmp_path, channels=1).read()[0].x
    assert grey.shape == (3, 1, 8, 8)
    # Blue is 0.114 of luma (ITU-R 601); the edge to white rings by a level.
    assert abs(grey[0, 0, 6, 4].item() - 0.114) < 1.5 / 255


SOME = png(Image.new("RGB", (8, 8)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot identify image file"),
        (SOME[:45], "cannot read"),
        (b"GIF89a" + SOME, "cannot identify image file"),
        (pickle.dumps([1]), "cannot identify image file"),
        (png(Image.new("1", (20000, 4000))), "at most 67108864 pixels are read"),
        (png(Image.new("1", (20000, 20000))), "cannot read"),
        (png(Image.new("I;16", (8, 8))), "mode I;16, 8 bits a channel are read"),
    ],
)
def test_an_image_that_cannot_be_read_is_named_and_no_bomb_decoded(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    standins.write_images(tmp_path, classes=2, images=2, size=8)
    path = tmp_path / "n01" / "1.png"
    path.write_bytes(content)
    text = message(bounded(folder_of(tmp_path).read))
    assert text.startswith(f"ImageFolder cannot read {path}: ")
    assert reason in text


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_followed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    standins.write_images(home, classes=2, images=2, size=8)
    (home / "n01" / "2.png").symlink_to(home / "n00" / "0.png")
    assert len(folder_of(home).read()[0].y) == 5
    standins.write_images(tmp_path / "away", classes=1, images=1, size=8)
    (home / "n02").symlink_to(tmp_path / "away" / "n00")
    assert f"got {home / 'n02' / '0.png'}, a link to" in message(folder_of(home).read)
    (home / "n02").unlink()
    (home / "n00" / "9.png").symlink_to("/etc/passwd")
    assert "a link to /etc/passwd" in message(folder_of(home).read)


def test_a_folder_that_does_not_hold_classes_is_named(tmp_path: Path) -> None:
    assert "data.root=..., got null" in message(built(ImageFolder, "image_folder").read)
    assert "to exist" in message(folder_of(tmp_path / "absent").read)
    text = message(folder_of(tmp_path).read)
    assert text.endswith(f"two classes in {tmp_path}, got 0 classes. Set data.root.")
    (tmp_path / "file").touch()
    assert f"needs the folder {tmp_path / 'file'}" in message(folder_of(tmp_path / "file").read)
    assert "data.size" in message(lambda: folder_of(tmp_path, size=0))
    assert "data.channels" in message(lambda: folder_of(tmp_path, channels=4))


def test_more_images_than_the_limit_are_refused_before_any_is_decoded(tmp_path: Path) -> None:
    standins.write_images(tmp_path, classes=2, images=2, size=8)
    data = folder_of(tmp_path, size=2000, max_megabytes=40.0)  # 48 MB
    assert "reads at most 40 MB, got more in" in message(bounded(data.read))


# ---- CIFAR-10


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
    (home / "data_batch_1").write_bytes(pickle.dumps(Mine(tmp_path / "ran")))
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


# ---- classes in published parts


def parts_of(root: Path, **settings: Any) -> ClassFolders:
    counts = {"train": None, "validation": None, "test": None}
    given = {"root": str(root), "size": 16, **counts, **settings}
    return built(ClassFolders, "mini_imagenet", **given)


def write_parts(home: Path) -> None:
    """Two, three and four classes; class c of all has c + 2 images."""
    for part, numbers in (("train", (0, 1)), ("val", (2, 3, 4)), ("test", (5, 6, 7, 8))):
        for number in numbers:
            folder = home / part / f"n{number}"
            folder.mkdir(parents=True)
            for image in range(number + 2):
                level = (10 * number + image,) * 3
                Image.new("RGB", (16, 16), level).save(folder / f"{image}.png")


def write_arrays(home: Path, source: ClassFolders) -> None:
    """What `source` decoded, as files of arrays, images shuffled."""
    home.mkdir(parents=True)
    for part, found in zip(("train", "val", "test"), source.classes(), strict=True):
        pixels = found.flatten(0, 1).permute(0, 2, 3, 1).numpy()
        labels = np.arange(len(found)).repeat(found.shape[1])
        # Interleaved: classes need not lie together.
        order = np.argsort(np.arange(len(labels)) % found.shape[1], kind="stable")
        np.savez_compressed(home / f"{part}.npz", images=pixels[order], labels=labels[order])


def test_classes_have_as_many_images_as_the_smallest_of_their_part(tmp_path: Path) -> None:
    write_parts(tmp_path / "mini_imagenet")
    data = parts_of(tmp_path)
    parts = data.classes()
    assert [part.shape for part in parts] == [
        (classes, images, 3, 16, 16) for classes, images in ((2, 2), (3, 4), (4, 7))
    ]
    assert parts.train.dtype == torch.uint8
    assert parts.test[:, :, 0, 0, 0].tolist() == [
        [10 * number + image for image in range(7)] for number in range(5, 9)
    ]
    assert data.split_statement == (
        "mini_imagenet at 16x16, 2 of 2 images for training, 3 of 4 images for validation, "
        "4 of 7 images for test, as the files divide them"
    )
    few = parts_of(tmp_path, images_per_class=3).classes()
    assert [part.shape[1] for part in few] == [2, 3, 3]
    assert torch.equal(few.test, parts.test[:, :3])


def test_folders_and_arrays_of_the_same_images_are_the_same_data(tmp_path: Path) -> None:
    write_parts(tmp_path / "mini_imagenet")
    data = parts_of(tmp_path)
    write_arrays(tmp_path / "arrays", data)
    again = parts_of(tmp_path / "arrays").classes()
    assert all(torch.equal(a, b) for a, b in zip(again, data.classes(), strict=True))


def test_images_are_decoded_once_and_again_when_they_change(
    tmp_path: Path, data_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parts(tmp_path / "mini_imagenet")
    count = 0
    decode = images.decoded

    def counted(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        return decode(*arguments)

    monkeypatch.setattr(images, "decoded", counted)
    first, again = (parts_of(tmp_path).classes() for _ in range(2))
    assert count == 2 * 2 + 3 * 4 + 4 * 7
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len(list(data_cache.iterdir())) == 3
    for kept in data_cache.iterdir():
        kept.write_bytes(kept.read_bytes()[:-10])
    assert torch.equal(parts_of(tmp_path).classes().test, first.test)
    assert count == 2 * 44
    Image.new("RGB", (16, 16), (255, 0, 0)).save(tmp_path / "mini_imagenet/train/n0/0.png")
    changed = parts_of(tmp_path).classes()
    assert changed.train[0, 0, :, 3, 3].tolist() == [255, 0, 0]
    assert count == 2 * 44 + 4  # the training part alone


def test_a_cache_that_cannot_be_written_only_costs_the_time(
    tmp_path: Path, data_cache: Path
) -> None:
    write_parts(tmp_path / "mini_imagenet")
    data_cache.touch()
    assert len(parts_of(tmp_path).classes().train) == 2


@pytest.mark.parametrize(
    ("option", "counts"),
    [
        ("mini_imagenet", (64, 16, 20)),
        ("tiered_imagenet", (351, 97, 160)),
        ("cifar_fs", (64, 16, 20)),
    ],
)
def test_the_published_number_of_classes_is_required(
    option: str, counts: tuple[int, int, int], tmp_path: Path
) -> None:
    write_parts(tmp_path / option)
    data = built(ClassFolders, option, root=str(tmp_path))
    assert data.counts == counts
    text = message(data.classes)
    assert text.startswith(f"{option} needs {counts[0]} classes in {tmp_path / option / 'train'}")


def test_a_layout_that_is_not_there_is_named(tmp_path: Path) -> None:
    text = message(parts_of(tmp_path).classes)
    assert "needs train, val and test" in text
    assert f"none of {tmp_path / 'mini_imagenet'}, {tmp_path}." in text
    (tmp_path / "mini_imagenet" / "train").mkdir(parents=True)
    assert "got 0 classes" in message(parts_of(tmp_path).classes)
    write_parts(tmp_path / "other")
    for path in (tmp_path / "other" / "val" / "n2").iterdir():
        path.unlink()
    (tmp_path / "other" / "val" / "n2" / "0.png").write_bytes(SOME)
    assert "two images of every class" in message(parts_of(tmp_path / "other").classes)
    assert "images_per_class" in message(lambda: parts_of(tmp_path, images_per_class=1))


PIXELS, LABELS = np.zeros((4, 16, 16, 3), np.uint8), np.arange(4) % 2


@pytest.mark.parametrize(
    ("pixels", "labels", "reason"),
    [
        (PIXELS[:, :8], LABELS, "images [n, 16, 16, 3] of uint8 and labels [n] in"),
        (PIXELS / 1, LABELS, "got float64 [4, 16, 16, 3] and [4]"),
        (PIXELS[:3], LABELS, "got uint8 [3, 16, 16, 3] and [4]"),
        (PIXELS, LABELS[:, None], "and [4, 1]"),
        (PIXELS, np.arange(4), "two images of every class, got 1"),
        (PIXELS[:0], LABELS[:0], "two images of every class, got 0"),
        (PIXELS.astype(object), LABELS, "pickled objects"),
        (np.zeros((2000, 16, 16, 3), np.uint8), np.arange(2000) % 2, "reads at most 1 MB"),
    ],
    ids=["size", "dtype", "short", "shape", "single", "empty", "pickle", "large"],
)
def test_arrays_that_are_not_images_by_class_are_named(
    tmp_path: Path, pixels: Any, labels: Any, reason: str
) -> None:
    for part in ("train", "val", "test"):
        np.savez_compressed(tmp_path / f"{part}.npz", images=pixels, labels=labels)
    data = parts_of(tmp_path, max_megabytes=1.0)
    text = message(bounded(data.classes))
    assert reason in text
    assert str(tmp_path / "train.npz") in text
