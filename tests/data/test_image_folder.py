"""Folders of images of one's own are read, or refused by the name of what does not fit."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import standins
import torch
from data_files import SMALL_PNG, bounded, built, message, png
from PIL import Image
from problems import seeded

from bilevel_cli.data.image_folder import ImageFolder

pytestmark = pytest.mark.usefixtures("data_cache")


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


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: b"", "cannot identify image file"),
        (lambda: SMALL_PNG[:45], "cannot read"),
        (lambda: b"GIF89a" + SMALL_PNG, "cannot identify image file"),
        (lambda: pickle.dumps([1]), "cannot identify image file"),
        (lambda: png(Image.new("1", (20000, 4000))), "at most 67108864 pixels are read"),
        (lambda: png(Image.new("1", (20000, 20000))), "cannot read"),
    ],
)
def test_an_image_that_cannot_be_read_is_named_and_no_bomb_decoded(
    tmp_path: Path, content: Callable[[], bytes], reason: str
) -> None:
    standins.write_images(tmp_path, classes=2, images=2, size=8)
    path = tmp_path / "n01" / "1.png"
    path.write_bytes(content())
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
    assert f"got {home / 'n02'}, a link to" in message(folder_of(home).read)
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
