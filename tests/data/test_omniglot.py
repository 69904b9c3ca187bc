"""Omniglot, on small stand-ins and on the real files where these are at hand."""

import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from configs import SHARED_DATA as REAL
from configs import settings_of
from data_files import (
    CHARACTERS,
    NOWHERE,
    bounded,
    built,
    drawing,
    extremes,
    members,
    message,
    png,
    write_zip,
)
from PIL import Image
from problems import seeded
from torch import Tensor

from bilevel_cli.data import omniglot
from bilevel_cli.data.omniglot import Omniglot
from bilevel_cli.data.reading.rotations import rotated_classes

pytestmark = pytest.mark.usefixtures("data_cache")

needs_omniglot = pytest.mark.skipif(
    not (REAL / "omniglot-py").is_dir(), reason="needs shared/data/omniglot-py beside the checkout"
)


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
    seed = settings_of("data", "omniglot").split_seed
    order = torch.randperm(1623, generator=seeded(seed))
    assert order[:5].tolist() == [112, 1360, 850, 791, 710]


def test_omniglot_leaves_characters_for_test(tmp_path: Path) -> None:
    write_omniglot(tmp_path)
    text = message(reader(tmp_path, train=4).classes)
    assert "Omniglot needs train + validation < 5 characters" in text
    assert "got 4 + 1" in text
    assert "data.train" in message(lambda: reader(tmp_path, train=0))


def test_omniglot_decodes_once_and_again_when_a_zip_changes(
    tmp_path: Path, data_cache: Path, monkeypatch: pytest.MonkeyPatch
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
    (kept,) = data_cache.iterdir()
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


def test_omniglot_works_without_a_cache_that_can_be_written(
    tmp_path: Path, data_cache: Path
) -> None:
    write_omniglot(tmp_path)
    data_cache.touch()  # a file where the folder should be; a mode would not stop root
    assert len(reader(tmp_path).classes().train) == 8


def test_a_cache_that_fails_halfway_leaves_no_file(
    tmp_path: Path, data_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(path: Path, array: object, **options: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    write_omniglot(tmp_path)
    monkeypatch.setattr(np, "save", full_disk)
    assert len(reader(tmp_path).classes().train) == 8
    assert list(data_cache.iterdir()) == []


def test_omniglot_downloads_its_two_files(
    server: tuple[str, Path], data_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    write_omniglot(folder)
    md5 = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in Omniglot.md5}
    monkeypatch.setattr(Omniglot, "md5", md5)
    assert len(reader(None, url=url).classes().train) == 8
    assert sorted(os.listdir(data_cache / "omniglot-py")) == sorted(md5)


GREEK = "images_background/Greek/character01/0001_01.png"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: b"not a png", "cannot identify image file"),
        (lambda: drawing(0, 1)[:60], "cannot read"),
        (lambda: png(Image.new("L", (28, 28))), "size (28, 28), not (105, 105)"),
        (lambda: bytes(2**20 + 1), "1048577 bytes, at most 1048576 are read"),
        (lambda: png(Image.new("1", (20000, 20000))), "cannot read"),  # a decompression bomb
    ],
)
def test_a_damaged_image_is_named_with_its_zip(
    tmp_path: Path, content: Callable[[], bytes], reason: str
) -> None:
    write_omniglot(tmp_path)
    path = tmp_path / "images_background.zip"
    write_zip(path, background() | {GREEK: content()})
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


@pytest.mark.slow
@needs_omniglot
def test_the_real_omniglot_has_1623_characters_in_the_published_split() -> None:
    data = built(Omniglot, "omniglot", root=str(REAL))
    parts = data.classes()
    shapes = [(4 * count, 20, 1, 28, 28) for count in (1100, 100, 423)]
    assert [part.shape for part in parts] == shapes
    upright = torch.cat([part[: len(part) // 4] for part in parts])
    assert len(upright) == 1623
    # Ink covers 8.0 percent of the originals (every 20th measured), and resizing keeps the mean.
    assert abs(upright.double().mean().item() / 255 - 0.08) < 0.01
