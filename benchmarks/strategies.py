"""Ask a server by strategies and in one shot of eight pictures, and compare how often the answers are right.

    python -m benchmarks.strategies [--frames 600] [--worlds 4]

Drawn worlds of the evaluation split are stored by a running agent, whose answers come over HTTP from a server with true
eyes (`tests.support.eyes`): the built-in model looks at each picture of a request and a script puts it into words, so
both ways have the same eyes. One shot: the product chooses eight pictures and asks once. By strategies: the product does
what the kind of the question needs. Both are told the kind and the things, so that reading is not measured here.

Right: the number of visits; a clock time within 2 s of the first or last visit; the order; for "what happened?" at least
four of five visitors named with kind and colour. Writes strategies.json.
"""

import argparse
import asyncio
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from agent.app import Agent
from agent.ask.model import load_model
from agent.ask.question import Question
from agent.ask.sentences import number_word, verdict_of
from agent.evaluation.clips import Clip, world_clip
from agent.ingest.jpeg import decode_jpeg, encode_jpeg
from agent.keep.memory import open_memory
from agent.reading.types import Kind, Reading
from agent.settings.settings import Settings
from benchmarks.machine import add_out, machine, measured_path, write_result
from memory.store import MemoryStore
from model.world.answers import TIME_TOLERANCE_S, clock_text
from model.world.questions import with_articles
from model.world.things import COLOURS, KINDS
from model.world.visits import Seen, Visit, look
from tests.support.eyes import EyesServer, true_eyes

CAMERA = "yard"
PICTURES = 8
FIRST_SEED = 0x57A7
PER_KIND = 6  # questions of one kind about one world, at most
STRETCHES = 3  # parts of a world about which "what happened?" is asked
NAMED = 0.8


@dataclass(frozen=True)
class Asked:
    """A question with its kind and things, and what a right answer is: a word, a span of times, or names."""

    text: str
    kind: Kind
    things: tuple[str, ...]
    truth: str | tuple[float, float] | frozenset[str]
    after: float | None = None
    before: float | None = None


def asked_of(clip: Clip, rng: np.random.Generator) -> Iterator[Asked]:
    """Yield the questions about one world, with answers from the world itself."""
    assert clip.scene is not None
    seen = look(clip.scene, clip.times - clip.start_unix)
    sure = {
        f"{colour} {kind}": seen.of(kind, colour)
        for kind in KINDS
        for colour in COLOURS
        if kind != "door" and seen.is_sure(kind, colour)
    }
    came = {thing: visits for thing, visits in sure.items() if visits}
    for kind in KINDS:
        visits = seen.of(kind, None)
        if kind != "door" and seen.is_sure(kind, None) and len(visits) > 1 and _apart(visits):
            came[kind] = visits
    names = [list(came)[place] for place in rng.permutation(len(came))]
    several = sorted(names, key=lambda name: -len(came[name]))
    never = [thing for thing, visits in sure.items() if not visits]
    for thing in [*several[: PER_KIND - 1], *never[:1]]:
        truth = number_word(len(came.get(thing, ())))
        yield Asked(with_articles(f"How many times did a {thing} come?"), "count", (thing,), truth)
    for thing in several[:PER_KIND]:
        first = min(came[thing], key=lambda visit: visit.first_s)
        last = max(came[thing], key=lambda visit: visit.last_s)
        yield Asked(with_articles(f"When was a {thing} first seen?"), "first", (thing,), _span(clip, first))
        yield Asked(with_articles(f"When was a {thing} last seen?"), "last", (thing,), _span(clip, last))
    single = [name for name in names if " " in name and len(came[name]) == 1]
    pairs = [pair for pair in combinations(single, 2) if abs(came[pair[0]][0].first_s - came[pair[1]][0].first_s) > 5]
    for one, other in [pairs[place] for place in rng.permutation(len(pairs))[:PER_KIND]]:
        order = "before" if came[one][0].first_s < came[other][0].first_s else "after"
        yield Asked(with_articles(f"Did a {one} come before or after a {other}?"), "order", (one, other), order)
    yield from _overviews(clip, seen)


def _overviews(clip: Clip, seen: Seen) -> Iterator[Asked]:
    edges = np.linspace(float(clip.times[0]), float(clip.times[-1]) + 1, STRETCHES + 1)
    for after, before in pairwise(edges):
        names = frozenset(
            f"{visit.colour} {visit.kind}"
            for visit in seen.visits
            if visit.kind != "door"
            and seen.is_sure(visit.kind, visit.colour)
            and after <= clip.start_unix + visit.first_s
            and clip.start_unix + visit.last_s < before
        )
        if names:
            yield Asked("What happened?", "overview", (), names, float(after), float(before) - 0.5)


def _span(clip: Clip, visit: Visit) -> tuple[float, float]:
    return clip.start_unix + visit.first_s, clip.start_unix + visit.last_s


def _apart(visits: list[Visit]) -> bool:
    spans = sorted((visit.first_s, visit.last_s) for visit in visits)
    return all(after[0] - before[1] > 6 for before, after in pairwise(spans))


def is_right(asked: Asked, answer: str) -> bool:
    """Return whether an answer is right."""
    said = answer.lower()
    if isinstance(asked.truth, frozenset):
        return sum(name in said for name in asked.truth) >= NAMED * len(asked.truth)
    if isinstance(asked.truth, tuple):
        wanted = asked.truth[0] if asked.kind == "first" else asked.truth[1]
        seconds = np.arange(int(wanted - TIME_TOLERANCE_S), int(wanted + TIME_TOLERANCE_S) + 2)
        return bool(set(re.findall(r"\d\d:\d\d:\d\d", said)[-1:]) & {clock_text(float(second)) for second in seconds})
    if asked.kind == "count":
        found = re.match(r"(\d+) times", said)
        return (number_word(int(found[1])) if found else verdict_of(said).removeprefix("at least ")) == asked.truth
    return verdict_of(said) == asked.truth


def fill(store: MemoryStore, model: Any, clip: Clip) -> None:
    """Store all frames of a world, encoded from their JPEGs as the product does."""
    for moment, picture in zip(clip.times.tolist(), clip.pictures(), strict=True):
        jpeg = encode_jpeg(np.asarray(picture))
        [features] = model.encode([decode_jpeg(jpeg)])
        frame_id = store.append(CAMERA, moment, jpeg)
        store.attach(frame_id, embedding=features.embedding, summary=features.summary)


async def measure(
    clip: Clip, model: Any, server: EyesServer, rng: np.random.Generator, kinds: Sequence[str]
) -> list[dict[str, Any]]:
    """Ask all questions about one world in both ways. Return a row for each answer."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="vilamp-strategies-") as folder:
        settings = Settings.model_validate(
            {
                "data_dir": folder,
                "model": {"num_threads": 1, "allow_builtin_encoder": True},
                "cameras": {CAMERA: {"timezone": "UTC"}},
                "answerer": {
                    "kind": "openai", "base_url": server.url, "model": "eyes", "probe": False, "max_images": PICTURES,
                    "tools": "off",
                },
                "answering": {"max_look_s": 600, "timeout_s": 900},
            }
        )  # fmt: skip
        store = open_memory(settings, model)
        fill(store, model, clip)
        async with Agent(settings, store, model).running() as agent:
            for asked in asked_of(clip, rng):
                if kinds and asked.kind not in kinds:
                    continue
                for way in ("one shot", "strategies"):
                    kind: Kind = asked.kind if way == "strategies" else "describe"
                    question = Question(
                        asked.text,
                        (CAMERA,),
                        after=asked.after,
                        before=asked.before,
                        reading=Reading(kind, asked.things if way == "strategies" else ()),
                    )
                    server.counts()
                    began = time.perf_counter()
                    answer = await agent.answering.answer(question)
                    seconds, counts = time.perf_counter() - began, server.counts()
                    rows.append(
                        {
                            "way": way,
                            "kind": asked.kind,
                            "question": asked.text,
                            "said": answer.text,
                            "truth": sorted(asked.truth) if isinstance(asked.truth, frozenset) else asked.truth,
                            "right": is_right(asked, answer.text),
                            "calls": counts.get("calls", 0),
                            "pictures": counts.get("pictures", 0),
                            "tokens": answer.finished.prompt_tokens,
                            "seconds": round(seconds, 2),
                        }
                    )
    return rows


def table_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return by kind and way how many answers are right, and what one answer costs on average."""
    table: dict[str, Any] = {}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        table[kind] = {}
        for way in ("one shot", "strategies"):
            some = [row for row in rows if (row["kind"], row["way"]) == (kind, way)]
            means = {
                name: round(float(np.mean([row[name] for row in some])), 1) for name in ("calls", "pictures", "seconds")
            }
            table[kind][way] = {"right": sum(row["right"] for row in some), "asked": len(some), **means}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--worlds", type=int, default=4)
    parser.add_argument("--kinds", nargs="*", default=(), help="only these kinds: count, first, last, order, overview")
    add_out(parser)
    args = parser.parse_args()
    model = load_model(Settings(model={"num_threads": 1}))
    rows: list[dict[str, Any]] = []
    with true_eyes() as server:
        for number in range(args.worlds):
            clip = world_clip(FIRST_SEED + number, args.frames)
            rng = np.random.default_rng([FIRST_SEED, number])
            rows += asyncio.run(measure(clip, model, server, rng, args.kinds))
            print(number + 1, table_of(rows), flush=True)
    measured = {"frames": args.frames, "worlds": args.worlds, "table": table_of(rows)}
    wrong = [row for row in rows if not row["right"]]
    write_result(measured_path(args.out, "strategies.json"), machine(), {**measured, "wrong": wrong})


if __name__ == "__main__":
    main()
