"""A child process ingests at full speed, evicts and erases, and is killed with SIGKILL at random instants.

After each restart every acknowledged frame must be unchanged, nothing torn may be served, no id may repeat, and each
erasure must be complete or not begun. The environment variable CRASH_ROUNDS sets the number of kills (`make hardening
PARTS=kills`: 200).
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from memory.limits import Limits
from memory.store import MemoryStore
from tests.support.memories import features, open_store

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "20"))
ROOT = Path(__file__).parents[2]
KEPT_SHORT = 30

CHILD = """
import os, random, sys
from pathlib import Path
from tests.memory.test_memory_crash import CAMERAS, jpeg, opened
from tests.support.memories import features

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

with opened(Path(sys.argv[1])) as store:
    number = int(sys.argv[2])
    rng = random.Random(number)
    say("open")
    while True:
        number += 1
        for camera in CAMERAS:
            frame_id = store.append(camera, float(number), jpeg(camera, number), {"number": number})
            say("frame", camera, frame_id, number)
        for frame_id in store.pending(4):
            store.attach(frame_id, **features(frame_id))
        if number % 11 == 0:
            lower = rng.randint(max(0, number - 40), number)
            upper = lower + rng.randint(0, 15)
            say("erasing", lower, upper)
            store.erase("wiped", lower, upper)
            say("erased", lower, upper)
        if number % 50 == 0:
            store.maintain()
"""

CAMERAS = ("long", "short", "wiped")  # remembers all; evicts all the time; has stretches erased


def opened(folder: Path) -> MemoryStore:
    short = Limits(frames=KEPT_SHORT, segment_frames=7)
    return open_store(folder, segment_frames=16, frames=1_000_000, camera_limits={"short": short})


def jpeg(camera: str, number: int) -> bytes:
    return random.Random(f"{camera} {number}").randbytes(40 + number * 97 % 9000)


@dataclass
class Told:
    """What the children reported before they were killed; frames as number -> (frame_id, round)."""

    frames: dict[str, dict[int, tuple[int, int]]] = field(default_factory=lambda: defaultdict(dict))
    ids: list[int] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)  # numbers of "wiped" whose erasure was acknowledged
    unclear: set[int] = field(default_factory=set)  # whose erasure was under way when the child died

    def hear(self, line: str, turn: int) -> None:
        what, *rest = line.split()
        if what == "frame":
            camera, frame_id, number = rest[0], int(rest[1]), int(rest[2])
            self.frames[camera][number] = frame_id, turn
            self.ids.append(frame_id)
        elif what in ("erasing", "erased"):
            lower, upper = map(int, rest)
            hit = {number for number in self.frames["wiped"] if lower <= number <= upper} - self.gone
            self.unclear = hit if what == "erasing" else set()
            self.gone |= hit if what == "erased" else set()


def ingest_until_killed(folder: Path, start: int, seconds: float) -> list[str]:
    """Return the complete lines that the child wrote."""
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
    return lines


@pytest.mark.timeout(60 + 20 * ROUNDS)
def test_a_kill_loses_no_acknowledged_frame(tmp_path: Path) -> None:
    rng = random.Random(7)
    told = Told()
    start = 0
    for turn in range(ROUNDS):
        for line in ingest_until_killed(tmp_path, start, rng.uniform(0.0, 0.6)):
            told.hear(line, turn)
        assert told.ids == sorted(set(told.ids))
        with opened(tmp_path) as store:
            check_erased(store, tmp_path, told)
            check(store, told, turn)
            start = int(max(store.stats(camera).newest or 0 for camera in CAMERAS))
    assert len(told.ids) > 3 * ROUNDS
    assert ROUNDS < 10 or told.gone


def check_erased(store: MemoryStore, folder: Path, told: Told) -> None:
    """Check that an interrupted erasure is complete or has not begun, and that finished ones left not a byte."""
    held = {int(record.time) for record in store.records("wiped")}
    assert not told.gone & held
    left = told.unclear & held
    assert left in (set(), told.unclear)
    told.gone |= told.unclear - left
    told.unclear = set()
    files = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    for number in sorted(told.gone)[-60:]:
        assert jpeg("wiped", number)[:32] not in files


def check(store: MemoryStore, told: Told, turn: int) -> None:
    for camera in CAMERAS:
        for number in must_be_kept(camera, told, turn):
            frame_id = told.frames[camera][number][0]
            record = store.record(frame_id)
            assert (record.camera, record.time, record.metadata) == (camera, number, {"number": number})
            assert store.jpeg(frame_id) == jpeg(camera, number)
    window = store.window(CAMERAS)
    assert window.num_frames + window.unencoded == sum(store.stats(camera).frames for camera in CAMERAS)
    for row, frame_id in enumerate(window.frame_ids):
        camera, number = window.cameras[window.camera_index[row]], window.metadata(row)["number"]
        assert window.jpeg(row) == jpeg(camera, number)
        summary = features(int(frame_id))["summary"].astype(np.float16)
        np.testing.assert_array_equal(window.summaries(row, row + 1)[0], summary)
    status = store.status()
    assert (status.frames_damaged, status.vectors_damaged, status.journal_rebuilt) == (0, 0, False)


def must_be_kept(camera: str, told: Told, turn: int) -> list[int]:
    """Numbers of acknowledged frames that neither an erasure nor the cap may have taken.

    Each kill may have left one frame that was remembered and not acknowledged: it counts against the cap.
    """
    numbers = sorted(told.frames[camera], reverse=True)
    if camera == "short":
        frames = told.frames[camera]
        return [n for place, n in enumerate(numbers, 1) if place + turn - frames[n][1] + 1 <= KEPT_SHORT]
    return [number for number in numbers if camera != "wiped" or number not in told.gone]
