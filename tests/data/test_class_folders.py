"""Classes of images in published parts, for few-shot episodes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import SMALL_PNG, bounded, built, message
from PIL import Image

from bilevel_cli.data.class_folders import ClassFolders
from bilevel_cli.data.reading import images

pytestmark = pytest.mark.usefixtures("data_cache")


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
    (tmp_path / "other" / "val" / "n2" / "0.png").write_bytes(SMALL_PNG)
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
