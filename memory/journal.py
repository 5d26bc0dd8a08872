"""The rows: one SQLite file in WAL mode, the truth about which frames are remembered.

A frame is remembered when its row commits. What is promised:

- `synchronous="normal"` (default): a committed row survives the death of the process at any instant. After a power cut
  or a kernel crash the newest rows since the last checkpoint may be missing; the file stays consistent, and a row whose
  picture did not reach the medium fails its checksum and is dropped.
- `synchronous="full"`: every commit, and the picture before it, waits for the medium; nothing acknowledged is lost by a
  power cut either, as far as the disk keeps its own promises. Costs one or two fsyncs a frame.

Frame ids are handed out from blocks reserved with a full sync, so that no id is given twice even if a power cut takes
rows back. Knows nothing of vectors' contents, windows or limits. Not thread-safe: the store holds its lock.
"""

import math
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from memory.errors import JournalDamaged, StorageError, StorageFull
from memory.sqlite_errors import NO_WAL_HELP, make_private, storage_errors

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
_INSERT = f"INSERT INTO frames ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?)"  # noqa: S608
_DELETE = "DELETE FROM frames WHERE frame_id = ?"
_CLEAR_VECTORS = "UPDATE frames SET vector_offset = NULL, vector_crc = NULL WHERE frame_id = ?"


@dataclass(frozen=True, slots=True)
class Row:
    """One remembered frame: where its record lies and what it must look like. `segment` is its first frame's id."""

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
        """Over everything fixed at append: SQLite does not notice flipped bits in a row by itself."""
        fixed = (self.frame_id, self.camera, self.segment, self.time, self.metadata, self.offset, self.length, self.crc)
        return zlib.crc32(repr(fixed).encode())


@dataclass(frozen=True, slots=True)
class Erasure:
    """A stretch of time whose bytes, and on a full disk its rows too, are still to be taken off the disk."""

    number: int
    camera: str
    lower: float  # lower <= time <= upper
    upper: float
    segments: tuple[int, ...]  # those that lost rows
    num_frames: int = 0  # known to the call that began it, not kept

    def covers(self, camera: str, time: float) -> bool:
        return camera == self.camera and self.lower <= time <= self.upper

    def checksum(self) -> int:
        return zlib.crc32(repr((self.camera, self.lower, self.upper, self.segments)).encode())


class Journal:
    """Rows of all cameras. Every method raises StorageFull or StorageError, and then has changed nothing."""

    def __init__(self, path: Path, *, synchronous: Literal["normal", "full"] = "normal") -> None:
        """Opens or creates; JournalDamaged if the file is not a sound database (see `recovery.py`)."""
        self._path = path
        self._synchronous = synchronous
        self._doubtful: list[int] = []  # rows that were refused, and may be there all the same
        make_private(path)
        with self._errors("open"):
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # flipped bits may be no UTF-8: such a row fails its checksum, it must not stop the reading of others
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
            self._db.execute(f"PRAGMA synchronous = {self._synchronous}")
            self._db.execute("PRAGMA secure_delete = ON")  # what is evicted does not linger in free pages
            # 1,000 pages would checkpoint inside an append every few hundred frames; `checkpoint` does it from outside,
            # this is only the bound for a caller who never calls it (16 MiB of WAL)
            self._db.execute("PRAGMA wal_autocheckpoint = 4000")
            # Not quick_check: it passes over damage in the index, which every later insert would fail at.
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
        """JournalDamaged if its checksum does not hold."""
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
        """The id that the next inserted frame must have; reserves a block of ids when the last one is used up."""
        if self._next >= self._reserved:
            self._reserve(self._next + ID_BLOCK)
        return self._next

    def skip_ids_to(self, frame_id: int) -> None:
        """No id below `frame_id` will be given out."""
        if frame_id > self._next:
            self._reserve(frame_id)
            self._next = frame_id

    def insert(self, row: Row) -> None:
        """Commits the row; `row.frame_id` must be `next_id()`. After StorageFull the same id can be tried again."""
        self._delete_doubtful()
        try:
            with self._errors("write a row"):
                self._db.execute(_INSERT, _values(row))
        except BaseException as error:
            if getattr(error.__cause__, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
                raise  # certainly not there
            # whether the row is on disk is unknown: never use this id again, and delete the row before the next
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
        """Deletes rows, makes frames unencoded again and inserts rows with their old ids, all or nothing."""
        with self._transaction("repair rows"):
            self._db.executemany(_DELETE, [(i,) for i in delete])
            self._db.executemany(_CLEAR_VECTORS, [(i,) for i in clear_vectors])
            self._db.executemany(_INSERT, [_values(row) for row in adopt])

    def set_vectors(self, frame_id: int, offset: int, crc: int) -> None:
        with self._errors("write a row"):
            self._db.execute(
                "UPDATE frames SET vector_offset = ?, vector_crc = ? WHERE frame_id = ?", (offset, crc, frame_id)
            )

    def redate(
        self, camera: str, first_id: int, last_id: int, moved: Callable[[float, str], tuple[float, str]]
    ) -> None:
        """Gives the sound rows of a camera from `first_id` to `last_id` new times and metadata, all or nothing.

        `moved` makes them of the old ones. Waits for the medium: frames that follow rely on the new times.
        """
        query = f"SELECT {_COLUMNS} FROM frames WHERE camera = ? AND frame_id BETWEEN ? AND ?"  # noqa: S608
        with self._synced(), self._transaction("re-date rows"):
            changed: list[tuple[float, str, int, int]] = []
            for found in self._db.execute(query, (camera, first_id, last_id)).fetchall():
                row = Row(*found[:8], *found[9:])
                if row.checksum() == found[8]:
                    time, metadata = moved(row.time, row.metadata)
                    row = replace(row, time=time, metadata=metadata)
                    changed.append((time, metadata, row.checksum(), row.frame_id))
            self._db.executemany("UPDATE frames SET time = ?, metadata = ?, row_crc = ? WHERE frame_id = ?", changed)

    def delete_segment(self, camera: str, segment: int, last_id: int) -> None:
        """Forgets a segment for good: nothing of this camera up to `last_id` is adopted from files at a restart."""
        with self._transaction("delete rows"):
            self._db.execute("DELETE FROM frames WHERE segment = ?", (segment,))
            self._put_setting(f"forgotten/{camera}", last_id)

    def forgotten_to(self, camera: str) -> int:
        """Highest frame_id of this camera that was evicted, 0 if none was."""
        return self.setting(f"forgotten/{camera}") or 0

    def begin_erasure(self, camera: str, lower: float, upper: float, evicted_before: float = -math.inf) -> Erasure:
        """Deletes the rows with lower <= time <= upper and records, in the same synced commit, that their bytes must go.

        Rows older than `evicted_before` go with them, uncounted.
        """
        lower, upper = lower + 0.0, upper + 0.0  # SQLite reads -0.0 back as 0.0, and the checksum would not hold
        where = "camera = ? AND ((time >= ? AND time <= ?) OR time < ?)"
        values = (camera, lower, upper, evicted_before)
        with self._synced(), self._transaction("erase rows"):
            found = self._db.execute(f"SELECT time, segment FROM frames WHERE {where}", values).fetchall()  # noqa: S608
            segments = tuple(sorted({segment for _, segment in found}))
            num_frames = sum(lower <= time <= upper for time, _ in found)
            erasure = Erasure(0, camera, lower, upper, segments, num_frames)
            number = self._put_erasure(erasure)
            self._db.execute(f"DELETE FROM frames WHERE {where}", values)  # noqa: S608
        return replace(erasure, number=number)

    def note_erasure(self, camera: str, lower: float, upper: float) -> Erasure:
        """Records the erasure alone, in a synced commit of a few pages: for a full disk. Its rows are still there; delete
        them with `delete_erased`."""
        lower, upper = lower + 0.0, upper + 0.0
        with self._synced(), self._transaction("note an erasure"):
            query = "SELECT segment, COUNT(*) FROM frames WHERE camera = ? AND time >= ? AND time <= ? GROUP BY segment"
            found = self._db.execute(query, (camera, lower, upper)).fetchall()
            segments = tuple(sorted(segment for segment, _ in found))
            erasure = Erasure(0, camera, lower, upper, segments, sum(num for _, num in found))
            return replace(erasure, number=self._put_erasure(erasure))

    def _put_erasure(self, erasure: Erasure) -> int:
        text = " ".join(map(str, erasure.segments))
        row = (erasure.camera, erasure.lower, erasure.upper, text, erasure.checksum())
        self._db.execute("INSERT INTO erasures (camera, lower, upper, segments, row_crc) VALUES (?,?,?,?,?)", row)
        return int(self._db.execute("SELECT last_insert_rowid()").fetchone()[0])

    def delete_erased(self, erasure: Erasure) -> None:
        """Deletes what is left of the rows of an erasure, segment by segment; in small steps where the disk is full."""
        for segment in erasure.segments:
            limit = 1 << 20
            while ids := self._erased_ids(erasure, segment, limit):
                try:
                    with self._transaction("erase rows"):
                        self._db.executemany(_DELETE, ids)
                except StorageFull:
                    if len(ids) == 1:
                        raise
                    limit = len(ids) // 4 or 1
                    self.empty_wal()

    def _erased_ids(self, erasure: Erasure, segment: int, limit: int) -> list[tuple[int]]:
        with self._errors("read"):
            query = (
                "SELECT frame_id FROM frames WHERE segment = ? AND camera = ? AND time >= ? AND time <= ? "
                "ORDER BY frame_id LIMIT ?"
            )
            return self._db.execute(query, (segment, erasure.camera, erasure.lower, erasure.upper, limit)).fetchall()

    def wholly_erased(self, erasure: Erasure) -> list[int]:
        """Its segments of which no row is kept."""
        kept = "SELECT 1 FROM frames WHERE segment = ? AND NOT (camera = ? AND time >= ? AND time <= ?) LIMIT 1"
        bounds = (erasure.camera, erasure.lower, erasure.upper)
        with self._errors("read"):
            return [each for each in erasure.segments if not self._db.execute(kept, (each, *bounds)).fetchone()]

    def empty_wal(self) -> None:
        """Moves the WAL into the main file and gives its space back to the disk, as far as that is possible now."""
        try:
            with self._errors("checkpoint"):
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except StorageError:
            pass  # it takes the space that it has

    def erasures(self) -> list[Erasure]:
        """Those that have begun and not ended; a damaged record of one is passed over."""
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
        """Nothing of it is left on disk."""
        with self._errors("write a row"):
            self._db.execute("DELETE FROM erasures WHERE number = ?", (number,))

    def places(self, segment: int) -> list[tuple[int, int, int | None]]:
        """(offset, length, vector offset) of every frame of a segment, by rising offset."""
        with self._errors("read"):
            query = "SELECT offset, length, vector_offset FROM frames WHERE segment = ? ORDER BY offset"
            return self._db.execute(query, (segment,)).fetchall()

    def scrub(self) -> None:
        """Leaves nothing of deleted rows in the files: neither in free pages, nor in the slack of others, nor in the WAL.

        `secure_delete` zeroes what is deleted where it lies; copies that a page split left behind go by VACUUM, which
        writes the whole file anew. Needs that much room for a moment: StorageFull.
        """
        with self._errors("scrub"):
            self._db.execute("VACUUM")
            busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise StorageError(f"{self._path.name}: cannot scrub: another connection is reading")

    def rows(self) -> Iterator[tuple[Row, bool]]:
        """All rows by rising frame_id, each with whether its checksum holds."""
        with self._errors("read"):
            for found in self._db.execute(f"SELECT {_COLUMNS} FROM frames ORDER BY frame_id"):  # noqa: S608
                row = Row(*found[:8], *found[9:])
                yield row, row.checksum() == found[8] and isinstance(row.vector_offset, int | None)

    def checkpoint(self) -> None:
        """Moves the WAL into the main file without keeping writers waiting; meant for a worker thread.

        Uses its own connection, so it needs no lock of the store.
        """
        with self._errors("checkpoint"), closing(sqlite3.connect(self._path, timeout=1.0)) as db:
            db.execute(f"PRAGMA synchronous = {self._synchronous}")
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def close(self) -> None:
        """Gives unused reserved ids back, so that a clean restart goes on without a gap."""
        try:
            self._delete_doubtful()
            if self._reserved > self._next:
                self._reserve(self._next)
        except StorageError:
            pass  # only a gap in the ids
        self._db.close()

    def _errors(self, what: str) -> AbstractContextManager[None]:
        return storage_errors(self._path, what)

    def _reserve(self, until: int) -> None:
        with self._synced():
            self.set_setting("next_frame_id", until)
        self._reserved = until

    @contextmanager
    def _synced(self) -> Iterator[None]:
        """What is committed inside waits for the medium, and so does all that was committed before."""
        with self._errors("write"):
            self._db.execute("PRAGMA synchronous = FULL")
        try:
            yield
        finally:
            with self._errors("write"):
                self._db.execute(f"PRAGMA synchronous = {self._synchronous}")

    @contextmanager
    def _transaction(self, what: str) -> Iterator[None]:
        with self._errors(what):
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # after SQLITE_FULL, SQLite may have rolled back by itself
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def _setting_crc(key: str, value: str) -> str:
    return f"{zlib.crc32(f'{key}={value}'.encode()):08x}"


def _values(row: Row) -> tuple[Any, ...]:
    fixed = (row.frame_id, row.camera, row.segment, row.time, row.metadata, row.offset, row.length, row.crc)
    return (*fixed, row.checksum(), row.vector_offset, row.vector_crc)
