"""Compare four contributions of archive frames (frames without patches) to answers of the built-in model.

    python -m benchmarks.archive --frames 600 --hot 60 --most 128 --worlds 6

Drawn worlds of the evaluation split. All but the newest `--hot` frames have lost their patches; keyframes among them are
encoded again. "all": every such frame contributes its summary. "sample": at most `--most` of them do, evenly spread. "mean":
as many do, each with the mean summary up to the next one. "none": only keyframes contribute. All four get the same questions.
"""

import argparse
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from agent.ask.keyframes import Selection
from agent.evaluation.arms import ANSWER_TOKENS, Asker
from agent.evaluation.clips import Clip, features_of, world_clip
from benchmarks.machine import add_out, machine, measured_path, show, write_result
from model import video_model
from model.thinning import Thinned, rows_taking_part
from model.video_model import VideoModel
from model.world.questions import is_correct

LONG = 3000  # frames; from this length on, questions are drawn three times, in different words


class Everything(Thinned):
    """A thinning that keeps every frame that has only a summary."""

    def present(self) -> np.ndarray:
        """Return (T,) booleans, all true: `read` is asked for the rest later."""
        return np.ones(self.num_frames, bool)


class Means(Thinned):
    """A thinning in which each kept frame has the mean summary of all frames up to the next kept one."""

    def summaries(self, start: int, stop: int) -> np.ndarray:
        """Return (n, C') float32."""
        edges = [*self.rows.tolist(), self._source.num_frames]
        stretches = (self._source.summaries(edges[n], edges[n + 1]) for n in range(start, stop))
        return np.stack([stretch.mean(axis=0) for stretch in stretches])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--hot", type=int, default=60)
    parser.add_argument("--most", type=int, default=128)
    parser.add_argument("--worlds", type=int, default=6)
    parser.add_argument("--questions", type=int, default=15, help="of each world, at most")
    parser.add_argument("--cache", type=Path, help="folder for features, to be read again another time")
    add_out(parser)
    args = parser.parse_args()
    show(here := machine())
    ways: dict[str, tuple[int, type[Thinned]]] = {
        "all": (args.frames, Everything),
        "sample": (args.most, Thinned),
        "mean": (args.most, Means),
        "none": (0, Thinned),
    }
    model = VideoModel.load(Path(video_model.__file__).parent / "builtin", num_threads=1)
    right: dict[str, list[bool]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for clip in clips(args):
        asker = Asker(model, features_of(model, clip, args.cache), clip.times)
        asker.window.history.forget(range(len(clip.times) - args.hot))
        for question in clip.questions[: args.questions]:
            for name, (most, kind) in ways.items():
                answer, took = ask(asker, question.text, most, kind)
                right[name].append(is_correct(question, answer))
                seconds[name].append(took)
        print(clip.name, {name: f"{np.mean(each):.1%}" for name, each in right.items()}, flush=True)
    measured = {name: summary(right[name], right["all"], seconds[name]) for name in ways}
    sizes = {name: getattr(args, name) for name in ("frames", "hot", "most", "worlds")}
    write_result(measured_path(args.out, f"bench-archive-{args.frames}.json"), here, {**sizes, **measured})


def clips(args: argparse.Namespace) -> Iterator[Clip]:
    """Return worlds of the seeds that `vilamp eval` uses, one per seed in turn."""
    for number in range(args.worlds):
        scene_seed = (11 + number % 3) * 1009 + number // 3
        yield world_clip(scene_seed, args.frames, rounds=3 if args.frames >= LONG else 1)


def ask(asker: Asker, text: str, most: int, kind: type[Thinned]) -> tuple[str, float]:
    """Return the answer and the CPU seconds of its context. `kind` Thinned is what `VideoModel` does."""
    model, window = asker.model, asker.window
    query = model.embed_text(text)
    keyframes = Selection.of(model.info.defaults)(window, query.unit)
    present = window.present()
    fresh = {int(row): window.features[int(row)] for row in keyframes.rows if not present[row]}
    began = time.thread_time()
    thinned = kind(window, rows_taking_part(present, keyframes.rows, most_summaries=most))
    places = thinned.places(keyframes.rows)
    overrides = {int(thinned.places(np.array(row))): frame for row, frame in fresh.items()}
    context = model.build_context(thinned, type(keyframes)(places, keyframes.kinds, keyframes.scores), query,
                                  overrides=overrides)  # fmt: skip
    took = time.thread_time() - began
    clocks = window.times[thinned.rows[context.keyframes.rows]]
    stamps = [datetime.fromtimestamp(t, UTC).strftime("%H:%M:%S") for t in clocks]
    pieces = model.stream(
        text, context, timestamps=stamps if model.info.defaults.timestamps else None, max_new_tokens=ANSWER_TOKENS
    )
    return "".join(pieces).strip(), took


def summary(right: list[bool], of_all: list[bool], seconds: list[float]) -> dict[str, Any]:
    """Return the share of right answers, the number that differ from "all", and the CPU time of a context."""
    return {
        "right": round(float(np.mean(right)), 3),
        "questions": len(right),
        "differ_from_all": int(np.sum(np.array(right) != np.array(of_all))),
        "context_cpu_ms": round(1000 * float(np.median(seconds)), 1),
    }


if __name__ == "__main__":
    main()
