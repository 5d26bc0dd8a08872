"""Time selection alone in its worst case: a static camera, where all frames are alike and all must be compared.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python -m benchmarks.selection

Embeddings are random and mostly alike, in a real memory window; the time is that of ranking and choosing, as in the agent.
Each repeat has a new question and a new window. "raw" compares frames as published; "background" compares what changed, as
the built-in model does, with changes below its floor. "31 scenes" is worse than one: 31 keyframes are found, and the search
for another compares every frame with all of them.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import add_out, machine, measured_path, report, show, summary_ms, timed, write_result
from memory.limits import Limits
from memory.store import MemoryStore
from model.select import QueryCandidates, select_keyframes

# (noise beside scenes of length one, number of scenes, compared relative to the background)
CASES = {
    "raw": (0.1, 1, False),
    "raw, 31 scenes": (0.1, 31, False),
    "background": (0.01, 1, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=15)
    add_out(parser)
    args = parser.parse_args()
    here = machine(blas_threads=os.environ.get("OPENBLAS_NUM_THREADS", "all"))
    show(here)
    print(f"selection alone, static camera, N {args.frames}, D {args.dim}, 32 keyframes")
    measured: dict[str, Any] = {"frames": args.frames, "dim": args.dim}
    for case in CASES:
        measured[case] = measure(case, args.frames, args.dim, args.repeats)
        report(f"{case} (CPU {measured[case]['median_cpu_ms']:.1f} ms)", measured[case])
    write_result(measured_path(args.out, "bench-selection.json"), here, measured)


def measure(case: str, num_frames: int, dim: int, repeats: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    noise, num_scenes, relative = CASES[case]
    with (
        tempfile.TemporaryDirectory() as folder,
        MemoryStore(Path(folder), embedding_dim=dim, limits=Limits(frames=num_frames), patch_shape=(1, 1)) as store,
    ):
        fill(store, num_frames, rng.normal(size=(num_scenes, dim)) / dim**0.5, noise, rng)
        times = [choose(store, rng.normal(size=dim), relative) for _ in range(repeats)]
    wall, cpu = zip(*times, strict=True)
    return summary_ms(list(wall)) | {"median_cpu_ms": round(1000 * float(np.median(cpu)), 2)}


def fill(store: MemoryStore, num_frames: int, scenes: np.ndarray, noise: float, rng: np.random.Generator) -> None:
    """Fill a memory from scenes (S, D): frame n shows scene n mod S."""
    dim = scenes.shape[1]
    one = {"patches": np.ones((1, 1), np.float16), "scalars": np.ones((1, 3), np.float32), "summary": np.ones(1, "f4")}
    for number in range(num_frames):
        frame_id = store.append("static", float(number), b"no picture is read")
        embedding = (scenes[number % len(scenes)] + noise * rng.normal(size=dim) / dim**0.5).astype(np.float32)
        store.attach(frame_id, embedding=embedding, **one)


def choose(store: MemoryStore, question: np.ndarray, relative: bool) -> tuple[float, float]:
    """Return seconds by the clock and of this thread's CPU. On a shared machine the second is the cost of the work."""
    window = store.window(["static"])
    unit = (question / np.linalg.norm(question)).astype(np.float32)
    background = window.background() if relative else None
    cpu = time.thread_time()
    wall = timed(
        lambda: select_keyframes(
            QueryCandidates(window, unit), num_keyframes=32, tau=0.85, background=background, background_floor=0.1
        )
    )
    return wall, time.thread_time() - cpu


if __name__ == "__main__":
    main()
