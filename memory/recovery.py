"""Open a memory folder: read the journal's rows, compare them with the files, keep what is intact, and count the rest.

The journal is a database with one row for each frame; the frames of a segment lie in two files of records, frame
records (the pictures) and vector records (the embeddings). The rows decide which frames are stored, with these
corrections:

- A row whose own checksum is wrong is dropped. If an intact record of its frame is found in the segment files, the
  frame is adopted: it gets a new row.
- Intact records behind the last one that a row names are adopted. Their rows were lost by a power cut or a damaged WAL,
  or were never committed. A frame whose storing was not confirmed does no harm; losing a confirmed one would.
- A row whose record does not lie inside its file (truncated, missing) is dropped.
- Vectors that fail their checksum, or come from another encoder, are dropped: the frame is encoded again.
- Files without any stored frame are removed.
- Interrupted erasures are completed before anything else (`erasure.py`).

A file that cannot be read at the moment (a failing cable, a missing permission) does not count as damaged. Its rows are
kept, it is not changed or removed, and `Recovered.problems` names it. Its vectors are missing until the next start.

A journal that is not an intact database is renamed `journal.sqlite.damaged` and rebuilt from the records, which contain
everything that a row does. Pictures are not read at a normal start; each one is verified when it is read.
"""

import ctypes
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from memory.codec import (
    FRAME_HEADER,
    FRAME_MAGIC,
    VECTOR_MAGIC,
    StoredVectors,
    frame_record_size,
    record_crc,
    unpack_frame,
    unpack_vectors,
    vector_record_size,
)
from memory.erasure import finish_erasures
from memory.errors import JournalDamaged, OtherEncoder, RecordDamaged, StorageError, StorageFull, storage_error
from memory.files import cut_to, file_size, read_file, segment_paths, unlink_files
from memory.journal import ID_BLOCK, Erasure, Journal, Row
from memory.segments import Segment

_FILE = re.compile(r"(\d{12,})\.(frames|vectors)")
Key = tuple[str, int]  # camera, segment


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the segment files are, how segments are created, and which encoder's vectors are expected."""

    folder: Path  # with one folder per camera
    new_segment: Callable[[str, int, int], Segment]  # camera, segment_id, number of frames
    sizes: tuple[int, int]  # (D, C)
    tag: int


@dataclass(slots=True)
class Recovered:
    """The result of opening a folder: segments by camera, oldest first, and the damage that was found."""

    segments: dict[str, list[Segment]] = field(default_factory=lambda: defaultdict(list))
    frames_damaged: int = 0
    vectors_damaged: int = 0
    journal_rebuilt: bool = False
    problems: list[str] = field(default_factory=list)  # sentences: what cannot be read, and what is gone
    erasure_problem: str | None = None  # why an interrupted erasure is not complete yet


@dataclass(slots=True)
class _Repairs:
    """Corrections of the rows, collected during recovery and applied together at its end."""

    known: set[int]  # ids of intact rows, adopted ones included
    delete: list[int]
    problems: list[str]
    clear_vectors: list[int] = field(default_factory=list)
    adopt: dict[int, Row] = field(default_factory=dict)  # by frame_id

    def apply(self, journal: Journal) -> None:
        if self.delete or self.clear_vectors or self.adopt:
            with suppress(StorageFull):  # the next start will make the same corrections
                journal.repair(delete=self.delete, clear_vectors=self.clear_vectors, adopt=list(self.adopt.values()))


def open_and_recover(path: Path, layout: Layout) -> tuple[Journal, Recovered]:
    """Open the journal, after rebuilding it if it is damaged. Return it and all stored frames.

    Raises StorageFull, StorageError.
    """
    lost = file_size(path) == 0
    try:
        return _open(path, layout, rebuilding=lost)
    except JournalDamaged:
        path.replace(path.with_name(path.name + ".damaged"))
        unlink_files(f"{path}-wal", f"{path}-shm")
    return _open(path, layout, rebuilding=True)


def _open(path: Path, layout: Layout, *, rebuilding: bool) -> tuple[Journal, Recovered]:
    journal = Journal(path)
    try:
        return journal, _recover(journal, layout, rebuilding=rebuilding)
    except BaseException:
        journal.close()
        raise


def _recover(journal: Journal, layout: Layout, *, rebuilding: bool) -> Recovered:
    result = Recovered()
    try:
        finish_erasures(journal, layout.folder)
    except JournalDamaged:
        raise
    except StorageError as error:  # `maintain` tries again; no erased frame is adopted below
        result.erasure_problem = f"an erasure is not complete; it will be retried: {error}"
    erasures = journal.erasures()
    rows, bad_ids = _read_rows(journal)
    on_disk = _segment_files(layout.folder, result.problems)
    result.journal_rebuilt = rebuilding and bool(on_disk)
    repairs = _Repairs({row.frame_id for group in rows.values() for row in group}, bad_ids, result.problems)
    for camera, segment_id in sorted(rows.keys() | on_disk, key=lambda key: key[1]):
        paths = segment_paths(layout.folder / camera, segment_id)
        kept, readable = _sound_rows(
            (camera, segment_id), paths[0], rows[camera, segment_id], journal, repairs, erasures
        )
        if not kept:
            if readable:
                unlink_files(*map(str, paths))
            continue
        segment = layout.new_segment(camera, segment_id, len(kept))
        for row in kept:
            segment.add(row.frame_id, row.time, row.metadata, row.offset, row.length)
        result.vectors_damaged += _load_vectors(segment, kept, layout, repairs)
        if readable:
            cut_to(segment.frames_path, segment.frames_end)
        else:
            segment.closed = True  # the bytes behind the known rows could not be read, so they must not be overwritten
        result.segments[camera].append(segment)
    result.frames_damaged = len(set(repairs.delete) - repairs.adopt.keys())
    if result.frames_damaged:
        result.problems.append(
            f"{result.frames_damaged} remembered frames are gone: their segment files were removed, cut short or damaged "
            "while this was not running"
        )
    repairs.apply(journal)
    last_id = max(repairs.known, default=0)
    journal.skip_ids_to(last_id + 1 + (ID_BLOCK if result.journal_rebuilt else 0))
    return result


def _read_rows(journal: Journal) -> tuple[dict[Key, list[Row]], list[int]]:
    """Return the intact rows of the journal by (camera, segment id), and the frame ids of the damaged rows."""
    rows: dict[Key, list[Row]] = defaultdict(list)
    bad_ids: list[int] = []
    for row, sound in journal.rows():
        if sound:
            rows[row.camera, row.segment].append(row)
        else:
            bad_ids.append(row.frame_id)
    return rows, bad_ids


def _sound_rows(
    key: Key, path: Path, rows: list[Row], journal: Journal, repairs: _Repairs, erasures: Sequence[Erasure]
) -> tuple[list[Row], bool]:
    """Return the rows of a segment after recovery, by rising frame id (and so time), and whether its file was readable.

    These are the rows whose records lie inside the file, and those adopted from it. If the file could not be read, all
    `rows` are returned.
    """

    def erased(row: Row) -> bool:
        return any(erasure.covers(row.camera, row.time) for erasure in erasures)

    rows = [row for row in rows if not erased(row)]
    try:
        size = file_size(path)
        kept = [row for row in rows if row.offset + row.length <= size]
        lost = [row.frame_id for row in rows if row.offset + row.length > size]
        end = max((row.offset + row.length for row in kept), default=0)
        # the record of a bad row may lie anywhere in any file
        start = 0 if repairs.delete or lost else end
        found = list(_scan_frames(key, path, start)) if size > start else []
    except StorageError as error:
        repairs.problems.append(f"frames of camera {key[0]} cannot be read now: {error.strerror or error}")
        return sorted(rows, key=lambda row: row.frame_id), False
    repairs.delete += lost
    repairs.known.difference_update(lost)
    oldest = journal.forgotten_to(key[0]) if found else 0
    for row in found:
        if row.frame_id not in repairs.known and row.frame_id > oldest and not erased(row):
            repairs.known.add(row.frame_id)
            repairs.adopt[row.frame_id] = row
            kept.append(row)
    return sorted(kept, key=lambda row: row.frame_id), True


def _scan_frames(key: Key, path: Path, start: int) -> Iterator[Row]:
    """Yield a row for the journal for each intact frame record in the file from `start` on. Damaged bytes are skipped.

    Raises StorageError if the file cannot be read.
    """
    data = read_file(path, start)
    position = data.find(FRAME_MAGIC)
    while 0 <= position <= len(data) - FRAME_HEADER.size:
        _, _, _, _, metadata_bytes, jpeg_bytes = FRAME_HEADER.unpack_from(data, position)
        length = frame_record_size(jpeg_bytes, metadata_bytes)
        record = data[position : position + length]
        try:
            frame = unpack_frame(record)
        except RecordDamaged:
            position = data.find(FRAME_MAGIC, position + 1)
            continue
        yield Row(frame.frame_id, *key, frame.time, frame.metadata, start + position, length, record_crc(record))
        position = data.find(FRAME_MAGIC, position + length)


def _load_vectors(segment: Segment, rows: list[Row], layout: Layout, repairs: _Repairs) -> int:
    """Read the vectors of the segment's frames from its file into memory. Return how many of them were damaged."""
    size = vector_record_size(*layout.sizes)
    try:
        data = read_file(segment.vectors_path)
    except StorageError as error:
        repairs.problems.append(f"vectors of camera {segment.camera} cannot be read now: {error.strerror or error}")
        ends = [row.vector_offset + size for row in rows if row.vector_offset is not None]
        segment.vectors_end = max(ends, default=0)
        return 0
    if any(row.frame_id in repairs.adopt for row in rows):
        rows = _find_vectors(rows, data, layout, repairs)
    damaged, sound = 0, dict[int, StoredVectors]()
    for slot, row in enumerate(rows):
        offset = row.vector_offset
        if offset is None:
            continue
        try:
            vectors = unpack_vectors(data[offset : offset + size], layout.sizes, layout.tag)
            if vectors.frame_id != row.frame_id:
                raise RecordDamaged(f"vectors are of frame {vectors.frame_id}")
        except RecordDamaged as error:
            damaged += not isinstance(error, OtherEncoder)
            repairs.clear_vectors.append(row.frame_id)
            continue
        sound[slot] = vectors
        segment.vectors_end = max(segment.vectors_end, offset + size)
    segment.put_vectors(sound)
    for slot in sound:
        segment.mark_encoded(slot)
    return damaged


def _find_vectors(rows: list[Row], data: bytes, layout: Layout, repairs: _Repairs) -> list[Row]:
    """Return the rows, with the position of the vector record added to recovered ones, if `data` has an intact one.

    data: the content of the segment's file of vector records.
    """
    size, places = vector_record_size(*layout.sizes), dict[int, tuple[int, int]]()
    position = data.find(VECTOR_MAGIC)
    while position >= 0:
        record = data[position : position + size]
        try:
            places[unpack_vectors(record, layout.sizes, layout.tag).frame_id] = position, record_crc(record)
        except RecordDamaged:
            position = data.find(VECTOR_MAGIC, position + 1)
        else:
            position = data.find(VECTOR_MAGIC, position + size)
    for row in rows:
        if row.frame_id in repairs.adopt and row.frame_id in places:
            offset, crc = places[row.frame_id]
            repairs.adopt[row.frame_id] = replace(row, vector_offset=offset, vector_crc=crc)
    return [repairs.adopt.get(row.frame_id, row) for row in rows]


def _segment_files(folder: Path, problems: list[str]) -> set[Key]:
    """Return (camera, segment id) of every segment file. Raises StorageError if `folder` itself cannot be read.

    problems: gets a sentence for each camera folder that cannot be read.
    """
    found: set[Key] = set()
    try:
        cameras = [entry for entry in folder.iterdir() if entry.is_dir()]
    except OSError as error:
        raise storage_error(error, f"cannot read {folder}") from error
    for camera in cameras:
        try:
            names = [_FILE.fullmatch(entry.name) for entry in camera.iterdir()]
        except OSError as error:
            problems.append(str(storage_error(error, f"cannot read {camera}").strerror))
            continue
        found |= {(camera.name, int(name[1])) for name in names if name}
    return found


def release_freed() -> None:
    """Give freed memory back to the operating system. Works with glibc only; does nothing with other C libraries.

    At a start, arrays are allocated for every segment and then replaced by those of blocks. Without this call, glibc
    would keep about a kilobyte per frame of freed memory.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
