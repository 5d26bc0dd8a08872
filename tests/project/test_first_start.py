"""A first start that was killed at any step can be repeated: it finds one set of tokens and keys and leaves no other files.

A child process forks once per round; each fork is killed at its n-th system call. The rounds cover all calls evenly.
`CRASH_ROUNDS` in the environment sets their number.
"""

import os
import subprocess
import sys
from pathlib import Path

from agent.alerts.store import ALERTS_FILE, AlertStore
from agent.runtime.files import LEFTOVER_AGE_S, make_private, remove_leftovers
from agent.settings.settings import TlsSettings
from agent.web.auth import TOKENS_FILE, Auth
from agent.web.tls import prepare_tls
from tests.support.memories import fill, open_store, picture

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("CRASH_ROUNDS", "12"))
NOW = 1_795_363_445.0

CHILD = """
import os, sys
from pathlib import Path
from memory.ranking import prepare
from tests.project.test_first_start import first_start

prepare()
CALLS = ("open", "write", "pwrite", "fsync", "fdatasync", "link", "replace", "rename", "unlink", "mkdir", "chmod", "close",
         "posix_fallocate", "ftruncate", "fdopen", "dup2")

def counted(folder, left):
    def dying(call):
        def wrapped(*args, **named):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), 9)
            return call(*args, **named)
        return wrapped
    for name in CALLS:
        setattr(os, name, dying(getattr(os, name)))
    first_start(folder)
    return left

def in_fork(folder, left):
    pid = os.fork()
    if pid == 0:
        sys.stderr.write(f"{left - counted(folder, left)}\\n")
        sys.stderr.flush()
        os._exit(0)
    return os.waitpid(pid, 0)[1]

root, rounds = Path(sys.argv[1]), int(sys.argv[2])
assert in_fork(root / "whole", 10**6) == 0
for number in map(int, sys.argv[3:]):
    print(number, in_fork(root / str(number), number))
"""


def first_start(folder: Path) -> None:
    """Make the files of a data folder, in the order of `vilamp serve`."""
    make_private(folder)
    remove_leftovers(folder, NOW)
    Auth.open(folder)
    prepare_tls(TlsSettings(self_signed=True), folder, now=NOW)
    with open_store(folder / "memory") as store:
        AlertStore(folder / ALERTS_FILE).close()
        fill(store, "door", range(2))
        store.maintain()


def run(folder: Path, places: list[int]) -> tuple[int, dict[int, int]]:
    """Return the number of calls in a whole start, and how the start ended that was killed at each call."""
    words = [sys.executable, "-c", CHILD, str(folder), "0", *map(str, places)]
    ran = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    ended = (map(int, line.split()) for line in ran.stdout.splitlines())
    return int(ran.stderr.split()[0]), dict(ended)  # type: ignore[arg-type]


def test_first_start_killed_at_any_point_can_be_repeated(tmp_path: Path) -> None:
    num_calls, _ = run(tmp_path / "count", [])
    last = num_calls - 4  # the number of calls varies by one or two
    places = sorted({round(n * last / (ROUNDS - 1)) for n in range(ROUNDS)})
    _, ended = run(tmp_path, places)
    assert ended == dict.fromkeys(places, 9)  # killed
    for place in places:
        check(tmp_path / str(place))


def check(folder: Path) -> None:
    kept = (folder / TOKENS_FILE).read_bytes() if (folder / TOKENS_FILE).exists() else None
    for path in folder.glob(".*") if folder.exists() else ():
        os.utime(path, (NOW, NOW - LEFTOVER_AGE_S - 1))  # as if the next start came a minute later
    first = {path: path.read_bytes() for path in folder.glob("self-signed.*")} if folder.exists() else {}
    make_private(folder)
    remove_leftovers(folder, NOW)
    auth = Auth.open(folder)
    assert auth.created == (kept is None)
    assert kept in (None, (folder / TOKENS_FILE).read_bytes())
    assert prepare_tls(TlsSettings(self_signed=True), folder, now=NOW) is not None
    if len(first) == 2:
        assert {path: path.read_bytes() for path in first} == first
    with open_store(folder / "memory") as store:
        AlertStore(folder / ALERTS_FILE).close()
        for record in store.records("door"):
            assert store.jpeg(record.frame_id) == picture("door", int(record.time))
        assert store.problem is None
        status = store.status()
        assert (status.frames_damaged, status.vectors_damaged, status.journal_rebuilt) == (0, 0, False)
        assert store.append("door", 100.0, b"later") > 0
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.rglob("*"))
