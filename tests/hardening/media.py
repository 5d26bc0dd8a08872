"""Fuzz the reading of video and picture files: a mutated file gives frames or an error message, nothing else.

Files are small ones of many kinds, with bytes changed, cut out, doubled, moved or taken from another file. They are read in
child processes, so that a crash of FFmpeg is counted like any other failure. A failure names the input's index: the same
seed and index give the same bytes. Memory is measured after the first batch of each child, which fills all caches.
"""

import ctypes
import io
import itertools
import math
import multiprocessing
import os
import random
import resource
import signal
import tempfile
import time
from collections import Counter
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import psutil
from PIL import Image

from streaming.decoder import Input, length_s
from streaming.errors import MediaError
from streaming.picture import to_rgb
from tests.hardening.command import Counts, main
from tests.support.clips import encoded, write_raw, write_timed
from tests.support.streams import picture

SIZE = (64, 48)
TENTH = Fraction(1, 10)
MAX_FRAMES = 40  # frames read per file; a mutated file may announce millions
MAX_S = 30  # seconds per file, on a busy machine
WARM_UP = 300  # inputs of a child process before its memory is measured
BATCH = 2500  # inputs per child process
MAX_GROWTH_MB = 64


def make_seeds(folder: Path) -> list[tuple[str, bytes]]:
    """Make small files of every format: (suffix, bytes)."""
    seconds = [index / 10 for index in range(12)]
    for name, codec, b_frames in (
        ("a.mp4", "libx264", 2), ("b.mp4", "libx265", 0), ("c.mkv", "libx264", 0), ("d.avi", "mpeg4", 0),
        ("e.avi", "libx264", 2), ("f.ts", "libx264", 0), ("g.webm", "libvpx", 0), ("h.flv", "libx264", 0),
        ("i.mpg", "mpeg2video", 1), ("j.mov", "libx264", 0), ("k.avi", "ffv1", 0), ("l.mkv", "libvpx-vp9", 0),
    ):  # fmt: skip
        write_timed(folder / name, seconds, codec=codec, b_frames=b_frames, size=SIZE, rate_hz=10, time_base=TENTH)
    write_timed(folder / "turned.mp4", seconds, size=SIZE, prepare=lambda stream: stream.set_display_rotation(90))
    images = [picture(index, *SIZE) for index in range(12)]
    write_raw(folder / "m.h264", encoded(images, rate_hz=10, b_frames=2))
    write_raw(folder / "n.h264", encoded(images, rate_hz=10, filters="h264_metadata=matrix_coefficients=8"))
    stills = [Image.fromarray(image) for image in images]
    exif = Image.Exif()
    exif[0x0112] = 5
    stills[0].save(folder / "o.jpg", exif=exif)
    stills[0].save(folder / "p.gif", save_all=True, append_images=stills[1:], duration=100)
    for suffix in ("png", "webp", "bmp", "tiff"):
        stills[0].save(folder / f"q.{suffix}")
    buffer = io.BytesIO()
    for still in stills:
        still.save(buffer, "JPEG")
    (folder / "r.mjpeg").write_bytes(buffer.getvalue())
    return [(path.suffix, path.read_bytes()) for path in sorted(folder.iterdir())]


def mutated(seeds: list[tuple[str, bytes]], seed: int, index: int) -> tuple[str, bytes]:
    """Return the suffix and bytes of the input `index`."""
    rng = random.Random(f"{seed}/{index}")
    suffix, original = seeds[index % len(seeds)]
    data = bytearray(original)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if data:
            _mutate(data, rng, rng.choice(seeds)[1])
    return suffix, bytes(data)


def _mutate(data: bytearray, rng: random.Random, other: bytes) -> None:
    # half of the changes go into the header, which holds sizes, counts and times
    place = rng.randrange(min(len(data), 1024) if rng.random() < 0.5 else len(data))
    length = rng.choice((1, 2, 4, 8, 64, 1024))
    match rng.randrange(8):
        case 0:
            data[place] ^= 1 << rng.randrange(8)
        case 1:
            data[place : place + length] = rng.randbytes(length)
        case 2:  # a number: 0, the largest unsigned, the largest signed, a small one
            width = rng.choice((2, 4, 8))
            value = rng.choice((0, 2 ** (8 * width) - 1, 2 ** (8 * width - 1) - 1, 1, rng.randrange(256)))
            data[place : place + width] = value.to_bytes(width, rng.choice(("big", "little")))
        case 3:
            del data[place : place + length]
        case 4:
            data[place:place] = data[place : place + length]
        case 5:
            del data[place:]
        case 6:
            start = rng.randrange(len(other))
            data[place : place + length] = other[start : start + length]
        case _:
            start = rng.randrange(len(data))
            data[place:place] = data[start : start + length]


def read(path: Path) -> str:
    """Read a file as a replay does. Returns "frames" or the name of the expected error; raises any other."""
    try:
        length_s(str(path))
        medium = Input(str(path), live=False)
        try:
            last_s = -math.inf
            for decoded in itertools.islice(medium.frames(), MAX_FRAMES):
                assert decoded.media_s is not None
                assert last_s < decoded.media_s < math.inf
                last_s = decoded.media_s
                image = to_rgb(decoded.frame, 320, 320, decoded.pixel_aspect)
                assert image.ndim == 3
                assert image.dtype == "uint8"
                assert 1 <= min(image.shape) <= max(image.shape) <= 320
        finally:
            medium.close()
    except MediaError as error:
        return type(error).__name__ if str(error) else "without words"
    return "frames"


def _give_memory_back() -> None:
    """Make glibc return freed memory at once, so that growth shows memory still in use."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((-3, 1 << 16), (-1, 1 << 17), (-8, 1)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX
            mallopt(option, value)


def _child(seeds: list[tuple[str, bytes]], seed: int, indices: range, folder: str, pipe: Connection) -> None:
    """Read the inputs with these indices; report each as (index, outcome, failure, resident MB)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # FFmpeg's messages on stderr
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _give_memory_back()
    process = psutil.Process()
    for index in indices:
        pipe.send((index, "begun", "", 0.0))
        suffix, data = mutated(seeds, seed, index)
        path = Path(folder) / f"input{suffix}"
        path.write_bytes(data)
        outcome, failed = "failed", ""
        try:
            outcome = read(path)
        except BaseException as error:  # noqa: BLE001 - any other exception is a finding
            failed = f"{type(error).__name__}: {error}"[:300]
        pipe.send((index, outcome, failed, process.memory_info().rss / 2**20))
    pipe.close()


class _Tally:
    """The outcome of all inputs."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []
        self.growths_mb: list[float] = []
        self.peak_mb = 0.0
        self.slowest_s = 0.0

    def run_child(self, seeds: list[tuple[str, bytes]], seed: int, indices: range) -> int:
        """Run one child process until it ends or an input kills it. Returns the next index."""
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe(duplex=False)
        with tempfile.TemporaryDirectory() as folder:
            child = spawn.Process(target=_child, args=(seeds, seed, indices, folder, theirs), daemon=True)
            child.start()
            theirs.close()
            try:
                return self._follow(ours, indices)
            finally:
                child.kill()
                child.join()
                ours.close()

    def _follow(self, pipe: Connection, indices: range) -> int:
        index, outcome, began, sizes_mb = indices.start, "begun", time.monotonic(), []
        while True:
            if not pipe.poll(MAX_S * 4 if index == indices.start else MAX_S):
                self.failures.append(f"input {index}: not read within {MAX_S} s")
                return index + 1
            try:
                index, outcome, failed, resident_mb = pipe.recv()
            except EOFError:
                if index != indices[-1] or outcome == "begun":
                    self.failures.append(
                        f"input {index}: ended the process ({signal.Signals.SIGSEGV.name} or the like)"
                    )
                    return int(index) + 1
                break
            if outcome == "begun":
                began = time.monotonic()
                continue
            self.outcomes[outcome] += 1
            if failed:
                self.failures.append(f"input {index}: {failed}")
            sizes_mb.append(resident_mb)
            self.peak_mb = max(self.peak_mb, resident_mb)
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        if len(sizes_mb) > 2 * WARM_UP:
            # medians, because a single file may briefly need memory for a picture of 64 million pixels
            self.growths_mb.append(median(sizes_mb[-100:]) - median(sizes_mb[WARM_UP : WARM_UP + 100]))
        return indices.stop


def fuzz(count: int, seed: int) -> Counts:
    """Read `count` mutated files."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = make_seeds(Path(folder))
    tally, index = _Tally(), 0
    while index < count:
        index = tally.run_child(seeds, seed, range(index, min(index + BATCH, count)))
    growth_mb = max(tally.growths_mb, default=0.0)
    if growth_mb > MAX_GROWTH_MB:
        tally.failures.append(f"memory grew by {growth_mb:.0f} MB in one child")
    return {
        "inputs": count,
        "outcomes": dict(tally.outcomes),
        "growth_mb": round(growth_mb, 1),
        "peak_mb": round(tally.peak_mb),
        "slowest_s": round(tally.slowest_s, 2),
        "failures": tally.failures[:50] + ["an error without words"] * tally.outcomes["without words"],
    }


if __name__ == "__main__":
    main(fuzz, count=50_000, about="Mutated video files, read as a replay reads them.")
