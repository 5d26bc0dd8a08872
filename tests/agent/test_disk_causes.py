"""The cause of a refused disk or database is named, with what to do: each made for real, by a preloaded shim or a real file."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.alerts.store import AlertStore
from memory.errors import JournalDamaged, StorageError
from memory.journal import Journal
from tests.support.memories import fill, open_store

ROOT = Path(__file__).parents[2]
CHILD = """
import sys
from pathlib import Path
from agent.alerts.store import AlertStore
from memory.errors import StorageError
from tests.support.memories import open_store

for name, make in (("memory", open_store), ("book", lambda folder: AlertStore(folder / "alerts.sqlite"))):
    try:
        make(Path(sys.argv[1]) / name)
    except StorageError as error:
        print(name, type(error).__name__, error)
    else:
        print(name, "opened")
"""


@pytest.fixture(scope="module")
def shim() -> Iterator[Path]:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler and Linux")
    source = ROOT / "tests" / "support" / "disk_shim.c"
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # LD_PRELOAD takes no path with a space
        library = Path(folder) / "shim.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
        yield library


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("lock=95", "StorageError", "no file locks"),  # EOPNOTSUPP
        ("lock=38", "StorageError", "no file locks"),  # ENOSYS
        ("lock=37", "StorageError", "no file locks"),  # ENOLCK, which SQLite takes for "locked"
        ("shm=19", "StorageError", "cannot share memory"),  # ENODEV, as some network shares say
        ("write=5", "StorageError", "Input/output error"),
        ("write=30", "StorageError", "read-only"),
        ("write=122", "StorageFull", "no space left"),  # EDQUOT
        ("write=28", "StorageFull", "no space left"),
    ],
)
def test_what_the_file_system_lacks_is_named(tmp_path: Path, shim: Path, fault: str, kind: str, words: str) -> None:
    lines = told(tmp_path, shim, fault)
    for line in lines:
        assert line.split()[1] == kind, line
        assert words in line
        assert ("no space" in line) == (kind == "StorageFull")
    assert [line.split()[0] for line in lines] == ["memory", "book"]


@pytest.mark.parametrize("code", [95, 38, 37])
def test_a_folder_that_cannot_be_locked_is_not_called_in_use(tmp_path: Path, shim: Path, code: int) -> None:
    line = told(tmp_path, shim, f"flock={code}")[0]
    assert "no file locks" in line
    assert "another process" not in line


def told(folder: Path, shim: Path, fault: str) -> list[str]:
    (folder / "book").mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "LD_PRELOAD": str(shim), "DISK_SHIM": fault},
    )  # fmt: skip
    return ran.stdout.splitlines()


def test_a_database_that_another_program_has_locked_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path) as store:
        fill(store, "a", range(1))
    other = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **named: connect(*args, **{**named, "timeout": 0.01}))
    with pytest.raises(StorageError, match="another program has"):
        Journal(tmp_path / "journal.sqlite")
    other.close()


def test_another_version_is_said_with_what_to_do(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store._journal.set_setting("schema", 7)
    with pytest.raises(StorageError, match=r"another version \(schema 7, here 1\): run that version, or move"):
        open_store(tmp_path)
    assert not (tmp_path / "journal.sqlite.damaged").exists()


def test_a_damaged_book_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "alerts.sqlite").write_bytes(b"no database at all, for sure" * 100)
    with pytest.raises(JournalDamaged, match="move it away"):
        AlertStore(tmp_path / "alerts.sqlite")


def test_a_folder_in_place_of_the_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").mkdir()
    with pytest.raises(StorageError, match="Is a directory"):
        Journal(tmp_path / "journal.sqlite")


def test_a_folder_of_somebody_else_is_said(tmp_path: Path) -> None:
    """A user who may not write there: needs to be started as root, to become somebody else."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with open_store(tmp_path / "memory") as store:
        fill(store, "a", range(1))
    code = (
        "import os; from memory.ranking import prepare; from tests.support.memories import Path, open_store; prepare()\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n  open_store(Path())\nexcept OSError as error:\n  print(type(error).__name__, error)"
    )
    (tmp_path / "memory").chmod(0o755)
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "memory", capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "permission denied: the data folder must belong to the user who runs this" in ran.stdout
