"""Write frames and vectors: first their records into the segment files, then their rows into the journal.

Used under the store's locks for rows and for logs.
"""

from pathlib import Path

from memory.camera_log import CameraLog
from memory.cameras import CameraLogs
from memory.codec import frame_record_size, pack_frame, record_crc
from memory.errors import OutOfResources, StorageError, StorageFull, TimeNotRising
from memory.eviction import Eviction
from memory.files import cut_to, write_record
from memory.journal import Journal, Row
from memory.segments import Segment


class Writer:
    """Appends frames and vectors, and evicts old frames to stay within the limits. Counts what it wrote and refused."""

    def __init__(self, journal: Journal, logs: CameraLogs, eviction: Eviction, vector_bytes: int) -> None:
        """vector_bytes: size of one vector record."""
        self._journal = journal
        self._logs = logs
        self._eviction = eviction
        self._vector_bytes = vector_bytes
        self.written: set[Path] = set()  # files written since `take_written`
        self.full = False  # the last append found no space
        self.num_appended = self.num_refused = self.num_not_durable = 0

    def take_written(self) -> set[Path]:
        """Return the files that were written since the last call."""
        written, self.written = self.written, set()
        return written

    def append(self, log: CameraLog, time: float, jpeg: bytes, metadata: str, age_from: float) -> int:
        """Store a frame and return its id. On a full disk, delete old frames first.

        Arguments and errors are those of `MemoryStore.append`.
        """
        while True:
            try:
                frame_id = self._append(log, time, jpeg, metadata, age_from)
            except StorageFull:
                self.full = True
                if self._eviction.unlink_freed():
                    continue
                leaving = self._logs.give_to_full_disk(log)
                if not leaving:
                    self.num_refused += 1
                    raise
                self._eviction.evict(leaving)
                del leaving  # a reference to a segment keeps its files
                self._eviction.unlink_freed()
            else:
                self.full = False
                self.num_appended += 1
                return frame_id

    def _append(self, log: CameraLog, time: float, jpeg: bytes, metadata: str, age_from: float) -> int:
        newest = log.newest_time
        if newest is not None and time <= newest:
            raise TimeNotRising(f"camera {log.camera}: time {time!r} is not after {newest!r}")
        cost = frame_record_size(len(jpeg), len(metadata.encode())) + self._vector_bytes
        if cost > log.limits.bytes:
            raise ValueError(f"camera {log.camera}: a frame of {cost} bytes exceeds the cap of {log.limits.bytes}")
        # evict first: on a full disk, this is what lets recording go on
        self._eviction.evict(log.trim(newest=min(time, age_from), incoming_frames=1, incoming_bytes=cost))
        self._eviction.evict(self._logs.make_room(1, cost))
        frame_id = self._journal.next_id()
        record = pack_frame(frame_id, time, metadata, jpeg)
        segment = log.open_segment() or self._logs.start_segment(log.camera, frame_id)
        offset = segment.frames_end
        write_record(segment.frames_path, offset, record)
        self.written.add(segment.frames_path)
        row = Row(frame_id, log.camera, segment.segment_id, time, metadata, offset, len(record), record_crc(record))
        try:
            self._journal.insert(row)
        except BaseException:
            cut_to(segment.frames_path, offset)  # otherwise the next start would adopt the record
            raise
        if segment.count == 0:
            log.segments.append(segment)
        segment.add(frame_id, time, metadata, offset, len(record))
        log.grown(segment, 1, cost)
        return frame_id

    def write_vectors(self, segment: Segment, frame_id: int, record: bytes) -> None:
        """Store a frame's vector record. A failure of the disk is only counted, as vectors can be computed again.

        Raises OutOfResources if the system is short of memory or file descriptors, as the call may soon succeed.
        """
        try:
            write_record(segment.vectors_path, segment.vectors_end, record)
            self.written.add(segment.vectors_path)
            try:
                self._journal.set_vectors(frame_id, segment.vectors_end, record_crc(record))
            except StorageFull:
                raise
            except StorageError:
                segment.vectors_end += len(record)  # the row may name this place: nothing else may be written here
                raise
        except OutOfResources:
            raise
        except StorageError:
            self.num_not_durable += 1
        else:
            segment.vectors_end += len(record)
