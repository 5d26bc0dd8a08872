"""A little disk space kept in reserve, so that a full disk can still note down an erasure: erasing is what frees space.

The space is a file of zeros in the memory's folder. It is given back to the disk when a write finds no room, and taken
again by `keep` once there is plenty.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from memory.descriptors import opened
from memory.errors import StorageFull

T = TypeVar("T")

SPARE_BYTES = 1 << 20
_LEAST_BYTES = 64 << 10
_SHARE = 8  # no more than this part of what is free


class SpareSpace:
    """See the module."""

    def __init__(self, folder: Path) -> None:
        """Touches nothing yet."""
        self._path = folder / "spare"

    def keep(self) -> None:
        """Takes the space, as much as a disk this full allows. Never an error: without it things merely go as before."""
        try:
            if self._path.exists():
                return
            size = min(SPARE_BYTES, shutil.disk_usage(self._path.parent).free // _SHARE)
            if size < _LEAST_BYTES:
                return
            with opened(self._path, os.O_RDWR | os.O_CREAT) as fd:
                os.posix_fallocate(fd, 0, size)
        except OSError:
            self.release()

    def release(self) -> bool:
        """Gives the space back; whether there was any. Never an error."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

    def lend(self, function: Callable[[], T]) -> T:
        """What `function` returns; where it finds no space it is called again with the space given back."""
        try:
            return function()
        except StorageFull:
            if not self.release():
                raise
        return function()
