"""Arrays of one's own, in .npz files: whole, damaged, hostile and too large."""

import io
import pickle
import struct
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import Trap, bounded, built, message
from problems import seeded

from bilevel_cli.data.arrays import Arrays
from bilevel_cli.data.reading.npz import read_npz

pytestmark = pytest.mark.usefixtures("data_cache")


def npz(path: Path, **settings: Any) -> Arrays:
    return built(Arrays, "npz", **{"path": str(path), "max_megabytes": 1.0, **settings})


X, Y = np.arange(40.0).reshape(10, 4), np.arange(10) % 2


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", np.longdouble, np.uint8])
def test_arrays_are_read_in_any_byte_order_and_bytes_divided_by_255(
    tmp_path: Path, dtype: Any
) -> None:
    np.savez(tmp_path / "my.npz", x=np.asfortranarray(X).astype(dtype), y=Y + 7)
    data = npz(tmp_path / "my.npz")
    pool, official = data.read()
    assert official is None
    torch.testing.assert_close(pool.x, torch.from_numpy(X / (255 if dtype is np.uint8 else 1)))
    assert torch.equal(pool.y, torch.from_numpy(Y))
    assert data.class_names == ["7", "8"]
    parts = data.splits(seeded(0))
    assert [len(part.y) for part in parts] == [6, 2, 2]
    assert torch.equal(parts.train.x, pool.x[parts.train.index])


def test_arrays_may_have_other_names_texts_for_labels_and_channels_last(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 5, 3), dtype=np.uint8)
    np.savez_compressed(tmp_path / "my.npz", a=images, b=np.array(["cat", "ant"])[Y])
    data = npz(tmp_path / "my.npz", x="a", y="b", channels_last=True, standardize=True)
    pool, _ = data.read()
    torch.testing.assert_close(pool.x[3, 2, 1, 4] * 255, torch.tensor(float(images[3, 1, 4, 2])))
    assert data.class_names == ["ant", "cat"]
    assert torch.equal(pool.y, torch.from_numpy(1 - Y))
    train = data.splits(seeded(0)).train.x
    # Of 6 images of 20 pixels by channel: exact to some hundred roundings.
    torch.testing.assert_close(train.mean((0, 2, 3)), torch.zeros(3), atol=1e-13, rtol=0)
    torch.testing.assert_close(train.std((0, 2, 3), correction=0), torch.ones(3))


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        (X, Y[:9], "shape [n] beside 'x' of shape [n, ...]"),
        (X, Y[:, None], "shape [n] beside"),
        (X[:, 0], Y, "shape [n] beside"),
        (X[:0], Y[:0], "shape [n] beside"),
        (X.astype(complex), Y, "floating or whole numbers in 'x'"),
        (X, Y / 1, "whole numbers or texts in 'y'"),
        (np.where(X == 9, np.nan, X), Y, "finite numbers in 'x' of PATH, got nan at [2, 1]"),
        (np.where(X == 9, -np.inf, X), Y, "got -inf at [2, 1]"),
        (X, 0 * Y, "two classes at least, got 1 in 'y'"),
        (X, np.where(Y * X[:, 0] == 36, 5, Y), "one of '5', in row 9"),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    tmp_path: Path, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], reason: str
) -> None:
    path = tmp_path / "my.npz"
    np.savez(path, x=x, y=y)
    text = message(npz(path).read)
    assert text.startswith("Arrays ")
    assert reason.replace("PATH", str(path)) in text


def test_channels_last_needs_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "my.npz", x=X, y=Y)
    assert "[n, height, width, channels]" in message(
        npz(tmp_path / "my.npz", channels_last=True).read
    )
    assert "needs an array 'z'" in message(npz(tmp_path / "my.npz", x="z").read)


def test_an_object_array_is_refused_unread(tmp_path: Path) -> None:
    for names in ({"x": X}, {"y": Y}):
        objects = np.array([Trap(tmp_path / "ran")] * 10, dtype=object)
        np.savez(tmp_path / "my.npz", **{"x": objects, "y": objects} | names)
        assert "pickled objects" in message(npz(tmp_path / "my.npz").read)
        np.savez(tmp_path / "my.npz", x=X, y=Y)
        with zipfile.ZipFile(tmp_path / "my.npz", "w") as archive:
            for name in ("x", "y"):
                archive.writestr(f"{name}.npy", pickle.dumps(Trap(tmp_path / "ran")))
        assert "cannot read 'x'" in message(npz(tmp_path / "my.npz").read)
    assert not (tmp_path / "ran").exists()


def member(shape: str, content: bytes) -> bytes:
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (member("(10, 1)", bytes(79)), "promises 80 bytes, there are 79"),
        (member("(10, 1)", bytes(81)), "promises 80 bytes, there are 81"),
        (member("(1000000000000,)", bytes(80)), "promises 8000000000000 bytes, there are 80"),
        (member("(-10, -1)", bytes(80)), "cannot read"),
        (member("(10, 1)", b"")[:60], "EOF"),
        (b"\x93NUMPY\x09\x00" + bytes(80), "format version (9, 0)"),
        (b"", "cannot read"),
        (b"GIF89a", "cannot read"),
        (member("__import__('os')", bytes(80)), "malformed node"),
    ],
)
def test_a_member_is_what_its_header_promises(tmp_path: Path, content: bytes, reason: str) -> None:
    buffer = io.BytesIO()
    np.save(buffer, Y)
    with zipfile.ZipFile(tmp_path / "my.npz", "w") as archive:
        archive.writestr("x.npy", content)
        archive.writestr("y.npy", buffer.getvalue())
    text = message(bounded(npz(tmp_path / "my.npz").read))
    assert "Arrays cannot read 'x' in" in text
    assert reason in text


def test_a_bomb_in_an_npz_file_is_not_unpacked_whatever_it_declares(tmp_path: Path) -> None:
    path = tmp_path / "my.npz"
    np.savez_compressed(path, x=np.zeros((10, 10**6)), y=Y)
    assert "reads at most 1 MB" in message(bounded(npz(path).read))
    size = struct.pack("<I", 8 * 10**7 + 128)
    assert path.read_bytes().count(size) >= 1
    path.write_bytes(path.read_bytes().replace(size, struct.pack("<I", 500)))
    assert "cannot read 'x'" in message(bounded(npz(path).read))


def test_a_file_that_is_no_npz_file_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "my.npz", x=X, y=Y)
    whole = (tmp_path / "my.npz").read_bytes()
    for damaged in (b"", whole[:-30], whole[:300] + b"?" + whole[301:]):
        path = tmp_path / "other.npz"
        path.write_bytes(damaged)
        text = message(npz(path).read)
        assert "to be an npz file" in text or "cannot read" in text
    assert "got null" in message(partial(read_npz, None, ("x",), "Arrays", 1.0))
    assert "to be a file, got a folder" in message(npz(tmp_path).read)
