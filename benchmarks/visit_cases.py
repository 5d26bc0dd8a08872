"""Harder histories for `benchmarks.visits`: several cameras in one question, things that stay for long, and single visitors.

The product's selection by visits beside the paper's rule relative to the background, and the most relevant frames. No rule
reserves places for the newest frames or fills gaps.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from rich.progress import track

from agent.ask.keyframes import NEVER, Selection
from agent.evaluation.scores import NUM_BINS, share
from benchmarks.long_stays import NUM_FRAMES, STAYS, asked_for, histories, trio
from benchmarks.needles import RECALL_PHRASES, embedded, haystacks, hide
from benchmarks.selection_rules import Case, within
from model.select import ArrayCandidates, Keyframes, select_keyframes
from model.select_visits import select_by_visits
from model.video_model import VideoModel
from model.world.questions import with_articles

COUNTS = (8, 32)
NUM_CAMERAS = 4
STAY_SETS, STAY_WORLDS = 4, 3
NEEDLES_PER_TENTH, NEEDLE_FRAMES, NEEDLE_WORLDS, EMPTY_EVERY = 20, 10_000, 2, 6
RULES = ("visits", "DKS, relative", "top-K")


def choose(
    rule: str, embeddings: np.ndarray, query: np.ndarray, times: np.ndarray, sizes: list[int], count: int
) -> Keyframes:
    """Keyframes of the frames of several cameras, with the guarantee per camera that the product gives."""
    candidates = ArrayCandidates(embeddings, query)
    ends = np.cumsum(sizes)
    background = np.stack([embeddings[end - size : end].mean(axis=0) for end, size in zip(ends, sizes, strict=True)])
    if rule == "visits":
        scores = candidates.scores(np.arange(len(embeddings)))
        return select_by_visits(
            candidates, scores, times, num_keyframes=count, fill="none", background=background, group_sizes=sizes
        )
    tau = NEVER if rule == "top-K" else 0.98
    return select_keyframes(
        candidates, num_keyframes=count, tau=tau, fill="none", background=background, group_sizes=sizes
    )


def run_cameras(model: VideoModel, cameras: Iterable[tuple[list[Case], np.ndarray]]) -> list[dict[str, Any]]:
    """Questions about one camera, asked of four at once: visits found, and the fewest keyframes that a camera has.

    What the other cameras show of the thing asked about is not counted.
    """
    each = list(cameras)
    found: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0, NUM_FRAMES])
    for first in range(0, len(each) - NUM_CAMERAS + 1, NUM_CAMERAS):
        group = each[first : first + NUM_CAMERAS]
        sizes = [len(embeddings) for _, embeddings in group]
        starts = np.cumsum([0, *sizes[:-1]])
        embeddings = np.concatenate([embeddings for _, embeddings in group])
        times = np.concatenate([np.arange(float(size)) for size in sizes])
        for (cases, _), start, size in zip(group, starts, sizes, strict=True):
            for case in cases:
                assert case.history.text is not None
                for count in COUNTS:
                    for rule in RULES:
                        rows = choose(rule, embeddings, case.history.text, times, sizes, count).rows
                        own = case.history.times[rows[(rows >= start) & (rows < start + size)] - start]
                        entry = found[count, rule]
                        entry[0] += sum(bool(within(own, span).any()) for span in case.spans)
                        entry[1] += len(case.spans)
                        places = np.bincount(np.searchsorted(starts, rows, side="right") - 1, minlength=NUM_CAMERAS)
                        entry[2] = min(entry[2], int(places.min()))
    return [
        {"keyframes": count, "rule": rule, "found": right, "of": total, "share": right / total, "fewest": fewest}
        for (count, rule), (right, total, fewest) in found.items()
    ]


def run_stays(model: VideoModel, seed: int) -> dict[str, Any]:
    """Things that stay for 10 seconds to 10 minutes: histories with a keyframe of both visits that a question needs."""
    rng = np.random.default_rng(seed)
    arms = {
        f"{rule}, {count}": replace(Selection.of(model.info.defaults, rule=rule), recent=0, num_keyframes=count)
        for rule in ("visits", "dks", "top_k")
        for count in COUNTS
    }
    found: dict[str, dict[str, list[bool]]] = {name: defaultdict(list) for name in arms}
    stacks = haystacks(model, [seed % 2**16 + world for world in range(STAY_WORLDS)], NUM_FRAMES, 1, None)
    for number in track(range(STAY_SETS * STAY_WORLDS), description="stays"):
        three = trio(stacks[number % STAY_WORLDS], STAYS, rng)
        texts = asked_for(three, rng)
        queries = {name: model.embed_text(text).unit for name, text in texts.items()}
        for stay, asker in histories(model, three, rng):
            for name, arm in arms.items():
                for kind, other in (("order", three.passing), ("count", three.again)):
                    rows = arm(asker.window, queries[kind]).rows
                    both = np.isin(rows, three.staying[stay].clear).any() and np.isin(rows, other.clear).any()
                    found[name][f"{kind}, {stay} s"].append(bool(both))
    return {
        name: {kind: share(each) for kind, each in by_kind.items()}
        | {"all": share(one for each in by_kind.values() for one in each)}
        for name, by_kind in found.items()
    }


def run_needles(model: VideoModel, seed: int) -> dict[str, Any]:
    """One visitor in 10,000 frames, in each tenth of them: is a frame that shows it well among the keyframes?"""
    rng = np.random.default_rng(seed)
    worlds = [seed % 2**16 + world for world in range(NEEDLE_WORLDS)]
    stacks = haystacks(model, worlds, NEEDLE_FRAMES, EMPTY_EVERY, None)
    times = np.arange(float(NEEDLE_FRAMES))
    found: dict[str, list[bool]] = defaultdict(list)
    for number in track(range(NEEDLES_PER_TENTH * NUM_BINS), description="needles"):
        needle = hide(stacks[number % NEEDLE_WORLDS], number % NUM_BINS, rng)
        embeddings = needle.haystack.embeddings.copy()
        embeddings[list(needle.pictures)] = embedded(model, needle.pictures.values())
        phrases = RECALL_PHRASES[rng.integers(len(RECALL_PHRASES))]["eval"]
        thing = f"{needle.visitor.colour} {needle.visitor.kind}"
        text = with_articles(phrases[rng.integers(len(phrases))].format(thing=thing, come="come"))
        query = model.embed_text(text).unit
        for rule in RULES:
            for count in COUNTS:
                rows = choose(rule, embeddings, query, times, [NEEDLE_FRAMES], count).rows
                found[f"{rule}, {count}"].append(bool(np.isin(rows, needle.visitor.clear).any()))
    return {name: share(each) for name, each in found.items()}
