"""Files of the data folder: readable by their owner alone, and either complete or absent.

A file is written under a temporary name, synced, and then renamed. If that fails, nothing stays behind; leftovers of a
killed process are removed by `remove_leftovers` at the next start.
"""

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from memory.files import sync_folder

LEFTOVER_AGE_S = 60.0  # a younger file may belong to a process that is writing it
_ASIDE = re.compile(r"\..+\.[0-9a-f]{16}")
_OURS = re.compile(r"(tokens|erasures|replays)\.json|alerts\.sqlite(-wal|-shm)?|self-signed\.(pem|key)|memory")
"""Names of the agent's files at the top of a data folder."""


def replace_private(path: Path, content: bytes) -> None:
    """Write a file readable by its owner alone, replacing what is there, and sync it to the disk.

    Raises OSError; the old file is then still in place.
    """
    with _aside(path, content) as aside:
        aside.replace(path)
    sync_folder(path.parent)


def create_private(path: Path, content: bytes) -> bool:
    """Like `replace_private`, but only if the file does not exist yet. Return False if another process was first."""
    with _aside(path, content) as aside:
        try:
            os.link(aside, path)
        except FileExistsError:
            return False
    sync_folder(path.parent)
    return True


@contextmanager
def _aside(path: Path, content: bytes) -> Iterator[Path]:
    """Yield a synced file beside `path` with this content; it is deleted afterwards unless it was renamed."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def remove_leftovers(folder: Path, now: float) -> list[str]:
    """Delete temporary files that killed processes left in `folder`. Return their names. `now`: unix seconds."""
    removed = []
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                found = path.lstat()
                if (
                    _ASIDE.fullmatch(path.name)
                    and stat.S_ISREG(found.st_mode)
                    and now - found.st_mtime > LEFTOVER_AGE_S
                ):
                    path.unlink()
                    removed.append(path.name)
    return removed


def make_private(folder: Path) -> list[str]:
    """Make the agent's files in `folder` readable by their owner alone. Return the names of those that were not.

    The folder itself is changed too, unless it also holds files of others. Raises OSError.
    """
    if not folder.is_dir():
        return []
    narrowed: list[str] = []
    ours = [path for path in folder.iterdir() if _OURS.fullmatch(path.name)]
    others = [path for path in folder.iterdir() if path not in ours and not _ASIDE.fullmatch(path.name)]
    if ours and not others:
        narrowed += _narrow(folder, folder)
    for path in ours:
        narrowed += _narrow(path, folder)
        if path.is_dir() and not path.is_symlink():
            for each in path.rglob("*"):
                narrowed += _narrow(each, folder)
    return narrowed


def _narrow(path: Path, folder: Path) -> list[str]:
    """Remove the permissions of group and others. Symbolic links are left alone."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or not found.st_mode & 0o077:
        return []
    path.chmod(stat.S_IMODE(found.st_mode) & 0o700)
    return [str(path.relative_to(folder)) if path != folder else str(path)]
