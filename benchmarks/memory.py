"""Time the memory alone at several sizes: start, append, attach, evict, window, ranking, selection, reading for an answer.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python -m benchmarks.memory --frames 1000 10000 100000 1000000

One camera whose frames are all alike, the worst case for selection. Pictures are tiny; embeddings, summaries and patches have
the given sizes. `stored_history.py` writes the histories, so no frame has patches, as after a restart. Each size runs in a
process of its own.

Times are of single calls, by the clock and of this thread's CPU: on a shared machine the second is the cost of the work. The
page cache is warm: this measures the code and the file system, not the disk.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.machine import add_out, machine, measured_path, picture_path, show, write_result
from benchmarks.stored_history import CAMERA, SEGMENT_FRAMES, Shape, embeddings, write_history
from memory.files import segment_paths
from memory.limits import Limits
from memory.store import MemoryStore
from model.scoring import score_frames
from model.select import QueryCandidates, select_keyframes
from model.select_visits import select_by_visits
from model.thinning import Thinned, rows_taking_part

NUM_KEYFRAMES = 32
EXTRA = 3000  # frames appended to a full history, which evicts a dozen segments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=512, help="relevance width D")
    parser.add_argument("--patches", type=int, default=64, help="patches per frame M")
    parser.add_argument("--width", type=int, default=256, help="patch width C")
    parser.add_argument("--jpeg-bytes", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where to make the temporary data folders (default: the system's)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    add_out(parser)
    args = parser.parse_args()
    if args.one:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            print(json.dumps(measure(Path(folder), args.frames[0], args)))
        return
    here = machine(blas_threads=os.environ.get("OPENBLAS_NUM_THREADS", "all"))
    show(here)
    sizes = {"dim": args.dim, "patches": args.patches, "width": args.width, "jpeg_bytes": args.jpeg_bytes}
    by_frames = {str(num_frames): in_own_process(num_frames) for num_frames in args.frames}
    write_result(measured_path(args.out, "bench-memory.json"), here, {"sizes": sizes, "by_frames": by_frames})
    plot(by_frames, picture_path(args.out, "memory-growth.png"))


def in_own_process(num_frames: int) -> dict[str, Any]:
    """Run `--one` in a process of its own and show its output. Returns what it measured."""
    print(f"\nN = {num_frames}", flush=True)
    given = sys.argv[1:]
    command = [sys.executable, "-m", "benchmarks.memory", *given, "--one", "--frames", str(num_frames)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    for name, value in measured.items():
        print(f"  {name:24} {value}", flush=True)
    return measured


def measure(folder: Path, num_frames: int, args: argparse.Namespace) -> dict[str, Any]:
    shape = Shape(num_frames, args.dim, args.width, args.jpeg_bytes)
    written = clock(lambda: write_history(folder, shape))
    on_disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    worked = time.process_time()
    with open_store(folder, num_frames + EXTRA, args) as store:
        opened_s, opened_cpu_s = time.perf_counter() - started, time.process_time() - worked
        resident = psutil.Process().memory_info().rss - before
        asked = ask(store, args.dim)
        appended = grow(store, shape, args, EXTRA, start=num_frames + 1, folder=folder)
    with open_store(folder, num_frames + EXTRA, args) as store:
        evicted = grow(store, shape, args, EXTRA, start=num_frames + EXTRA + 1, folder=folder)
        if store.stats(CAMERA).frames != num_frames + EXTRA:
            raise RuntimeError(f"{store.stats(CAMERA).frames} frames are held, not {num_frames + EXTRA}")
    return {
        "write_s": written["median_ms"] / 1000,
        "start_s": round(opened_s, 3),
        "start_cpu_s": round(opened_cpu_s, 3),
        "disk_bytes_per_frame": round(on_disk / num_frames),
        "resident_bytes_per_frame": round(resident / num_frames),
        "resident_mib": round(resident / 2**20),
        **asked,
        **appended,
        **{f"evicting_{name}": value for name, value in evicted.items()},
    }


def open_store(folder: Path, num_frames: int, args: argparse.Namespace) -> MemoryStore:
    limits = Limits(frames=num_frames, bytes=2**40)
    return MemoryStore(folder, embedding_dim=args.dim, limits=limits, patch_shape=(args.patches, args.width))


def grow(
    store: MemoryStore, shape: Shape, args: argparse.Namespace, count: int, start: int, folder: Path
) -> dict[str, Any]:
    """Append, attach and put back patches, one frame after another. Returns the time of each."""
    oldest = 1  # segment; its file shows whether it was evicted, without asking the memory
    rng = np.random.default_rng(start)
    units, jpeg = embeddings(shape, rng, count), rng.bytes(shape.jpeg_bytes)
    patches = rng.standard_normal((args.patches, args.width), np.float32).astype(np.float16)
    scalars, summary = np.ones((args.patches, 3), np.float32), np.ones(args.width, np.float32)
    appends, attaches, rebuilds, appends_cpu, evicting, evicting_cpu = [], [], [], [], [], []
    for number in range(count):
        worked, began = time.thread_time(), time.perf_counter()
        frame_id = store.append(CAMERA, float(start + number), jpeg)
        remembered, cpu = time.perf_counter(), time.thread_time() - worked
        appends_cpu.append(cpu)
        if not segment_paths(folder / "segments" / CAMERA, oldest)[0].exists():
            oldest += SEGMENT_FRAMES
            evicting.append(remembered - began)
            evicting_cpu.append(cpu)
        restarted = time.perf_counter()
        store.attach(frame_id, embedding=units[number], summary=summary)
        attached = time.perf_counter()
        store.attach(frame_id, embedding=units[number], summary=summary, patches=patches, scalars=scalars)
        rebuilt = time.perf_counter()
        for times, seconds in zip(
            (appends, attaches, rebuilds), (remembered - began, attached - restarted, rebuilt - attached), strict=True
        ):
            times.append(seconds)
        if number % 500 == 499:
            store.maintain()
    found = {"append": in_ms(appends), "attach": in_ms(attaches), "rebuild": in_ms(rebuilds)}
    found["append"]["cpu_ms"] = in_ms(appends_cpu)["median_ms"]
    if evicting:  # only appends that evicted a segment
        found["segment"] = {**in_ms(evicting), "worst_cpu_ms": in_ms(evicting_cpu)["worst_ms"], "count": len(evicting)}
    return found


def ask(store: MemoryStore, dim: int) -> dict[str, Any]:
    """Time the steps of a question. Each repeat has its own window and question."""
    rng = np.random.default_rng(0)

    def question() -> Any:
        unit = rng.standard_normal(dim, np.float32)
        return store.window([CAMERA]), (unit / np.linalg.norm(unit)).astype(np.float32)

    def select(relative: bool) -> None:
        window, unit = question()
        select_keyframes(
            QueryCandidates(window, unit),
            num_keyframes=NUM_KEYFRAMES,
            background=window.background() if relative else None,
            background_floor=0.1,
        )

    def by_visits() -> None:
        window, unit = question()
        select_by_visits(
            QueryCandidates(window, unit), score_frames(window, unit), window.times, num_keyframes=NUM_KEYFRAMES,
            background=window.background(),
        )  # fmt: skip

    def top(k: int) -> None:
        window, unit = question()
        window.top(unit, k)

    return {
        "window": clock(lambda: store.window([CAMERA]), 9),
        "first_ranking": clock(lambda: top(128), 9),
        "full_ranking": clock(lambda: top(store.stats(CAMERA).frames), 3),
        "scores": clock(lambda: score_frames(*question()), 9),
        "select_visits": clock(by_visits, 5),
        "select_raw": clock(lambda: select(False), 5),
        "select_background": clock(lambda: select(True), 5),
        "context_reading": clock(lambda: read_context(store), 5),
    }


def read_context(store: MemoryStore) -> None:
    """Read everything that an answer needs of frames without patches (see `model.thinning`)."""
    window = store.window([CAMERA])
    thinned = Thinned(window, rows_taking_part(window.present(), np.zeros(0, np.int64)))
    thinned.summaries(0, thinned.num_frames)
    thinned.embeddings(np.arange(thinned.num_frames))


def clock(call: Callable[[], Any], repeats: int = 1) -> dict[str, float]:
    """Return median, best and worst time by the clock, and the median of this thread's CPU time."""
    wall, cpu = [], []
    for _ in range(repeats):
        began, worked = time.perf_counter(), time.thread_time()
        call()
        wall.append(time.perf_counter() - began)
        cpu.append(time.thread_time() - worked)
    return {**in_ms(wall), "best_ms": round(1000 * min(wall), 3), "cpu_ms": round(1000 * float(np.median(cpu)), 3)}


def in_ms(seconds: list[float]) -> dict[str, float]:
    values = 1000 * np.array(seconds)
    found = {"median": np.median(values), "p99": np.quantile(values, 0.99), "worst": values.max()}
    return {f"{name}_ms": round(float(value), 3) for name, value in found.items()}


def plot(by_frames: dict[str, dict[str, Any]], path: Path) -> None:
    """Plot the time of each step against the frames held, both axes logarithmic."""
    from matplotlib.figure import Figure

    frames = [int(number) for number in by_frames]
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    shown = {
        "append": "append", "rebuild": "patches of a frame back",
        "window": "window", "first_ranking": "first ranking",
        "select_raw": "selection, static camera", "select_visits": "selection by visits",
        "context_reading": "reading for a context",
    }  # fmt: skip
    for name, label in shown.items():
        key = "cpu_ms" if "cpu_ms" in by_frames[str(frames[0])][name] else "median_ms"
        axes.plot(frames, [each[name][key] for each in by_frames.values()], "o-", label=label)
    axes.plot(frames, [1000 * each["start_cpu_s"] for each in by_frames.values()], "o--", color="grey", label="start")
    axes.set(xscale="log", yscale="log", xlabel="frames held", ylabel="milliseconds of CPU")
    axes.set_title("The memory, by frames held")
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=120)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
