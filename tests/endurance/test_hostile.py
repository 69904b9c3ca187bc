"""Files made to do harm: nothing in them is executed, and none takes memory without a bound."""

import bz2
import gzip
import importlib
import importlib.util
import io
import lzma
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import standins
import torch
from configs import settings_of
from data_files import Trap, bounded, message
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bilevel_cli.config import options
from bilevel_cli.config.options import CONF
from bilevel_cli.data.reading import files
from bilevel_cli.tasks.distillation.storage import load_npz

READERS = [name for name in options.names("data") if hasattr(standins, name)]
ROOTED = [n for n in READERS if "root" in settings_of("data", n)]
pytestmark = [pytest.mark.hostile, pytest.mark.usefixtures("data_cache")]


def reading(name: str, folder: Path, link: Path | None = None) -> Callable[[], object]:
    """Reads the data of an option from what its stand-in wrote to a folder, or by a link to it."""
    folder.mkdir()
    node = settings_of("data", name)
    for override in getattr(standins, name)(folder):
        key, _, value = override.partition("=")
        OmegaConf.update(node, key.removeprefix("data."), OmegaConf.create(f"x: {value}").x)

    if link is not None:
        link.symlink_to(folder)
        node.root = str(node.root).replace(str(folder), str(link))
    if "max_megabytes" in node:
        node.max_megabytes = 1

    def read() -> object:
        source = instantiate(node)
        for part in ("classes", "spaces"):
            getattr(source, part, list)()
        return source.splits(torch.Generator()) if hasattr(source, "splits") else None

    return read


def contents(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# ---- whatever the file


def hostile_contents(trap: Path) -> dict[str, bytes]:
    """Bytes that no reader expects, each of them small."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, kind in (("../up", tarfile.REGTYPE), ("/etc/link", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    listing = io.BytesIO()
    with zipfile.ZipFile(listing, "w") as archive_zip:
        for number in range(100):
            archive_zip.writestr(zipfile.ZipInfo(f"{number:050000}"), b"")
    return {
        "pickle": pickle.dumps(Trap(trap)),
        "zipped pickle": zipped({"archive/data.pkl": pickle.dumps(Trap(trap))}),
        "gzip bomb": gzip.compress(bytes(10**7)) * 100,
        "bzip2 bomb": bz2.compress(bytes(10**7)) * 100,
        "lzma bomb": lzma.compress(bytes(5 * 10**7)),
        "zip bomb": zipped({"x.npy": bytes(5 * 10**7), "y.npy": b""}, zipfile.ZIP_DEFLATED),
        "nested zip": zipped({"x.npy": zipped({"x.npy": bytes(10**6)}, zipfile.ZIP_DEFLATED)}),
        "many members": listing.getvalue(),
        "tar": packed.getvalue(),
        "nothing": b"",
        "noise": np.random.default_rng(0).bytes(10_000),
    }


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], Path]:
    trap = tmp_path_factory.mktemp("trap") / "ran"
    return hostile_contents(trap), trap


@pytest.mark.parametrize("name", READERS)
def test_every_reader_refuses_every_hostile_file_in_one_line(
    name: str, hostile: tuple[dict[str, bytes], Path], tmp_path: Path
) -> None:
    read = reading(name, tmp_path / "root")
    read()
    # A table may have a file at another place than the first; of arrays and images one is enough.
    path = contents(tmp_path / "root")[0]
    before = contents(tmp_path)
    for content in hostile[0].values():
        path.write_bytes(content)
        refusal = message(bounded(read, megabytes=150))
        assert path.name in refusal
        if "data.max_megabytes" in refusal:
            assert "max_megabytes" in settings_of("data", name)
    assert not hostile[1].exists()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ROOTED)
def test_a_link_out_of_the_root_is_refused_and_a_root_that_is_a_link_is_not(
    name: str, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    read = reading(name, home, link=tmp_path / "root")
    read()
    first = contents(home)[0]
    for linked in [first, *first.parents[: len(first.relative_to(home).parts) - 1]]:
        moved = tmp_path / "away"
        linked.rename(moved)
        linked.symlink_to(moved)
        text = message(read)
        assert f"a link to {moved}" in text
        assert str(tmp_path / "root" / linked.relative_to(home)) in text
        linked.unlink()
        moved.rename(linked)
    read()


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_refused_and_not_waited_for(name: str, tmp_path: Path) -> None:
    read = reading(name, tmp_path / "root")
    path = contents(tmp_path / "root")[0]
    path.unlink()
    os.mkfifo(path)
    assert message(read)


# ---- archives


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_that_python_unpacks_without_a_bound_are_refused(
    method: int, tmp_path: Path
) -> None:
    whole = io.BytesIO()
    np.save(whole, np.zeros(10))
    bomb = zipped({"x.npy": whole.getvalue() + bytes(5 * 10**7), "y.npy": b""}, method)
    # Declares what it should have; the content goes on.
    size = struct.pack("<I", len(whole.getvalue()) + 5 * 10**7)
    (tmp_path / "my.npz").write_bytes(bomb.replace(size, struct.pack("<I", 208)))
    node = OmegaConf.load(CONF / "data" / "npz.yaml")
    source = instantiate(node, path=str(tmp_path / "my.npz"))
    assert "x.npy is neither stored nor deflated" in message(bounded(source.read, megabytes=10))


def test_a_zip_file_of_too_many_members_is_refused_before_they_are_listed(
    hostile: tuple[dict[str, bytes], Path], tmp_path: Path
) -> None:
    path = tmp_path / "many.zip"
    path.write_bytes(hostile[0]["many members"])
    with pytest.raises(zipfile.BadZipFile, match="directory has more than 4000000 bytes"):
        bounded(lambda: files.open_zip(path), megabytes=10)()
    # A small directory at the end, and a large one behind its back in the format for large files.
    content = bytearray(path.read_bytes())
    assert content[-22:-18] == b"PK\x05\x06"
    start = int.from_bytes(content[-6:-2], "little")
    size = int.from_bytes(content[-10:-6], "little")
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, size, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, start + size, 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 60, start, 0)
    path.write_bytes(bytes(content[:-22]) + record + locator + end)
    with pytest.raises(zipfile.BadZipFile, match="directory has more than"):
        bounded(lambda: files.open_zip(path), megabytes=10)()


SPARSE = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "1000000000000"}
MEMBERS = {
    "symbolic link": (tarfile.SYMTYPE, {}),
    "hard link": (tarfile.LNKTYPE, {}),
    "device": (tarfile.CHRTYPE, {}),
    "pipe": (tarfile.FIFOTYPE, {}),
    "folder": (tarfile.DIRTYPE, {}),
    "a terabyte of holes": (tarfile.REGTYPE, SPARSE),
}


@pytest.mark.parametrize("member_kind", MEMBERS)
def test_a_member_of_cifar10_that_is_no_plain_file_is_not_read(
    member_kind: str, tmp_path: Path
) -> None:
    read = reading("cifar10", tmp_path / "root")
    home = tmp_path / "root" / "cifar-10-batches-bin"
    kind, headers = MEMBERS[member_kind]
    with tarfile.open(home.parent / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for path in contents(home):
            member = archive.gettarinfo(str(path), f"{home.name}/{path.name}")
            if path.name == "data_batch_3.bin":
                member.type, member.linkname, member.pax_headers = kind, "/etc/passwd", headers
            with path.open("rb") as file:
                archive.addfile(member, file if member.isreg() else None)
            path.unlink()
    home.rmdir()
    assert "data_batch_3.bin" in message(bounded(read, megabytes=300))
    assert not home.exists()


def test_a_cached_array_that_promises_more_than_it_has_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "cached.npy"
    np.save(path, np.zeros((10, 10)))
    found = files.load_array(path)
    assert found is not None
    assert found.flags.writeable
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(10, 10)", b"(9**9,9)"))
    assert files.load_array(path) is None
    path.write_bytes(content.replace(b"(10, 10)", b"(9e9, 9)"))
    assert files.load_array(path) is None
    promise = content.replace(b"'shape': (10, 10), }     ", b"'shape': (9999999999,), }")
    assert promise != content
    path.write_bytes(promise)
    assert files.load_array(path) is None
    np.save(path, np.array([Trap(tmp_path / "ran")], dtype=object), allow_pickle=True)
    assert files.load_array(path) is None
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["pickle", "zipped pickle", "zip bomb", "many members", "noise"])
def test_a_hostile_distilled_set_is_refused(
    kind: str, hostile: tuple[dict[str, bytes], Path], tmp_path: Path
) -> None:
    path = tmp_path / "distilled.npz"
    path.write_bytes(hostile[0][kind])
    assert str(path) in message(bounded(lambda: load_npz(path), megabytes=10))
    assert not hostile[1].exists()


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow")
def test_a_long_text_that_every_row_of_a_parquet_file_repeats_is_counted_for_each(
    tmp_path: Path,
) -> None:
    arrow, parquet = map(importlib.import_module, ("pyarrow", "pyarrow.parquet"))
    numbers = [row % 2 for row in range(20_000)]
    texts = arrow.array([letter * 10**5 for letter in "ab"])
    words = arrow.DictionaryArray.from_arrays(arrow.array(numbers, arrow.int32()), texts)
    table = arrow.table({"word": words, "churn": numbers})  # two gigabytes, if it were written out
    parquet.write_table(table, tmp_path / "my.parquet", store_schema=False)
    node = OmegaConf.load(CONF / "data" / "table.yaml")
    node.update(path=str(tmp_path / "my.parquet"), target="churn", max_megabytes=5)
    peak = arrow.default_memory_pool().max_memory()
    assert "reads at most 5 MB" in message(instantiate(node).read)
    assert arrow.default_memory_pool().max_memory() - peak < 10**7
