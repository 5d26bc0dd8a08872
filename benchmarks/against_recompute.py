"""Compare two ways to answer one question with the same weights: from memory, and by encoding every frame.

    python -m benchmarks.against_recompute --frames 100 300 600

From memory: embed the question, take a window of a real memory, select, merge. Recomputed, as the published code does for
each question: resize and encode all frames with both towers, then select and merge in the same way.
Decoding the frames is timed separately and *not* counted. Both stop before the language model. The two
alternate in one process; medians. Writes recompute.png.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent.ingest.jpeg import decode_jpeg
from benchmarks import features
from benchmarks.answering import QUESTIONS, select
from benchmarks.machine import add_out, machine, measured_path, picture_path, show, summary_ms, write_result
from memory.store import MemoryStore
from model.features import FrameFeatures, VisualContext
from model.history import ArrayHistory
from model.select import ArrayCandidates, select_keyframes
from model.video_model import VideoModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[100, 300, 600])
    parser.add_argument("--threads", type=int, default=1, help="torch's")
    parser.add_argument("--repeats", type=int, default=3)
    add_out(parser)
    args = parser.parse_args()
    here = machine(torch=torch.__version__, threads=args.threads)
    show(here)
    model = VideoModel.load(features.BUILTIN, num_threads=args.threads)
    pictures = features.jpegs(max(args.frames))
    known = features.encoded(model, pictures)
    measured: dict[str, Any] = {}
    for num_frames in args.frames:
        with (
            tempfile.TemporaryDirectory() as folder,
            features.open_store(Path(folder), model, num_frames) as store,
        ):
            features.fill(store, pictures, known, num_frames)
            measured[str(num_frames)] = compare(model, store, pictures[:num_frames], args.repeats)
    write_result(measured_path(args.out, "bench-recompute.json"), here, measured)
    plot(measured, picture_path(args.out, "recompute.png"))


def compare(model: VideoModel, store: MemoryStore, pictures: list[bytes], repeats: int) -> dict[str, Any]:
    """Time both ways in turn, once per question. The first run from memory is a warm-up."""
    remembered(model, store, QUESTIONS[0])
    ours, theirs, decoding = [], [], []
    for number in range(repeats):
        question = QUESTIONS[number % len(QUESTIONS)]
        started = time.perf_counter()
        kept = remembered(model, store, question)
        ours.append(time.perf_counter() - started)
        seconds, decode_s, made = recomputed(model, pictures, question)
        theirs.append(seconds)
        decoding.append(decode_s)
        if kept.keyframes.rows.size != made.keyframes.rows.size:
            raise RuntimeError("the two ways do not choose equally many keyframes")
    ratio = float(np.median(theirs) / np.median(ours))
    print(
        f"N {len(pictures):5}: remembered {np.median(ours):.3f} s, recomputed {np.median(theirs):.2f} s "
        f"(and {np.median(decoding):.2f} s decoding, not counted): {ratio:.0f} times",
        flush=True,
    )
    return {
        "remembered": summary_ms(ours),
        "recomputed": summary_ms(theirs),
        "decoding_not_counted": summary_ms(decoding),
        "ratio": round(ratio, 1),
    }


def remembered(model: VideoModel, store: MemoryStore, question: str) -> VisualContext:
    """Time the question from memory, as the agent does."""
    query = model.embed_text(question)
    window = store.window([features.CAMERA])
    return model.build_context(window, select(model, window, query), query, group_sizes=[window.num_frames])


def recomputed(model: VideoModel, pictures: list[bytes], question: str) -> tuple[float, float, VisualContext]:
    """Compute everything from the frames. Returns seconds, seconds of decoding (not included), and the context."""
    started, decode_s = time.perf_counter(), 0.0
    made: list[FrameFeatures] = []
    for start in range(0, len(pictures), features.BATCH):
        decoding = time.perf_counter()
        images = [decode_jpeg(picture) for picture in pictures[start : start + features.BATCH]]
        decode_s += time.perf_counter() - decoding
        made += model.encode(images)
    history = ArrayHistory(made)
    query = model.embed_text(question)
    unit, defaults = history.unit_embeddings(), model.info.defaults
    keyframes = select_keyframes(
        ArrayCandidates(unit, query.unit),
        num_keyframes=defaults.num_keyframes,
        tau=defaults.tau,
        floor=defaults.floor,
        recent=defaults.recent,
        fill=defaults.fill,
        background=unit.mean(axis=0, keepdims=True) if defaults.redundancy == "background" else None,
        background_floor=defaults.background_floor,
    )
    context = model.build_context(history, keyframes, query, group_sizes=[history.num_frames])
    return time.perf_counter() - started - decode_s, decode_s, context


def plot(measured: dict[str, Any], path: Path) -> None:
    """Plot both ways over N, on a logarithmic axis."""
    from matplotlib.figure import Figure

    frames = [int(number) for number in measured]
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    for way, label in (("recomputed", "encode every frame when asked"), ("remembered", "from memory")):
        axes.plot(frames, [each[way]["median_ms"] / 1000 for each in measured.values()], "o-", label=label)
    for number, each in zip(frames, measured.values(), strict=True):
        middle = (each["remembered"]["median_ms"] * each["recomputed"]["median_ms"]) ** 0.5 / 1000
        axes.annotate(f"{each['ratio']:.0f}x", (number, middle), ha="center")
    axes.set(
        yscale="log",
        xlabel="frames in the window",
        ylabel="seconds before the language model",
        xlim=(0, None),
        ylim=(0.01, 200),
    )
    axes.set_title("One question, built-in model, the same weights")
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=120)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
