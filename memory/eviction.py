"""Remove evicted segments and damaged frames from disk: first their rows in the journal, then their files.

A segment is a run of consecutive frames of a camera, in two files. Its files are kept while a window (a view of the
frames for a question) still uses the segment. Then the next `unlink_freed` removes them. Removing large files is slow
on some disks, and neither an append nor the end of a window should wait for it. After a crash in between, the next
start removes all files that have no rows. Used under the store's lock, except for `unlink_freed`.
"""

import weakref
from collections import deque
from collections.abc import Iterable

from memory.errors import StorageFull
from memory.files import unlink_files
from memory.journal import Journal
from memory.segments import Segment

MOST_FREED = 64
"""Segments whose files may wait for `unlink_freed`. Beyond that, the next eviction removes them itself."""


class Eviction:
    """Removes evicted segments from disk and counts the evicted frames."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._waiting: list[Segment] = []  # removed from their logs, but their rows are not deleted yet
        self._freed: deque[tuple[str, ...]] = deque()  # files of segments that no window uses any more
        self._purged: set[int] = set()  # damaged frames whose rows are deleted
        self.num_evicted = 0
        self.num_damaged = 0  # bytes of the evicted segments

    def evict(self, segments: Iterable[Segment]) -> None:
        """Delete the journal's rows of these segments (files of frames), and schedule the removal of their files.

        Raises StorageError if the journal cannot be written.
        """
        for segment in segments:
            self.num_evicted += segment.count - segment.num_gone
            self.num_damaged += segment.num_gone
            segment.evicted = True
            self._waiting.append(segment)
        self.retry()

    def retry(self) -> None:
        """Delete the rows of evicted segments that an earlier call could not delete."""
        while self._waiting:
            segment = self._waiting[0]
            files = str(segment.frames_path), str(segment.vectors_path)
            try:
                last_id = int(segment.frame_ids[segment.count - 1])
                self._journal.delete_segment(segment.camera, segment.segment_id, last_id)
            except StorageFull:
                # deleting rows needs space: remove the files now, even under a window, and the rows later
                unlink_files(*files)
                return
            self._waiting.pop(0)
            segment.shared.health.works(files[0])
            weakref.finalize(segment, self._freed.append, files)
        if len(self._freed) > MOST_FREED:
            self.unlink_freed()

    def unlink_freed(self) -> bool:
        """Remove the files that no window uses any more. Return whether there were any. Needs no lock."""
        found = False
        while True:
            try:
                files = self._freed.popleft()
            except IndexError:
                return found
            unlink_files(*files)
            found = True

    def purge_damaged(self, segments: Iterable[Segment]) -> None:
        """Delete the rows of frames in these segments that were found damaged, so that the next start skips them."""
        ids = {int(i) for s in segments if s.num_gone for i in s.frame_ids[: s.count][s.gone[: s.count]]} - self._purged
        if not ids:
            return
        try:
            self._journal.repair(delete=sorted(ids), clear_vectors=(), adopt=())
        except StorageFull:
            return  # the next call tries again
        self._purged |= ids
