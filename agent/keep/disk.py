"""Check that frames can be stored in the data folder."""

import os
import shutil
from pathlib import Path

from memory.files import opened

MIN_FREE_BYTES = 64 << 20


def disk_problem(folder: Path, min_free_bytes: int = MIN_FREE_BYTES) -> str | None:
    """Return why frames cannot be stored in `folder`, as text for the operator. None: they can.

    Writes a small file to find out, and reads the free space.
    """
    probe = folder / ".ready"
    try:
        with opened(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:  # uses a file descriptor reserved for frames
            os.write(fd, b"ready")
            os.fsync(fd)
        probe.unlink(missing_ok=True)  # another check may run at the same time
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"the data folder cannot be written: {error.strerror}"
    if free < min_free_bytes:
        return f"the disk is full: {free >> 20} MiB free, at least {min_free_bytes >> 20} MiB are needed"
    return None
