"""What is in the files of runs: each is looked at once, and read if nobody has read it before."""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from bilevel_cli.records.user_cache import user_cache
from bilevel_cli.report.read import bounded, cache, tables
from bilevel_cli.report.read.bounded import Unread
from bilevel_cli.report.read.cache import Cache

AT_ONCE = 4_000_000  # bytes of files that are in memory together, but for the last of them

Known = dict[str, tuple[str, Any]]
"""For the path of each file its `cache.stamp`, and what is in it."""


class Kind(NamedTuple):
    """A kind of files.

    Attributes:
        most: How many bytes one may have.
        parse: Makes of the bytes of some files what is in each, or an `Unread`.
        packed: Makes of what is in a file the bytes for the cache.
        unpacked: The inverse. It may raise a ValueError or a TypeError.
    """

    most: int
    parse: Callable[[Sequence[bytes]], Sequence[Any]]
    packed: Callable[[Any], bytes]
    unpacked: Callable[[bytes], Any]


def _each(parse: Callable[[bytes], Any]) -> Callable[[Sequence[bytes]], list[Any]]:
    def tried(content: bytes) -> Any:
        try:
            return parse(content)
        except Unread as error:
            return error

    return lambda contents: [tried(content) for content in contents]


def _dumped(tree: Any) -> bytes:
    return json.dumps(tree).encode()


# By the endings of names. Once YAML is read it is kept as JSON, which is read much faster.
KINDS = {
    ".json": Kind(bounded.MOST_BYTES, _each(bounded.of_json), _dumped, json.loads),
    ".yaml": Kind(bounded.MOST_BYTES, _each(bounded.of_yaml), _dumped, json.loads),
    ".csv": Kind(tables.MOST_BYTES, tables.parse_all, tables.packed, tables.unpacked),
}


class Contents:
    """What is in some files.

    Args:
        known: What was read before in this process; what is read is added. `watch` reads the same
            files again and again. None for nothing.
        kept: What was read before by any report.
    """

    def __init__(self, known: Known | None, kept: Cache) -> None:
        self._known, self._kept = known, kept
        self._here: dict[str, Any] = {}

    def fetch(self, paths: Sequence[str]) -> None:
        """Has what is in some files at hand, and no others: many at once take less time."""
        self._here = {}
        self._look(paths)

    def of(self, path: Path | str) -> Any:
        """What is in a file; None where there is none.

        Raises:
            Unread: It is not read.
        """
        name = str(path)
        if name not in self._here:
            self._look([name])
        found = self._here[name]
        if isinstance(found, Unread):
            raise Unread(*found.args)
        return found

    def _look(self, paths: Sequence[str]) -> None:
        new = dict[str, os.stat_result]()
        for path in paths:
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                self._here[path] = None
            except OSError as error:
                self._here[path] = Unread(f"cannot be read ({error.strerror})")
            else:
                known = self._known.get(path) if self._known is not None else None
                if known is not None and known[0] == cache.stamp(status):
                    self._here[path] = known[1]
                else:
                    new[path] = status
        self._unpack(new)
        for ending, kind in KINDS.items():
            unread = (path for path in new if path not in self._here and path.endswith(ending))
            self._read(kind, {path: new[path] for path in unread})
        if self._known is not None:
            for path, status in new.items():
                if not isinstance(self._here[path], Unread | None):
                    self._known[path] = (cache.stamp(status), self._here[path])

    def _unpack(self, new: Mapping[str, os.stat_result]) -> None:
        """Takes what is in some files from the cache, as far as it has them."""
        files = {os.path.abspath(path): path for path in new if stat.S_ISREG(new[path].st_mode)}
        wanted = {place: cache.stamp(new[path]) for place, path in files.items()}
        for place, content in self._kept.found(wanted).items():
            with contextlib.suppress(ValueError, TypeError):
                self._here[files[place]] = _kind(place).unpacked(content)

    def _read(self, kind: Kind, new: Mapping[str, os.stat_result]) -> None:
        """Reads some files of one kind, a few at a time."""
        contents, size = dict[str, bytes](), 0
        for path, status in new.items():
            try:
                found = bounded.content(path, kind.most, status)
            except Unread as error:
                self._here[path] = error
                continue
            if found is None:  # it was deleted meanwhile
                self._here[path] = None
                continue
            contents[path] = found
            size += len(found)
            if size > AT_ONCE:
                self._parse(kind, contents, new)
                contents, size = {}, 0
        self._parse(kind, contents, new)

    def _parse(
        self, kind: Kind, contents: Mapping[str, bytes], new: Mapping[str, os.stat_result]
    ) -> None:
        """Finds what is in some files, and has the cache keep it."""
        for path, found in zip(contents, kind.parse(list(contents.values())), strict=True):
            self._here[path] = found
            noted = self._kept.is_open and cache.settled(new[path])
            if noted and not isinstance(found, Unread):
                place = os.path.abspath(path)
                self._kept.note(place, cache.stamp(new[path]), kind.packed(found))


def _kind(path: str) -> Kind:
    return KINDS[os.path.splitext(path)[1]]


def opened() -> Cache:
    """The cache of what this reader read before; an empty one where its version is not known."""
    try:
        return Cache(user_cache(), version())
    except OSError:
        return Cache(None, "")


def version() -> str:
    """What an entry of the cache depends on besides the file: the sources that made it, and pandas.

    Nobody has to remember to raise a number, and who changes a source sees what it does.

    Raises:
        OSError: The sources are not there, as in an archive.
    """
    digest = hashlib.sha256(pd.__version__.encode())
    for source in (bounded.__file__, tables.__file__, __file__):
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()[:16]
