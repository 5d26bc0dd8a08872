"""A real child process ingests at full speed and is killed with SIGKILL at random instants.

What must hold after each restart: every acknowledged frame is there as it was, nothing torn is served, no id repeats.
`CRASH_ROUNDS` in the environment sets the number of kills (the long form takes 200).
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from memory.limits import Limits
from memory.store import MemoryStore
from tests.memories import features, open_store

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "10"))
ROOT = Path(__file__).parent.parent
KEPT_SHORT = 30

CHILD = """
import os, sys
from pathlib import Path
from tests.test_memory_crash import both, jpeg
from tests.memories import features

with both(Path(sys.argv[1])) as store:
    number = int(sys.argv[2])
    os.write(1, b"open\\n")
    while True:
        number += 1
        for camera in ("long", "short"):
            frame_id = store.append(camera, float(number), jpeg(number), {"number": number})
            os.write(1, f"{camera} {frame_id} {number}\\n".encode())
        for frame_id in store.pending(3):
            store.attach(frame_id, **features(frame_id))
        if number % 50 == 0:
            store.maintain()
"""


def both(folder: Path) -> MemoryStore:
    short = Limits(frames=KEPT_SHORT, segment_frames=7)  # one camera that evicts all the time
    return open_store(folder, segment_frames=16, frames=1_000_000, camera_limits={"short": short})


def jpeg(number: int) -> bytes:
    return random.Random(number).randbytes(number * 97 % 9000)


def ingest_until_killed(folder: Path, start: int, seconds: float) -> list[tuple[str, int, int]]:
    """Acknowledged frames (camera, frame_id, number)."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(start)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"open\n"
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    lines = child.stdout.read().decode().split("\n")[:-1]  # a pipe may hold half a line at the end
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    return [(camera, int(frame_id), int(number)) for camera, frame_id, number in (line.split() for line in lines)]


@pytest.mark.timeout(60 + 20 * ROUNDS)
def test_nothing_acknowledged_is_lost_by_a_kill(tmp_path: Path) -> None:
    rng = random.Random(7)
    acknowledged: list[tuple[str, int, int]] = []
    start = 0
    for _ in range(ROUNDS):
        fresh = ingest_until_killed(tmp_path, start, rng.uniform(0.0, 0.25))
        assert not {f for _, f, _ in fresh} & {f for _, f, _ in acknowledged}
        acknowledged += fresh
        with both(tmp_path) as store:
            check(store, acknowledged)
            newest = store.stats("long").newest
            start = int(newest or 0)
    assert len(acknowledged) > 20 * ROUNDS


def check(store: MemoryStore, acknowledged: list[tuple[str, int, int]]) -> None:
    ids = [frame_id for _, frame_id, _ in acknowledged]
    assert ids == sorted(set(ids))
    short = [a for a in acknowledged if a[0] == "short"]
    kept = [a for a in acknowledged if a[0] == "long"] + short[-(KEPT_SHORT - 1) :]  # one may have come unacknowledged
    for camera, frame_id, number in kept:
        record = store.record(frame_id)
        assert (record.camera, record.time, record.metadata) == (camera, number, {"number": number})
        assert store.jpeg(frame_id) == jpeg(number)
    window = store.window(["long", "short"])
    assert window.num_frames + window.unencoded == store.stats("long").frames + store.stats("short").frames
    for row, frame_id in enumerate(window.frame_ids):
        number = window.metadata(row)["number"]
        assert window.jpeg(row) == jpeg(number)
        summary = features(int(frame_id))["summary"].astype(np.float16)
        np.testing.assert_array_equal(window.summaries(row, row + 1)[0], summary)
    status = store.status()
    assert (status.frames_damaged, status.vectors_damaged, status.journal_rebuilt) == (0, 0, False)
