"""What was read of the files of runs before: an SQLite file in the user's cache folder.

A year of a group's runs is thousands of files, often on a network disk, and hardly any of them
changes. Of each file that was read, the cache has what the reader made of it, with the file's size,
inode and times, and the version of the reader: where one of these differs, the file is read again.

The cache is a help and never needed. It may be deleted at any time. Where it cannot be opened, read
or written, or another process has it, a report reads the files of the runs, and says nothing. A
damaged or foreign database is replaced, and each entry has a checksum of its own.
"""

import contextlib
import os
import stat
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

from bilevel_cli.records.folder import CAREFUL

try:
    import sqlite3
except ImportError:  # Python can be built without it
    sqlite3 = None  # type: ignore[assignment]  # all uses are behind the database that it opens

NAME = "reports.sqlite"
MOST_BYTES = 1_000_000_000  # of all entries: the tables of 40 000 runs of 200 rows
KEPT = 0.75  # of `MOST_BYTES`, where the oldest entries make room for new ones
AT_ONCE = 16_000_000  # bytes that are written together, while other reports wait
PATIENCE = 1.0  # seconds to wait for another report
SETTLED = 2.0  # seconds for which a file has been as it is before it is noted
ASKED = 500  # paths in one question; an older SQLite takes 999
PAGE = 16_384  # bytes of a page of the database: about an entry
APPLICATION, LAYOUT = 0x62696C76, 1  # what the database calls itself: "bilv", and its table

TABLE = """
CREATE TABLE files (
    number INTEGER PRIMARY KEY,
    path BLOB NOT NULL UNIQUE,
    stamp TEXT NOT NULL,
    checksum INTEGER NOT NULL,
    content BLOB NOT NULL
)
"""


def stamp(status: os.stat_result) -> str:
    """What tells whether a file is the one that was read, and has not changed since.

    The time of the last change of any kind is part of it, since tools that copy files set back that
    of the last change of the content.
    """
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def settled(status: os.stat_result) -> bool:
    """Whether a file has been as it is for a while.

    One that is being written may change again in the same tick of the clock, which is a second or
    two on some file systems, and keep its size.
    """
    return time.time() - status.st_mtime > SETTLED


class Cache:
    """The entries, by the paths of files.

    Args:
        folder: Of its file; None for a cache that is empty and stays so.
        version: Of the reader. Entries of another version are not found.
    """

    def __init__(self, folder: Path | None, version: str) -> None:
        self._version = version
        self._path = None if folder is None else folder / NAME
        self._waiting: list[tuple[bytes, str, int, bytes]] = []
        self._size = 0
        self._database = self._opened()

    def __enter__(self) -> "Cache":
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is not None:  # who presses Ctrl-C does not wait
            self._waiting = []
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether it keeps what is noted."""
        return self._database is not None

    def found(self, wanted: Mapping[str, str]) -> dict[str, bytes]:
        """The entries of some files, of those that have one.

        Args:
            wanted: For each path its `stamp`.
        """
        if self._database is None or not wanted:
            return {}
        keys, found = {os.fsencode(path): path for path in wanted}, dict[str, bytes]()
        asked = list(keys)
        try:
            for start in range(0, len(asked), ASKED):
                some = asked[start : start + ASKED]
                places = ",".join("?" * len(some))
                for key, said, checksum, content in self._database.execute(
                    f"SELECT path, stamp, checksum, content FROM files WHERE path IN ({places})",
                    some,
                ):
                    path = keys.get(key)
                    if path is None or said != self._stamp(wanted[path]):
                        continue
                    if isinstance(content, bytes) and zlib.crc32(content) == checksum:
                        found[path] = content
        except sqlite3.Error as error:
            self._failed(error)
        return found

    def note(self, path: str, stamp: str, content: bytes) -> None:
        """Keeps what was made of a file, sooner or later."""
        if self._database is None or len(content) > MOST_BYTES // 8:
            return
        entry = (os.fsencode(path), self._stamp(stamp), zlib.crc32(content), content)
        self._waiting.append(entry)
        self._size += len(content)
        if self._size > AT_ONCE:
            self._write()

    def close(self) -> None:
        """Writes what waits, and lets go of the file."""
        self._write()
        self._leave()

    def _stamp(self, stamp: str) -> str:
        return f"{self._version} {stamp}"

    def _write(self) -> None:
        waiting, self._waiting, self._size = self._waiting, [], 0
        if self._database is None or not waiting:
            return
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(
                "INSERT OR REPLACE INTO files (path, stamp, checksum, content) VALUES (?, ?, ?, ?)",
                waiting,
            )
            _make_room(self._database)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            self._failed(error)

    def _failed(self, error: "sqlite3.Error") -> None:
        """Goes on with a new database where this one is damaged, and else without any."""
        self._leave()
        if _is_damage(error):
            self._remove()
            self._database = self._opened()

    def _leave(self) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()  # what was begun is undone
        self._database = None

    def _remove(self) -> None:
        for ending in ("", "-journal", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                os.unlink(f"{self._path}{ending}")

    def _opened(self) -> "sqlite3.Connection | None":
        """The database, made anew where it is none of ours; None where that cannot be."""
        if self._path is None or sqlite3 is None or not _is_own_file(self._path):
            return None
        for _ in range(2):
            database = None
            try:
                database = sqlite3.connect(self._path, timeout=PATIENCE, isolation_level=None)
                if _is_ours(database):
                    return database
                damaged = True
            except sqlite3.Error as error:
                damaged = _is_damage(error)
            if database is not None:
                with contextlib.suppress(sqlite3.Error):
                    database.close()
            if not damaged:
                return None
            self._remove()
            if not _is_own_file(self._path):
                return None
        return None


def _is_own_file(path: Path) -> bool:
    """Whether a file of this user's is there, or could be made.

    Nobody else is to read it: runs may be in folders that are closed to others.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | CAREFUL, 0o600))
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def _is_ours(database: "sqlite3.Connection") -> bool:
    """Whether a database has our table, or was empty and has it now."""
    # A loss of power may damage it; so there is nothing to wait for.
    database.execute("PRAGMA synchronous = OFF")
    if _number(database, "PRAGMA page_count") == 0:
        database.execute(f"PRAGMA page_size = {PAGE}")
        database.execute("BEGIN IMMEDIATE")
        if _number(database, "SELECT count(*) FROM sqlite_master") == 0:  # nobody was faster
            database.execute(f"PRAGMA application_id = {APPLICATION}")
            database.execute(f"PRAGMA user_version = {LAYOUT}")
            database.execute(TABLE)
        database.execute("COMMIT")
    names = ("application_id", "user_version")
    return [_number(database, f"PRAGMA {name}") for name in names] == [APPLICATION, LAYOUT]


def _number(database: "sqlite3.Connection", question: str) -> int:
    return int(database.execute(question).fetchone()[0])


def _is_damage(error: "sqlite3.Error") -> bool:
    """Whether an error says that the database is damaged or foreign.

    Others say that it is in use, that it may not be written, or that its disk is full.
    """
    elsewhere = (
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL),
        *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_READONLY),
        *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL),
        *(sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT),
    )
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF not in elsewhere


def _make_room(database: "sqlite3.Connection") -> None:
    """Deletes the oldest entries where all together have become too large."""
    pages = _number(database, "PRAGMA page_count") - _number(database, "PRAGMA freelist_count")
    size = pages * _number(database, "PRAGMA page_size")
    if size <= MOST_BYTES:
        return
    last, excess = 0, size - KEPT * MOST_BYTES
    for number, length in database.execute("SELECT number, length(content) FROM files ORDER BY 1"):
        last, excess = number, excess - length
        if excess < 0:
            break
    # The file keeps its size, and has room for new entries.
    database.execute("DELETE FROM files WHERE number <= ?", (last,))
