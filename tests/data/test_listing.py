"""What a folder of images holds is read, or refused, or counted and named."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standins
import torch
from data_files import SMALL_PNG, built, message
from PIL import Image

from bilevel_cli.data.class_folders import ClassFolders
from bilevel_cli.data.image_folder import ImageFolder
from bilevel_cli.data.reading import listing

pytestmark = pytest.mark.usefixtures("data_cache")


def folder_of(root: Path, **settings: Any) -> ImageFolder:
    return built(ImageFolder, "image_folder", root=str(root), **{"size": 8, **settings})


def write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(SMALL_PNG if path.suffix.lower() in listing.SUFFIXES else b"a note")


def test_each_kind_of_image_is_read_as_its_class_and_a_plain_folder_says_nothing(
    tmp_path: Path,
) -> None:
    for number, (name, kind) in enumerate({"cat": "jpg", "dog": "png", "fox": "webp"}.items()):
        (tmp_path / name).mkdir()
        for image in range(20):
            grey = Image.new("RGB", (8, 8), (10 + 80 * number + image,) * 3)
            grey.save(tmp_path / name / f"{image:02}.{kind}", quality=95)
    data = folder_of(tmp_path)
    pool, _ = data.read()
    assert pool.y.tolist() == sorted([0, 1, 2] * 20)
    # A block of one grey costs a lossy codec a level or two.
    levels = torch.tensor(
        [10.0 + 80 * number + image for number in range(3) for image in range(20)]
    )
    torch.testing.assert_close(pool.x[:, 0, 4, 4] * 255, levels, atol=2.01, rtol=0)
    assert data.statement == ""


def test_images_in_folders_below_belong_to_the_class_in_the_order_of_their_paths(
    tmp_path: Path,
) -> None:
    root = tmp_path / "photos"
    write(
        root,
        *(
            f"{c}/{part}{i}.png"
            for c in ("cat", "dog")
            for part in ("b/", "a/x/", "")
            for i in (1, 0)
        ),
    )
    data = folder_of(root)
    assert [str(path.relative_to(root)) for path in data.paths[:6]] == [
        *("cat/0.png", "cat/1.png", "cat/a/x/0.png", "cat/a/x/1.png", "cat/b/0.png", "cat/b/1.png")
    ]
    assert data.read()[0].y.tolist() == [0] * 6 + [1] * 6
    assert data.statement == "photos: 12 images; 8 in folders below (cat/a/x/0.png, ...)."


def test_what_is_passed_over_is_counted_and_named(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    write(root, "cat/0.png", "fox/0.png", *(f"fox/{i:02}.txt" for i in range(20)), "labels.csv")
    write(root, "cover.JPG", "cat/raw/0.CR2", "cat/README")
    write(root, "Thumbs.db", "cat/.DS_Store", "fox/desktop.ini", "fox/._0.png", ".git/config")
    write(root, "__MACOSX/cat/._0.png", "cat/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg")
    data = folder_of(root)
    assert len(data.read()[0].y) == 2
    assert data.statement == (
        "photos: 2 images; passed over 31 files: 20 .txt (fox/00.txt, ...), 1 .cr2 "
        "(cat/raw/0.CR2), 1 .csv (labels.csv), 1 .jpg beside the folders of classes (cover.JPG), "
        "1 of 1 other kinds, 7 hidden or of the system."
    )


def test_every_file_of_a_random_tree_is_read_or_counted(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    suffixes = [".png", ".PNG", ".tif", ".txt", "", ".json", ".db"]
    for tree in range(10):
        root = tmp_path / str(tree)
        write(root, "a/0.png", "b/0.png")
        for number in range(60):
            depth = int(generator.integers(0, 4))
            parents = [str(generator.choice(["a", "b", "c.png", " d"])) for _ in range(depth)]
            parents[:1] = [str(generator.choice(["a", "b"]))] * bool(parents)
            write(root, "/".join([*parents, f"{number}{generator.choice(suffixes)}"]))
        found = listing.by_class(root, "Who")
        files = sorted(path for path in root.rglob("*") if path.is_file())
        assert sorted([*found.images, *found.others, *found.hidden]) == files
        assert found.passed_over.startswith(f"passed over {len(files) - len(found.images)} file")


def test_a_class_without_images_is_refused_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, "cat/0.png", "dog/0.png", "fox/a.txt", "fox/b.txt")
    text = message(folder_of(tmp_path).read)
    assert "got none in fox of" in text
    assert "passed over 2 files: 2 .txt (fox/a.txt, ...)" in text
    (tmp_path / "fox" / "a.txt").rename(tmp_path / "fox" / "a.png")
    (tmp_path / "owl").mkdir()
    assert "got none in owl of" in message(folder_of(tmp_path).read)


def test_folders_of_parts_are_not_taken_for_classes(tmp_path: Path) -> None:
    write(tmp_path, *(f"{p}/{c}/0.png" for p in ("train", "Test") for c in ("cat", "dog")))
    text = message(folder_of(tmp_path).read)
    assert "got Test, train, which look like parts" in text
    assert f"Set data.root={tmp_path}/Test" in text
    assert folder_of(tmp_path / "train").class_names == ["cat", "dog"]
    write(tmp_path, "train/left.png")  # beside the folders of classes
    assert "which look like parts" in message(folder_of(tmp_path).read)
    # Trains and tests may be classes: their images lie in their folders.
    write(tmp_path / "own", "train/0.png", "test/0.png")
    assert folder_of(tmp_path / "own").class_names == ["test", "train"]


def test_a_folder_above_that_of_the_classes_is_named_with_what_is_in_it(tmp_path: Path) -> None:
    write(tmp_path, "photos/cat/0.png", "photos/dog/0.png")
    text = message(folder_of(tmp_path).read)
    assert "got 1 class, photos, with folders cat, dog. Set data.root." in text


def test_links_of_folders_are_followed_once_inside_and_refused_in_circles(tmp_path: Path) -> None:
    write(tmp_path, "cat/0.png", "dog/0.png", "dog/b/1.png")
    (tmp_path / "cat" / "more").symlink_to(tmp_path / "dog" / "b")
    assert [path.name for path in folder_of(tmp_path).paths] == ["0.png", "1.png", "0.png", "1.png"]
    for target in (tmp_path, tmp_path / "cat", tmp_path / "dog" / "b"):
        link = tmp_path / "cat" / "turn"
        link.symlink_to(target)
        assert f"got {link}, a link to {target}" in message(folder_of(tmp_path).read)
        link.unlink()
    link.symlink_to("/etc")
    assert f"got {link}, a link to /etc" in message(folder_of(tmp_path).read)


def test_folders_without_end_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "cat/0.png", "dog/0.png", "cat/" + "a/" * 40 + "0.png")
    assert "at most 32 folders deep" in message(folder_of(tmp_path).read)


def test_names_cannot_write_to_the_terminal_of_who_reads_the_statement(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    write(root, "cat/0.png", "dog/0.png", "dog/\x1b[2J\n.t\x07xt", f"dog/{'long' * 50}.md")
    os.close(os.open(os.fsencode(root) + b"/dog/\xff.log", os.O_CREAT))
    text = folder_of(root).statement
    assert text.isprintable()
    assert r"1 .t\x07xt (dog/\x1b[2J .t\x07xt)" in text
    assert len(text) < 400


def test_published_parts_say_what_they_pass_over(tmp_path: Path) -> None:
    home = tmp_path / "mini_imagenet"
    for part in ("train", "val", "test"):
        standins.write_images(home / part, classes=2, images=2, size=8)
    counts = {"train": None, "validation": None, "test": None}

    def parts() -> ClassFolders:
        return built(ClassFolders, "mini_imagenet", root=str(tmp_path), size=8, **counts)

    plain = parts()
    before = plain.classes()
    assert plain.statement == ""
    write(home, "val/n00/notes.txt", "val/list.csv")
    data = parts()
    assert all(torch.equal(a, b) for a, b in zip(data.classes(), before, strict=True))
    assert data.statement == (
        "mini_imagenet, val: passed over 2 files: 1 .csv (list.csv), 1 .txt (n00/notes.txt)."
    )
