"""Times of the memory alone: append, attach, window, ranking, reading, restart, at several sizes.

    python -m benchmarks.memory --frames 1000 10000

One camera, random pictures of a given size, embeddings of a static camera (mostly alike: the worst case for ranking).
Every figure is of one process on the machine that is printed; medians of single calls, the worst beside them. The
page cache is warm: this measures the code and the file system, not the disk behind it.
"""

import argparse
import os
import platform
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import cpu_name, timed
from memory.limits import Limits
from memory.store import MemoryStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--dim", type=int, default=512, help="relevance width D")
    parser.add_argument("--patches", type=int, default=64, help="patches per frame M")
    parser.add_argument("--width", type=int, default=32, help="patch width C")
    parser.add_argument("--jpeg-bytes", type=int, default=20_000)
    parser.add_argument("--segment-frames", type=int, default=256)
    parser.add_argument("--synchronous", choices=["normal", "full"], default="normal")
    parser.add_argument("--folder", type=Path, help="where to make the temporary data folder (default: the system's)")
    args = parser.parse_args()
    print(f"{cpu_name()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}")
    print(f"D {args.dim}, M {args.patches}, C {args.width}, JPEG {args.jpeg_bytes} B, synchronous {args.synchronous}")
    for num_frames in args.frames:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            measure(Path(folder), num_frames, args)


def measure(folder: Path, num_frames: int, args: argparse.Namespace) -> None:
    print(f"\nN = {num_frames}")
    with open_store(folder, num_frames, args) as store:
        fill(store, num_frames, args)
        overflow(store, num_frames, args)
        ask(store)
        on_disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"  on disk {on_disk / num_frames:10.0f} B a frame")
    started = time.perf_counter()
    with open_store(folder, num_frames, args) as store:
        print(f"  restart {1e3 * (time.perf_counter() - started):10.1f} ms for {store.stats('a').frames} frames")
    print(f"  peak resident memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def open_store(folder: Path, num_frames: int, args: argparse.Namespace) -> MemoryStore:
    return MemoryStore(
        folder,
        embedding_dim=args.dim,
        limits=Limits(frames=num_frames, hot_frames=num_frames, segment_frames=args.segment_frames),
        patch_shape=(args.patches, args.width),
        synchronous=args.synchronous,
    )


def fill(store: MemoryStore, num_frames: int, args: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    scene = rng.normal(size=args.dim)
    jpeg = rng.bytes(args.jpeg_bytes)
    appends, attaches = [], []
    for number in range(num_frames):
        embedding = (scene + 0.1 * rng.normal(size=args.dim)).astype(np.float32)
        patches = rng.integers(0, 9, (args.patches, args.width)).astype(np.float16)
        scalars = np.ones((args.patches, 3), np.float32)
        appends.append(timed(lambda now=number: store.append("a", float(now), jpeg, {"pose": [now, 1.0]})))
        attaches.append(
            timed(
                lambda frame_id=number + 1, e=embedding, p=patches, s=scalars: store.attach(
                    frame_id, embedding=e, patches=p, scalars=s, summary=np.zeros(args.width, np.float32)
                )
            )
        )
        if number % 500 == 499:
            store.maintain()
    report("append", appends)
    report("attach", attaches)


def overflow(store: MemoryStore, num_frames: int, args: argparse.Namespace) -> None:
    """Appends beyond the cap: each segment's worth of them evicts one."""
    jpeg = np.random.default_rng(1).bytes(args.jpeg_bytes)
    times = [timed(lambda now=now: store.append("a", float(now), jpeg)) for now in range(num_frames, num_frames + 600)]
    report("append, evicting", times)


def ask(store: MemoryStore) -> None:
    windows = [timed(lambda: store.window(["a"])) for _ in range(20)]
    report("window", windows)
    first, full = [], []
    for seed in range(20):
        window = store.window(["a"])
        query = np.random.default_rng(seed).normal(size=window.background().shape[1]).astype(np.float32)
        query /= np.linalg.norm(query)
        first.append(timed(lambda w=window, q=query: w.top(q, 32)))
        full.append(timed(lambda w=window, q=query: w.top(q, w.num_frames)))
    report("top 32", first)
    report("top N", full)
    window = store.window(["a"])
    report("read all, by span", [timed(lambda: [window.read(*span) for span in window.spans()]) for _ in range(5)])
    report("jpeg", [timed(lambda row=row: window.jpeg(row)) for row in range(0, window.num_frames, 7)])


def report(name: str, seconds: list[float]) -> None:
    print(f"  {name:18} {1e3 * float(np.median(seconds)):9.3f} ms, worst {1e3 * max(seconds):9.3f} ms")


if __name__ == "__main__":
    main()
