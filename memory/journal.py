"""The journal: one SQLite file (WAL mode) with a row for each stored frame. It decides which frames are stored.

A frame is stored once its row is committed. A committed row survives if the process dies at any moment. After a power
cut or kernel crash, rows since the last checkpoint may be missing, but the file stays consistent. If a picture did not
reach the disk, its checksum is wrong, and its row is dropped when the picture is read.

Frame ids come from ranges that are reserved in advance, with a commit that waits for the disk. So no id is ever reused,
even if a power cut loses rows. A camera's consecutive frames lie in segments, each of which has two files: frame
records and vector records (embeddings).

Not thread-safe: callers hold the store's lock.
"""

import math
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memory.errors import NO_WAL_HELP, JournalDamaged, StorageError, StorageFull, make_private, storage_errors

ID_BLOCK = 4096
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS frames (
  frame_id INTEGER PRIMARY KEY, camera TEXT NOT NULL, segment INTEGER NOT NULL, time REAL NOT NULL,
  metadata TEXT NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, crc INTEGER NOT NULL,
  row_crc INTEGER NOT NULL, vector_offset INTEGER, vector_crc INTEGER);
CREATE INDEX IF NOT EXISTS frames_of_segment ON frames (segment);
"""
_ERASURES = (
    "CREATE TABLE IF NOT EXISTS erasures (number INTEGER PRIMARY KEY, camera TEXT NOT NULL, "
    "lower REAL NOT NULL, upper REAL NOT NULL, segments TEXT NOT NULL, row_crc INTEGER NOT NULL)"
)
_COLUMNS = "frame_id, camera, segment, time, metadata, offset, length, crc, row_crc, vector_offset, vector_crc"
_SELECT = f"SELECT {_COLUMNS} FROM frames"  # noqa: S608
_INSERT = f"INSERT INTO frames ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?)"  # noqa: S608
_DELETE = "DELETE FROM frames WHERE frame_id = ?"
_CLEAR_VECTORS = "UPDATE frames SET vector_offset = NULL, vector_crc = NULL WHERE frame_id = ?"
_ERASED = "camera = ? AND time >= ? AND time <= ?"


@dataclass(frozen=True, slots=True)
class Row:
    """The row of a stored frame: position and checksum of its records. `segment`: the id of its segment."""

    frame_id: int
    camera: str
    segment: int
    time: float
    metadata: str
    offset: int
    length: int
    crc: int
    vector_offset: int | None = None
    vector_crc: int | None = None

    def checksum(self) -> int:
        """Return the checksum of the values that are fixed when the frame is stored.

        SQLite does not notice flipped bits in a row, so this checksum is stored with it.
        """
        fixed = (self.frame_id, self.camera, self.segment, self.time, self.metadata, self.offset, self.length, self.crc)
        return zlib.crc32(repr(fixed).encode())

    def values(self) -> tuple[Any, ...]:
        """Return the values of the table's columns, in the order of _COLUMNS."""
        fixed = (self.frame_id, self.camera, self.segment, self.time, self.metadata, self.offset, self.length, self.crc)
        return (*fixed, self.checksum(), self.vector_offset, self.vector_crc)


@dataclass(frozen=True, slots=True)
class Erasure:
    """An erasure in progress: the frames of a camera with lower <= time <= upper.

    `segments`: the ids of the segments whose rows are deleted.
    """

    number: int
    camera: str
    lower: float
    upper: float
    segments: tuple[int, ...]
    num_frames: int = 0  # set only by the call that began it, not stored

    def covers(self, camera: str, time: float) -> bool:
        return camera == self.camera and self.lower <= time <= self.upper

    def checksum(self) -> int:
        return zlib.crc32(repr((self.camera, self.lower, self.upper, self.segments)).encode())


class Journal:
    """The database with one row for each stored frame of all cameras.

    If a method raises StorageFull or StorageError, it has changed nothing.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the database file. Raises JournalDamaged if it is not intact (see `recovery.py`)."""
        self._path = path
        self._doubtful: list[int] = []  # ids of rows that may exist although their insert failed
        make_private(path)
        with self._errors("open"):
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # flipped bits may not be UTF-8: such a row fails its checksum, and must not stop the reading of others
        self._db.text_factory = lambda raw: raw.decode(errors="replace")
        try:
            self._prepare()
            self._reserved = self._next = self.setting("next_frame_id") or 1
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        with self._errors("open"):
            (mode,) = self._db.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise StorageError(f"{self._path.name}: cannot open: {NO_WAL_HELP}")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA secure_delete = ON")  # evicted rows do not stay in free pages
            # `checkpoint` is called from outside. This only bounds the WAL (16 MiB) where nobody calls it; SQLite's
            # default would checkpoint inside an append every few hundred frames.
            self._db.execute("PRAGMA wal_autocheckpoint = 4000")
            # not quick_check, which ignores damage of the index, at which every later insert would fail
            if self._db.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
                raise JournalDamaged("journal: the database fails its check")
            if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'frames_of_segment'").fetchone():
                self._db.executescript(_SCHEMA)
            if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'erasures'").fetchone():
                self._db.execute(_ERASURES)
        found = self.setting("schema")
        if found is None:
            self.set_setting("schema", _SCHEMA_VERSION)
        elif found != _SCHEMA_VERSION:
            raise StorageError(
                f"{self._path} was written by another version (schema {found}, here {_SCHEMA_VERSION}): "
                "run that version, or move the folder away to begin with an empty one"
            )

    def setting(self, key: str) -> int | None:
        """Return a number that was stored with `set_setting`, None if there is none.

        Raises JournalDamaged if its checksum is wrong.
        """
        with self._errors("read"):
            found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        if found is None:
            return None
        value, _, crc = str(found[0]).partition(" ")
        if not value.isdecimal() or crc != _setting_crc(key, value):
            raise JournalDamaged(f"journal: setting {key} is damaged")
        return int(value)

    def set_setting(self, key: str, value: int) -> None:
        with self._errors("write"):
            self._put_setting(key, value)

    def _put_setting(self, key: str, value: int) -> None:
        text = f"{value} {_setting_crc(key, str(value))}"
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, text))

    def next_id(self) -> int:
        """Return the id that the next inserted row must have. Reserves more ids if none is left."""
        if self._next >= self._reserved:
            self._reserve(self._next + ID_BLOCK)
        return self._next

    def skip_ids_to(self, frame_id: int) -> None:
        """Make `next_id` return at least `frame_id` from now on."""
        if frame_id > self._next:
            self._reserve(frame_id)
            self._next = frame_id

    def insert(self, row: Row) -> None:
        """Insert and commit the row. `row.frame_id` must be `next_id()`.

        Raises StorageFull or StorageError; after StorageFull, the same id can be used again.
        """
        self._delete_doubtful()
        try:
            with self._errors("write a row"):
                self._db.execute(_INSERT, row.values())
        except BaseException as error:
            if getattr(error.__cause__, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
                raise  # the row certainly does not exist
            # it may exist: never use this id again, and delete the row before the next insert
            self._doubtful.append(row.frame_id)
            self._next += 1
            raise
        self._next += 1

    def _delete_doubtful(self) -> None:
        if self._doubtful:
            with self._transaction("delete rows"):
                self._db.executemany(_DELETE, [(i,) for i in self._doubtful])
            self._doubtful.clear()

    def repair(self, *, delete: Sequence[int], clear_vectors: Sequence[int], adopt: Sequence[Row]) -> None:
        """Correct the table in one transaction: delete rows, mark frames as not encoded, and insert recovered rows.

        delete, clear_vectors: frame ids. adopt: the recovered rows, which keep their ids.
        """
        with self._transaction("repair rows"):
            self._db.executemany(_DELETE, [(i,) for i in delete])
            self._db.executemany(_CLEAR_VECTORS, [(i,) for i in clear_vectors])
            self._db.executemany(_INSERT, [row.values() for row in adopt])

    def set_vectors(self, frame_id: int, offset: int, crc: int) -> None:
        """Store the offset and checksum of a frame's vector record in its row."""
        with self._errors("write a row"):
            self._db.execute(
                "UPDATE frames SET vector_offset = ?, vector_crc = ? WHERE frame_id = ?", (offset, crc, frame_id)
            )

    def redate(
        self, camera: str, first_id: int, last_id: int, moved: Callable[[float, str], tuple[float, str]]
    ) -> None:
        """Change the times and metadata of a camera's intact rows from `first_id` to `last_id`, in one transaction.

        moved: called with a row's time and metadata, returns the new ones. Returns once the change is on disk, because
        the order of later frames depends on the new times.
        """
        query = f"{_SELECT} WHERE camera = ? AND frame_id BETWEEN ? AND ?"
        with self._synced(), self._transaction("re-date rows"):
            changed: list[tuple[float, str, int, int]] = []
            for row, sound in map(_row, self._db.execute(query, (camera, first_id, last_id)).fetchall()):
                if sound:
                    time, metadata = moved(row.time, row.metadata)
                    row = replace(row, time=time, metadata=metadata)
                    changed.append((time, metadata, row.checksum(), row.frame_id))
            self._db.executemany("UPDATE frames SET time = ?, metadata = ?, row_crc = ? WHERE frame_id = ?", changed)

    def delete_segment(self, camera: str, segment: int, last_id: int) -> None:
        """Delete a segment's rows, and record that frames of this camera up to `last_id` are evicted.

        So recovery does not bring them back from the segment files.
        """
        with self._transaction("delete rows"):
            self._db.execute("DELETE FROM frames WHERE segment = ?", (segment,))
            self._put_setting(f"forgotten/{camera}", last_id)

    def forgotten_to(self, camera: str) -> int:
        """Return the highest id of this camera's frames that were evicted, 0 if none was."""
        return self.setting(f"forgotten/{camera}") or 0

    def begin_erasure(
        self, camera: str, lower: float, upper: float, evicted_before: float = -math.inf, *, delete_rows: bool = True
    ) -> Erasure:
        """Delete the rows with lower <= time <= upper and record the erasure, in one commit that waits for the disk.

        Return the erasure. Rows older than `evicted_before` are deleted, too, but not counted as erased.
        `delete_rows=False` is for a full disk: it only records the erasure, which needs little space, and
        `delete_erased` deletes the rows later.
        """
        lower, upper = lower + 0.0, upper + 0.0  # SQLite turns -0.0 into 0.0, and the checksum would be wrong
        where = f"({_ERASED}) OR (camera = ? AND time < ?)"
        values = (camera, lower, upper, camera, evicted_before)
        with self._synced(), self._transaction("erase rows"):
            found = self._db.execute(f"SELECT time, segment FROM frames WHERE {where}", values).fetchall()  # noqa: S608
            segments = tuple(sorted({segment for _, segment in found}))
            erasure = Erasure(0, camera, lower, upper, segments, sum(lower <= time <= upper for time, _ in found))
            cursor = self._db.execute(
                "INSERT INTO erasures (camera, lower, upper, segments, row_crc) VALUES (?,?,?,?,?)",
                (camera, lower, upper, " ".join(map(str, segments)), erasure.checksum()),
            )
            if delete_rows:
                self._db.execute(f"DELETE FROM frames WHERE {where}", values)  # noqa: S608
        return replace(erasure, number=int(cursor.lastrowid or 0))

    def delete_erased(self, erasure: Erasure) -> None:
        """Delete the remaining rows of an erasure, segment by segment; in smaller steps if the disk is full."""
        query = f"SELECT frame_id FROM frames WHERE segment = ? AND {_ERASED} ORDER BY frame_id LIMIT ?"  # noqa: S608
        for segment in erasure.segments:
            limit = 1 << 20
            while True:
                with self._errors("read"):
                    values = (segment, erasure.camera, erasure.lower, erasure.upper, limit)
                    ids = self._db.execute(query, values).fetchall()
                if not ids:
                    break
                try:
                    with self._transaction("erase rows"):
                        self._db.executemany(_DELETE, ids)
                except StorageFull:
                    if len(ids) == 1:
                        raise
                    limit = len(ids) // 4 or 1
                    self.empty_wal()

    def wholly_erased(self, erasure: Erasure) -> list[int]:
        """Return the ids of the segments of which the erasure deletes all rows."""
        kept = f"SELECT 1 FROM frames WHERE segment = ? AND NOT ({_ERASED}) LIMIT 1"  # noqa: S608
        bounds = (erasure.camera, erasure.lower, erasure.upper)
        with self._errors("read"):
            return [each for each in erasure.segments if not self._db.execute(kept, (each, *bounds)).fetchone()]

    def erasures(self) -> list[Erasure]:
        """Return the erasures in progress. Damaged records of erasures are left out."""
        with self._errors("read"):
            rows = self._db.execute("SELECT number, camera, lower, upper, segments, row_crc FROM erasures").fetchall()
        found = []
        for number, camera, lower, upper, text, crc in rows:
            segments = tuple(int(word) for word in str(text).split() if word.isdecimal())
            erasure = Erasure(number, camera, lower, upper, segments)
            if erasure.checksum() == crc:
                found.append(erasure)
        return found

    def end_erasure(self, number: int) -> None:
        """Delete the record of a completed erasure."""
        with self._errors("write a row"):
            self._db.execute("DELETE FROM erasures WHERE number = ?", (number,))

    def places(self, segment: int) -> list[tuple[int, int, int | None]]:
        """Return (offset, length, vector offset) in bytes of the records of each frame of a segment, by rising offset.

        The vector offset is None for frames without a vector record.
        """
        with self._errors("read"):
            query = "SELECT offset, length, vector_offset FROM frames WHERE segment = ? ORDER BY offset"
            return self._db.execute(query, (segment,)).fetchall()

    def rows(self) -> Iterator[tuple[Row, bool]]:
        """Yield all rows by rising frame id, each with whether it is intact."""
        with self._errors("read"):
            yield from map(_row, self._db.execute(f"{_SELECT} ORDER BY frame_id"))

    def empty_wal(self) -> None:
        """Move the content of the WAL (write-ahead log) into the main file and truncate it. Errors are ignored."""
        with suppress(StorageError), self._errors("checkpoint"):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def scrub(self) -> None:
        """Remove all traces of deleted rows from free pages, partly filled pages and the WAL.

        SQLite's `secure_delete` zeroes deleted rows in place. VACUUM rewrites the file, without the copies of rows that
        page splits left behind. It needs as much free space as the file has bytes. Raises StorageFull or StorageError.
        """
        with self._errors("scrub"):
            self._db.execute("VACUUM")
            busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise StorageError(f"{self._path.name}: cannot scrub: another connection is reading")

    def checkpoint(self) -> None:
        """Move the WAL into the main file without blocking writers. Needs no lock, as it opens its own connection."""
        with self._errors("checkpoint"), closing(sqlite3.connect(self._path, timeout=1.0)) as db:
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def close(self) -> None:
        """Close the database. Reserved ids that were not used become free, so that a clean restart leaves no gap."""
        with suppress(StorageError):  # it would only leave a gap
            self._delete_doubtful()
            if self._reserved > self._next:
                self._reserve(self._next)
        self._db.close()

    def _errors(self, what: str) -> AbstractContextManager[None]:
        return storage_errors(self._path, what)

    def _reserve(self, until: int) -> None:
        with self._synced():
            self.set_setting("next_frame_id", until)
        self._reserved = until

    @contextmanager
    def _synced(self) -> Iterator[None]:
        """Context manager: a commit in the block returns only when it and all earlier commits are on disk."""
        with self._errors("write"):
            self._db.execute("PRAGMA synchronous = FULL")
        try:
            yield
        finally:
            with self._errors("write"):
                self._db.execute("PRAGMA synchronous = NORMAL")

    @contextmanager
    def _transaction(self, what: str) -> Iterator[None]:
        with self._errors(what):
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # after SQLITE_FULL, SQLite may have rolled back by itself
                    self._db.execute("ROLLBACK")
                raise


def _setting_crc(key: str, value: str) -> str:
    return f"{zlib.crc32(f'{key}={value}'.encode()):08x}"


def _row(found: tuple[Any, ...]) -> tuple[Row, bool]:
    """Return a row that was selected as _COLUMNS, and whether its checksum is right."""
    row = Row(*found[:8], *found[9:])
    return row, row.checksum() == found[8] and isinstance(row.vector_offset, int | None)
