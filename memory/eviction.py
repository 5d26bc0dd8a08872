"""Taking evicted segments and damaged frames off the disk: rows first, then files.

A file may go when the last window that holds its segment has; it goes with the next `unlink_freed`, as removing large
files takes time on some disks and neither an append nor the end of a window shall wait for it. If the process dies in
between, the next start removes the files that no row names. Not thread-safe, but for `unlink_freed`: the store holds
its lock.
"""

import weakref
from collections import deque
from collections.abc import Iterable

from memory.errors import StorageFull
from memory.journal import Journal
from memory.segment_file import unlink_files
from memory.segments import Segment

MOST_FREED = 64
"""Segments whose files wait to be removed; beyond it, where nobody calls `unlink_freed`, an eviction removes them."""


class Forgetting:
    """What is evicted already but not off the disk yet, and counters."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._waiting: list[Segment] = []  # no window gets them any more, their rows are still there
        self._freed: deque[tuple[str, ...]] = deque()  # files of segments that nobody holds any more
        self._purged: set[int] = set()  # damaged frames whose rows are deleted
        self.num_evicted = 0
        self.num_damaged = 0  # of the evicted

    def forget(self, segments: Iterable[Segment]) -> None:
        """Evicts segments that have left their camera's log. StorageError if the journal cannot be written at all."""
        for segment in segments:
            self.num_evicted += segment.count - segment.num_gone
            self.num_damaged += segment.num_gone
            segment.evicted = True
            self._waiting.append(segment)
        self.retry()

    def retry(self) -> None:
        """Goes on with what could not be done before."""
        while self._waiting:
            segment = self._waiting[0]
            files = str(segment.frames_path), str(segment.vectors_path)
            try:
                last_id = int(segment.frame_ids[segment.count - 1])
                self._journal.delete_segment(segment.camera, segment.segment_id, last_id)
            except StorageFull:
                # deleting rows needs space too: the files go now, even under a window, the rows when there is room
                unlink_files(*files)
                return
            self._waiting.pop(0)
            segment.shared.health.works(files[0])
            weakref.finalize(segment, self._freed.append, files)
        if len(self._freed) > MOST_FREED:
            self.unlink_freed()

    def unlink_freed(self) -> bool:
        """Removes files that nobody reads any more; whether there were any. Any thread, no lock."""
        found = False
        while True:
            try:
                files = self._freed.popleft()
            except IndexError:
                return found
            unlink_files(*files)
            found = True

    def purge_damaged(self, segments: Iterable[Segment]) -> None:
        """Deletes the rows of frames that were found damaged when read: they need not be found again."""
        ids = {int(i) for s in segments if s.num_gone for i in s.frame_ids[: s.count][s.gone[: s.count]]} - self._purged
        if not ids:
            return
        try:
            self._journal.repair(delete=sorted(ids), clear_vectors=(), adopt=())
        except StorageFull:
            return  # later
        self._purged |= ids
