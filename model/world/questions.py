"""Make questions about a scene with true answers, derived from what is visible in the given frames.

Input: a scene and the times of its frames. Output: `Question`s of ten families, each with its answer, the things it
names, and the spans of time that prove it. Nothing that is only partly visible is asked about. Pure: the randomness is
passed in.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from model.world import phrases
from model.world.answers import (
    TIME_FAMILIES,
    TIME_TOLERANCE_S,
    Query,
    Question,
    clock_answer,
    clock_slot,
    clock_text,
    is_correct,
    majority_accuracy,
    matches,
    question_only_guess,
    true_answer,
)
from model.world.phrases import NUMBERS, Phrases
from model.world.scene import Scene
from model.world.things import COLOURS, KINDS, PLACES, THINGS, VISIBLE_FRACTION, ZONES, Split, Visible
from model.world.visits import Seen, Visit, look

__all__ = [
    "FAMILIES", "TIME_FAMILIES", "TIME_TOLERANCE_S", "Query", "Question", "Seen", "Visit", "captions", "clear_view",
    "clock_answer", "clock_text", "is_correct", "look", "majority_accuracy", "matches", "present_question",
    "question_only_guess", "questions", "true_answer", "vocabulary_texts", "with_articles",
]  # fmt: skip
T = TypeVar("T")
FAMILIES = ("present", "existence", "colour", "count", "where", "when", "last_seen", "order", "left_behind", "room")


def questions(
    scene: Scene,
    start_unix: float,
    frame_times: np.ndarray,
    rng: np.random.Generator,
    split: Split,
    utc_offset_s: float = 0.0,
) -> list[Question]:
    """Return the questions of all families that these frames can answer.

    frame_times: seconds of the scene; start_unix: time of second 0; split: "train" or "eval", which decides the
    phrasings.
    """
    seen = look(scene, frame_times)
    found: list[Question] = []
    for family, make in _MAKERS.items():
        for text, answer, query, spans in make(seen, rng, split):
            found.append(Question(family, text, answer, query, tuple(spans), start_unix, utc_offset_s))
    return found


Made = tuple[str, str, Query | None, Sequence[tuple[float, float]]]


def _say(choices: Phrases, split: Split, rng: np.random.Generator, **words: str) -> str:
    options = choices[split]
    return with_articles(options[rng.integers(len(options))].format(**words))


def with_articles(text: str) -> str:
    """Replace "a" by "an" where needed: "a orange car" -> "an orange car"."""
    return re.sub(r"\ba (?=[aeio])", "an ", text)


def _come(kind: str | None) -> str:
    return "open" if kind == "door" else "come"


def _thing(kind: str, colour: str | None) -> str:
    return kind if colour is None else f"{colour} {kind}"


def _spans(visits: Sequence[Visit]) -> list[tuple[float, float]]:
    return [(v.first_s, v.last_s) for v in visits]


def _sample(rng: np.random.Generator, items: Sequence[T], most: int) -> list[T]:
    return [items[i] for i in rng.permutation(len(items))[:most]]


def present_question(
    scene: Scene, t: float, start_unix: float, rng: np.random.Generator, split: Split, utc_offset_s: float = 0.0
) -> Question | None:
    """Return a question about what is visible at second t.

    None if a visible thing is half hidden, or if there are more than two visible things.
    """
    here = clear_view(scene, t)
    if here is None:
        return None
    text, answer, query, spans = _ask_present(scene, t, here, rng, split)
    return Question("present", text, answer, query, tuple(spans), start_unix, utc_offset_s)


def clear_view(scene: Scene, t: float) -> list[Visible] | None:
    """Return the things visible at second t, from left to right.

    None if one of them is half hidden, or if there are more than two of them.
    """
    here = [v for v in scene.visible_at(t, min_fraction=0.1) if v.action != "closed"]
    if any(v.fraction < VISIBLE_FRACTION for v in here) or len(here) > 2:
        return None
    return sorted(here, key=lambda v: v.box[0] + v.box[2])


def _ask_present(scene: Scene, t: float, here: list[Visible], rng: np.random.Generator, split: Split) -> Made:
    answer = with_articles(" and ".join(f"a {v.colour} {v.kind}" for v in here)) or "nothing"
    place = scene.zone_at(t) or scene.layout.name
    return _say(phrases.PRESENT, split, rng, at=phrases.AT[place]), answer, None, [(t, t)]


def _present(seen: Seen, rng: np.random.Generator, split: Split) -> Iterator[Made]:
    t = float(seen.times[-1])
    here = clear_view(seen.scene, t)
    if here is None or (not here and rng.random() > 0.35):
        return  # ask about few of the empty moments, or they would be most of the questions
    yield _ask_present(seen.scene, t, here, rng, split)


def _existence(seen: Seen, rng: np.random.Generator, split: Split) -> Iterator[Made]:
    sure = [v for v in seen.visits if seen.is_sure(v.kind, v.colour)]
    for visit in _sample(rng, sure, 4):
        colour = visit.colour if rng.random() < 0.85 else None
        yield _ask_existence(visit.kind, colour, "yes", _spans(seen.of(visit.kind, colour)), rng, split)
        absent = _absent_pair(seen, visit, rng)
        if absent is not None:
            yield _ask_existence(*absent, "no", [], rng, split)


def _ask_existence(
    kind: str, colour: str | None, answer: str, spans: list[tuple[float, float]], rng: np.random.Generator, split: Split
) -> Made:
    choices = phrases.DOOR_EXISTENCE if kind == "door" else phrases.EXISTENCE
    return _say(choices, split, rng, thing=_thing(kind, colour), come="come"), answer, Query(kind, colour), spans


def _absent_pair(seen: Seen, like: Visit, rng: np.random.Generator) -> tuple[str, str] | None:
    """Return a (kind, colour) never seen but like the visit `like` in kind or in colour; None if there is none."""
    same_kind = [(like.kind, c) for c in COLOURS if not seen.of(like.kind, c)]
    same_colour = [(k, like.colour) for k in KINDS if not seen.of(k, like.colour)]
    options = [p for p in (same_kind if rng.random() < 0.5 else same_colour) if seen.is_sure(*p)]
    return options[rng.integers(len(options))] if options else None


def _colour(seen: Seen, rng: np.random.Generator, split: Split) -> Iterator[Made]:
    for kind in KINDS:
        visits = seen.of(kind, None)
        if len({v.colour for v in visits}) == 1 and seen.is_sure(kind, None):
            text = _say(phrases.COLOUR, split, rng, thing=kind)
            yield text, visits[0].colour, Query(kind), _spans(visits)


def _count(seen: Seen, rng: np.random.Generator, split: Split) -> Iterator[Made]:
    by_number: dict[int, list[tuple[str, str | None]]] = defaultdict(list)
    for kind in KINDS:
        if seen.is_sure(kind, None):
            by_number[len(seen.of(kind, None))].append((kind, None))
        for colour in COLOURS:
            if seen.is_sure(kind, colour):
                by_number[len(seen.of(kind, colour))].append((kind, colour))
    for number in range(len(NUMBERS)):
        options = by_number[number]
        if options:
            kind, asked = options[rng.integers(len(options))]
            text = _say(phrases.COUNT, split, rng, thing=_thing(kind, asked), come=_come(kind))
            yield text, NUMBERS[number], Query(kind, asked), _spans(seen.of(kind, asked))


def _once(seen: Seen) -> list[Visit]:
    """Return the visits of things that came exactly once and were clearly visible."""
    return [v for v in seen.visits if len(seen.of(v.kind, v.colour)) == 1 and seen.is_sure(v.kind, v.colour)]


def _where(seen: Seen, rng: np.random.Generator, split: Split) -> Iterator[Made]:
    placed = [(v, v.place) for v in _once(seen) if v.place is not None and seen.scene.style == "fixed"]
    for visit, place in _sample(rng, placed, 3):
        yield _say(phrases.WHERE, split, rng, thing=visit.name), place, _query(visit), _spans([visit])


def _when(seen: Seen, rng: np.random.Generator, split: Split) -> Iterator[Made]:
    for visit in _sample(rng, _once(seen), 4):
        text = _say(phrases.WHEN, split, rng, thing=visit.name, come=_come(visit.kind))
        yield text, clock_slot(visit.first_s, visit.last_s), _query(visit), _spans([visit])


def _last_seen(seen: Seen, rng: np.random.Generator, split: Split) -> Iterator[Made]:
    sure = [v for v in seen.visits if seen.is_sure(v.kind, v.colour) and v.kind != "door"]
    latest = [v for v in sure if seen.of(v.kind, v.colour)[-1] is v]
    for visit in _sample(rng, latest, 3):
        text = _say(phrases.LAST_SEEN, split, rng, thing=visit.name)
        yield text, clock_slot(visit.first_s, visit.last_s), _query(visit), _spans([visit])


def _order(seen: Seen, rng: np.random.Generator, split: Split) -> Iterator[Made]:
    once = [v for v in _once(seen) if v.kind != "door"]
    for _ in range(3 if len(once) >= 2 else 0):
        a, b = _sample(rng, once, 2)
        if a.last_s + 3 < b.first_s or b.last_s + 3 < a.first_s:
            answer = "before" if a.first_s < b.first_s else "after"
            text = _say(phrases.ORDER, split, rng, a=a.name, b=b.name)
            yield text, answer, Query(a.kind, a.colour, Query(b.kind, b.colour)), _spans([a, b])


def _left_behind(seen: Seen, rng: np.random.Generator, split: Split) -> Iterator[Made]:
    left = []
    if seen.scene.style != "fixed":
        return  # in the robot's building, things stand around that nobody left behind
    for event in seen.scene.events:
        if event.owner_gone_s is None:
            continue
        end = event.end_s if event.taken_s is None else event.taken_s
        alone = seen.times[(seen.times >= event.owner_gone_s) & (seen.times <= end)]
        if len(alone) >= 3:
            left.append((event, (float(alone[0]), float(alone[-1]))))
        elif len(alone) or (seen.times[0] <= event.end_s and seen.times[-1] >= event.start_s):
            return  # the frames begin or end in the middle of it, so a question would not be fair
    if len(left) > 1 or (not left and rng.random() > 0.3):
        return
    things = [with_articles(f"a {e.colour} {e.kind}") for e, _ in left]
    yield _say(phrases.LEFT_BEHIND, split, rng), (things or ["nothing"])[0], _any_thing(), [span for _, span in left]


def _any_thing() -> Query:
    """Return the query that names all things that can be left behind."""
    query = Query(THINGS[0])
    for kind in THINGS[1:]:
        query = Query(kind, None, query)
    return query


def _room(seen: Seen, rng: np.random.Generator, split: Split) -> Iterator[Made]:
    placed = [(v, v.room) for v in _once(seen) if v.room is not None and v.num_frames >= 3]
    for visit, room in _sample(rng, placed, 3):
        yield _say(phrases.ROOM, split, rng, thing=visit.name), room, _query(visit), _spans([visit])


def _query(visit: Visit) -> Query:
    return Query(visit.kind, visit.colour)


_MAKERS = {
    "present": _present, "existence": _existence, "colour": _colour, "count": _count, "where": _where, "when": _when,
    "last_seen": _last_seen, "order": _order, "left_behind": _left_behind, "room": _room,
}  # fmt: skip


def captions(seed: int = 0) -> list[tuple[tuple[str, ...], Query]]:
    """Return texts that name things, with what they name: descriptions, and questions in the training phrasings."""
    rng = np.random.default_rng(seed)
    pairs_and_kinds = [(kind, colour) for kind in KINDS for colour in (None, *COLOURS)]
    found = [(_texts_about(kind, colour), Query(kind, colour)) for kind, colour in pairs_and_kinds]
    found += [((f"something {c}", with_articles(f"a {c} thing"), f"anything {c}"), Query(None, c)) for c in COLOURS]
    pairs = [(k, c) for k in KINDS if k != "door" for c in COLOURS]
    for _ in range(400):
        (ka, ca), (kb, cb) = (pairs[i] for i in rng.permutation(len(pairs))[:2])
        texts = tuple(t.format(a=f"{ca} {ka}", b=f"{cb} {kb}") for t in phrases.ORDER["train"])
        found.append((texts, Query(ka, ca, Query(kb, cb))))
    found.append((phrases.LEFT_BEHIND["train"], _any_thing()))
    return found


def _texts_about(kind: str, colour: str | None) -> tuple[str, ...]:
    thing, come = _thing(kind, colour), _come(kind)
    texts = [t.format(thing=thing) for t in (phrases.DOOR_CAPTIONS if kind == "door" else phrases.CAPTIONS)]
    for choices in phrases.ONE_THING:
        if kind == "door" and choices is phrases.EXISTENCE:
            choices = phrases.DOOR_EXISTENCE
        texts += [t.format(thing=thing, come=come) for t in choices["train"]]
    if colour is None:
        texts += [t.format(thing=thing) for t in phrases.COLOUR["train"]]
    return tuple(with_articles(text) for text in texts)


def vocabulary_texts() -> list[str]:
    """Return the texts to train a tokenizer on: questions in the training phrasings, and all answers."""
    texts = [text for group, _ in captions() for text in group]
    texts += [text.format(at=at) for text in phrases.PRESENT["train"] for at in phrases.AT.values()]
    things = [with_articles(f"a {c} {k}") for c in COLOURS for k in KINDS]
    words = [*NUMBERS, *PLACES, *ZONES, *COLOURS, "yes", "no", "before", "after", "nothing", "and"]
    return texts + things + words * 20 + ["12:34:56 07:08:09"] * 20
