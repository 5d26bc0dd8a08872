"""Files of the data folder: readable by their owner alone, and either complete or absent.

A file is written under a temporary name, synced to the disk, and then renamed. If writing fails, the temporary file is
deleted. If the process is killed, the temporary file stays, and `remove_leftovers` deletes it at the next start.
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
_OURS = re.compile(r"(tokens|erasures|replays|server)\.json|alerts\.sqlite(-wal|-shm)?|self-signed\.(pem|key)|memory")
"""Matches the names of the agent's files and folders at the top of a data folder."""


def replace_private(path: Path, content: bytes) -> None:
    """Write a file readable by its owner alone, replacing what is there, and sync it to the disk.

    Raises OSError; the old file is then still in place.
    """
    with _aside(path, content) as aside:
        aside.replace(path)
    sync_folder(path.parent)


def create_private(path: Path, content: bytes) -> bool:
    """Write a file as `replace_private` does, unless it exists already. Return whether this call created it."""
    with _aside(path, content) as aside:
        try:
            os.link(aside, path)
        except FileExistsError:
            return False
    sync_folder(path.parent)
    return True


@contextmanager
def _aside(path: Path, content: bytes) -> Iterator[Path]:
    """Context manager: write `content` to a temporary file beside `path`, sync it, and yield its path.

    On exit the temporary file is deleted, unless the block renamed it.
    """
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
    """Delete temporary files that killed processes left in `folder`. Return their names. now: unix seconds."""
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
    """Make the agent's files in `folder` readable by their owner alone. Return the names of the files it changed.

    The folder's own permissions are changed too, unless it also holds files of other programs. Raises OSError.
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
    """Remove the permissions of group and others. Return the name of `path` in a list, empty if nothing changed.

    Symbolic links are not changed.
    """
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or not found.st_mode & 0o077:
        return []
    path.chmod(stat.S_IMODE(found.st_mode) & 0o700)
    return [str(path.relative_to(folder)) if path != folder else str(path)]
