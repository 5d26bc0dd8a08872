"""Time merging, the first token and ingest with the built-in model on CPU cores, on the agent's own path.

    python -m benchmarks.answering --frames 1000 10000 --threads 1 2

A question: embed it, take a window of a real memory, select, merge, and stream until the first piece of the answer. A question
about now uses the newest frames only. benchmarks/features.py makes the history. Ingest: stored 720p JPEGs are decoded, encoded
and attached. Medians of single calls. --threads sets torch's threads; with more than one, a core that is busy with something
else slows every operation down.

Finally, whole answers of the agent to questions of every kind: time to the first piece, time to the end, frames looked at.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent.app import Agent
from agent.ask.keyframes import Selection
from agent.ask.question import Piece, Question
from agent.ask.scope import scope_of, window_of
from agent.ingest.jpeg import decode_jpeg
from agent.reading.own import own_reader
from agent.settings.settings import AnsweringSettings, Settings
from agent.times import format_clock
from benchmarks import features
from benchmarks.machine import add_out, machine, measured_path, report, show, summary_ms, timed, write_result
from memory.store import MemoryStore
from model.video_model import VideoModel

QUESTIONS = ("What did the red car do?", "How many people came by?", "When was the door open?", "Where is the dog now?")
KINDS = {  # questions about what the pictures show repeatedly
    "as it is": "When did the white dog come?",
    "about now": "What is here now?",
    "order": "Did the white dog come before or after the pink person?",
    "count": "How many times did a white dog come?",
    "count of nothing": "How many times did a pink truck come?",
}
ABOUT_NOW = ("What is here now?", "Is the door open at the moment?", "How many people are here right now?")


def _is_about_now(question: str) -> bool:
    return own_reader().read_now(question).kind == "present"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--drawn", type=int, default=200, help="pictures drawn and encoded; a history repeats them")
    parser.add_argument("--repeats", type=int, default=5)
    add_out(parser)
    args = parser.parse_args()
    here = machine(torch=torch.__version__)
    show(here)
    model = VideoModel.load(features.BUILTIN, num_threads=1)
    pictures = features.jpegs(args.drawn)
    known = features.encoded(model, pictures)
    measured: dict[str, Any] = {"questions": {}, "ingest": {}, "whole_answers": {}}
    for num_frames in args.frames:
        with (
            tempfile.TemporaryDirectory() as folder,
            features.open_store(Path(folder), model, num_frames) as store,
        ):
            features.fill(store, pictures, known, num_frames)
            for threads in args.threads:
                for name, asked in (("", QUESTIONS), (", about now", ABOUT_NOW)):
                    stages = ask(model, store, asked, threads, args.repeats)
                    measured["questions"][f"N {num_frames}, threads {threads}{name}"] = stages
            torch.set_num_threads(min(args.threads))
            answers = asyncio.run(whole_answers(model, store, Path(folder), args.repeats))
            measured["whole_answers"][f"N {num_frames}, threads {min(args.threads)}"] = answers
    for threads in args.threads:
        measured["ingest"][f"threads {threads}"] = ingest(model, pictures, threads)
    write_result(measured_path(args.out, "bench-answering.json"), here, measured)


def ask(model: VideoModel, store: MemoryStore, questions: Sequence[str], threads: int, repeats: int) -> dict[str, Any]:
    """Time every stage up to the first piece, for different questions after one warm-up."""
    torch.set_num_threads(threads)
    runs = [first_token(model, store, questions[number % len(questions)]) for number in range(repeats + 1)][1:]
    window = store.window([features.CAMERA])
    kind = "about now, " if _is_about_now(questions[0]) else ""
    print(f"first token, {kind}N {window.num_frames}, torch threads {threads}, {runs[0]['tokens']:.0f} visual tokens")
    stages = {}
    for stage in ("embed", "window", "select", "merge", "prefill", "total"):
        stages[stage] = summary_ms([run[stage] for run in runs])
        report(stage, stages[stage])
    return stages


async def whole_answers(model: VideoModel, store: MemoryStore, folder: Path, repeats: int) -> dict[str, Any]:
    """Ask each kind of question in turn; the first round is a warm-up. Closes the memory with the agent."""
    settings = Settings.model_validate({"data_dir": folder, "cameras": {features.CAMERA: {"timezone": "UTC"}}})
    found: dict[str, Any] = {}
    async with Agent(settings, store, model).running() as agent:
        for kind, text in KINDS.items():
            firsts, ends, last = [], [], ""
            for number in range(repeats + 1):
                began = time.perf_counter()
                async with agent.answering.ask(Question(text, (features.CAMERA,))) as events:
                    pieces = [
                        (time.perf_counter() - began, each.text) async for each in events if isinstance(each, Piece)
                    ]
                if number:
                    firsts.append(pieces[0][0])
                    ends.append(time.perf_counter() - began)
                last = "".join(piece for _, piece in pieces)
            found[kind] = {"first_piece": summary_ms(firsts), "whole": summary_ms(ends), "answer": last}
            print(f"{kind}: {text} -> {last[:100]}")
            for name in ("first_piece", "whole"):
                report(name, found[kind][name])
    return found


def first_token(model: VideoModel, store: MemoryStore, question: str) -> dict[str, float]:
    """Return the seconds of each stage."""
    marks = [time.perf_counter()]
    query = model.embed_text(question)
    marks.append(time.perf_counter())
    now_frames = AnsweringSettings().now_frames if _is_about_now(question) else 0
    window = window_of(store, scope_of(store, Question(question, (features.CAMERA,)), now_frames))
    marks.append(time.perf_counter())
    keyframes = Selection.of(model.info.defaults)(window, query.unit)
    marks.append(time.perf_counter())
    context = model.build_context(window, keyframes, query, group_sizes=[window.num_frames])
    marks.append(time.perf_counter())
    clocks = [format_clock(float(window.times[row]), "UTC") for row in context.keyframes.rows]
    next(iter(model.stream(question, context, timestamps=clocks, max_new_tokens=64)), None)
    marks.append(time.perf_counter())
    stages = dict(zip(("embed", "window", "select", "merge", "prefill"), np.diff(marks).tolist(), strict=True))
    return {**stages, "total": marks[-1] - marks[0], "tokens": context.num_tokens}


def ingest(model: VideoModel, pictures: list[bytes], threads: int) -> dict[str, float]:
    """Return frames per second from stored JPEG to attached features, for one worker, by batch size."""
    torch.set_num_threads(threads)
    rates = {}
    for batch in (1, 4, 8):
        with (
            tempfile.TemporaryDirectory() as folder,
            features.open_store(Path(folder), model, len(pictures)) as store,
        ):
            ids = [store.append(features.CAMERA, features.START + n, jpeg) for n, jpeg in enumerate(pictures)]
            model.encode([decode_jpeg(store.jpeg(ids[0]))])
            starts = range(0, len(ids) - batch + 1, batch)
            seconds = [timed(lambda some=ids[s : s + batch]: attach(model, store, some)) for s in starts]
        rates[f"batch {batch}"] = round(batch / float(np.median(seconds)), 1)
        rates[f"batch {batch}, whole run"] = round(batch * len(seconds) / sum(seconds), 1)
    print(f"ingest of 720p JPEGs, torch threads {threads}, frames a second: {rates}", flush=True)
    return rates


def attach(model: VideoModel, store: MemoryStore, frame_ids: list[int]) -> None:
    made = model.encode([decode_jpeg(store.jpeg(frame_id)) for frame_id in frame_ids])
    for frame_id, kept in zip(frame_ids, made, strict=True):
        store.attach(
            frame_id,
            embedding=kept.embedding,
            patches=kept.patches,
            scalars=kept.scalars,
            summary=kept.summary,
        )


if __name__ == "__main__":
    main()
