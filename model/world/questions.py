"""Questions about a scene with true answers, derived from what could be seen in the frames that were kept.

In: a scene and the times of its frames. Out: `Question`s in ten families, with the answer, what the question names, and
the spans of time that prove it. Nothing that was only half visible is asked about. Pure: the randomness is passed in.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from model.world import phrases
from model.world.phrases import NUMBERS, Phrases
from model.world.scene import Scene
from model.world.things import COLOURS, KINDS, PLACES, THINGS, VISIBLE_FRACTION, ZONES, Split, Visible

FAMILIES = ("present", "existence", "colour", "count", "where", "when", "last_seen", "order", "left_behind", "room")
TIME_FAMILIES = ("when", "last_seen")
SAME_VISIT_GAP_S = 6.0  # a thing out of sight for longer has gone and come again
MIN_FRAMES = 2  # what was seen on fewer frames is not asked about
TIME_TOLERANCE_S = 2.0
DAY_S = 86400


@dataclass(frozen=True)
class Query:
    """What a text names: any thing of this kind and colour (None: any), or any that `second` names."""

    kind: str | None = None
    colour: str | None = None
    second: "Query | None" = None


@dataclass(frozen=True)
class Question:
    """`spans`: seconds of the scene that prove the answer; `start_unix` + `utc_offset_s`: the local clock at second 0."""

    family: str
    text: str
    answer: str
    query: Query | None
    spans: tuple[tuple[float, float], ...] = ()
    start_unix: float = 0.0
    utc_offset_s: float = 0.0


@dataclass(frozen=True)
class Visit:
    """One stay of a kind and colour in the picture: times of its first and last frame, where it was, and how often seen."""

    kind: str
    colour: str
    first_s: float
    last_s: float
    num_frames: int
    place: str | None  # None: it moved through
    room: str | None

    @property
    def name(self) -> str:
        """ "red car"."""
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True)
class Seen:
    """Everything the frames of one window show."""

    scene: Scene
    times: np.ndarray
    visits: tuple[Visit, ...]
    unsure: frozenset[tuple[str, str]]  # seen too briefly or too little to be asked about

    def of(self, kind: str | None, colour: str | None) -> list[Visit]:
        """Visits that match, in order of time."""
        return [v for v in self.visits if kind in (None, v.kind) and colour in (None, v.colour)]

    def is_sure(self, kind: str | None, colour: str | None) -> bool:
        """Nothing that matches was only half seen."""
        return not any(kind in (None, k) and colour in (None, c) for k, c in self.unsure)


def matches(query: Query, visible: Visible) -> bool:
    """Is this what the text names? A closed door is never meant."""
    if visible.action == "closed":
        return False
    here = query.kind in (None, visible.kind) and query.colour in (None, visible.colour)
    return here or (query.second is not None and matches(query.second, visible))


def questions(
    scene: Scene,
    start_unix: float,
    frame_times: np.ndarray,
    rng: np.random.Generator,
    split: Split,
    utc_offset_s: float = 0.0,
) -> list[Question]:
    """Questions of every family that these frames can answer. frame_times: seconds of the scene; start_unix: its second 0."""
    seen = look(scene, frame_times)
    found: list[Question] = []
    for family, make in _MAKERS.items():
        for text, answer, query, spans in make(seen, rng, split):
            found.append(Question(family, text, answer, query, tuple(spans), start_unix, utc_offset_s))
    return found


def look(scene: Scene, frame_times: np.ndarray) -> Seen:
    """Go through the frames once and note who stayed from when to when."""
    sightings: dict[tuple[str, str], list[tuple[float, Visible]]] = defaultdict(list)
    glimpses: Counter[tuple[str, str]] = Counter()
    for t in frame_times.tolist():
        for visible in scene.visible_at(t, min_fraction=0.25):
            if visible.action == "closed":
                continue
            pair = (visible.kind, visible.colour)
            if visible.fraction >= VISIBLE_FRACTION:
                sightings[pair].append((t, visible))
            else:
                glimpses[pair] += 1
    visits, unsure = [], {pair for pair in glimpses if pair not in sightings}
    for pair, rows in sightings.items():
        for stay in _stays(rows):
            visits.append(_visit(scene, pair, stay))
            if len({t for t, _ in stay}) < MIN_FRAMES:
                unsure.add(pair)
    visits.sort(key=lambda visit: (visit.first_s, visit.name))
    return Seen(scene, frame_times, tuple(visits), frozenset(unsure))


def _stays(rows: list[tuple[float, Visible]]) -> Iterator[list[tuple[float, Visible]]]:
    stay = [rows[0]]
    for before, row in pairwise(rows):
        if row[0] - before[0] > SAME_VISIT_GAP_S:
            yield stay
            stay = []
        stay.append(row)
    yield stay


def _visit(scene: Scene, pair: tuple[str, str], stay: list[tuple[float, Visible]]) -> Visit:
    places = Counter(PLACES[min(2, int((v.box[0] + v.box[2]) / 2 * 3))] for _, v in stay)
    rooms = Counter(scene.zone_at(t) for t, _ in stay)
    place, room = places.most_common(1)[0], rooms.most_common(1)[0]
    num_frames = len({t for t, _ in stay})
    return Visit(
        *pair,
        stay[0][0],
        stay[-1][0],
        num_frames,
        place[0] if place[1] >= 0.7 * len(stay) else None,
        room[0] if room[1] >= 0.8 * len(stay) else None,
    )


Made = tuple[str, str, Query | None, Sequence[tuple[float, float]]]


def _say(choices: Phrases, split: Split, rng: np.random.Generator, **words: str) -> str:
    options = choices[split]
    return with_articles(options[rng.integers(len(options))].format(**words))


def with_articles(text: str) -> str:
    """ "a orange car" -> "an orange car"."""
    return re.sub(r"\ba (?=[aeio])", "an ", text)


def _come(kind: str | None) -> str:
    return "open" if kind == "door" else "come"


def _thing(kind: str, colour: str | None) -> str:
    return kind if colour is None else f"{colour} {kind}"


def _spans(visits: Sequence[Visit]) -> list[tuple[float, float]]:
    return [(v.first_s, v.last_s) for v in visits]


def _sample(rng: np.random.Generator, items: Sequence[Visit], most: int) -> list[Visit]:
    return [items[i] for i in rng.permutation(len(items))[:most]]


def _present(seen: Seen, rng: np.random.Generator, split: Split) -> Iterator[Made]:
    t = float(seen.times[-1])
    here = [v for v in seen.scene.visible_at(t, min_fraction=0.1) if v.action != "closed"]
    if any(v.fraction < VISIBLE_FRACTION for v in here) or len(here) > 2:
        return
    if not here and rng.random() > 0.35:
        return  # most moments of most cameras are empty; they should not be most of the questions
    here.sort(key=lambda v: v.box[0] + v.box[2])
    answer = with_articles(" and ".join(f"a {v.colour} {v.kind}" for v in here)) or "nothing"
    yield _say(phrases.PRESENT, split, rng), answer, None, [(t, t)]


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
    """Never seen, but close: the same kind in another colour, or the same colour on another kind."""
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
    """Visits of things that came exactly once and were seen well."""
    return [v for v in seen.visits if len(seen.of(v.kind, v.colour)) == 1 and seen.is_sure(v.kind, v.colour)]


def _where(seen: Seen, rng: np.random.Generator, split: Split) -> Iterator[Made]:
    placed = [v for v in _once(seen) if v.place is not None and seen.scene.style == "fixed"]
    for visit in _sample(rng, placed, 3):
        assert visit.place is not None
        yield _say(phrases.WHERE, split, rng, thing=visit.name), visit.place, _query(visit), _spans([visit])


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
    for event in seen.scene.events:
        if event.owner_gone_s is None:
            continue
        end = event.end_s if event.taken_s is None else event.taken_s
        alone = seen.times[(seen.times >= event.owner_gone_s) & (seen.times <= end)]
        if len(alone) >= 3:
            left.append((event, (float(alone[0]), float(alone[-1]))))
        elif len(alone) or (seen.times[0] <= event.end_s and seen.times[-1] >= event.start_s):
            return  # cut off in the middle of it: no fair question
    if len(left) > 1 or (not left and rng.random() > 0.3):
        return
    things = [with_articles(f"a {e.colour} {e.kind}") for e, _ in left]
    query: Query | None = None
    for kind in THINGS:
        query = Query(kind, None, query)
    yield _say(phrases.LEFT_BEHIND, split, rng), (things or ["nothing"])[0], query, [span for _, span in left]


def _room(seen: Seen, rng: np.random.Generator, split: Split) -> Iterator[Made]:
    placed = [v for v in _once(seen) if v.room is not None and v.num_frames >= 3]
    for visit in _sample(rng, placed, 3):
        assert visit.room is not None
        yield _say(phrases.ROOM, split, rng, thing=visit.name), visit.room, _query(visit), _spans([visit])


def _query(visit: Visit) -> Query:
    return Query(visit.kind, visit.colour)


_MAKERS = {
    "present": _present, "existence": _existence, "colour": _colour, "count": _count, "where": _where, "when": _when,
    "last_seen": _last_seen, "order": _order, "left_behind": _left_behind, "room": _room,
}  # fmt: skip


def clock_slot(first_s: float, last_s: float) -> str:
    """Placeholder answer of the time families: seconds of the scene, "@12.0"; `clock_answer` makes a clock time of it."""
    return f"@{(first_s + last_s) / 2:.1f}"


def clock_answer(question: Question, scene_s: float) -> str:
    """The local clock at a second of the scene: "14:03:22"."""
    s = int(question.start_unix + question.utc_offset_s + scene_s) % DAY_S
    return f"{s // 3600:02d}:{s // 60 % 60:02d}:{s % 60:02d}"


def true_answer(question: Question) -> str:
    """The answer as a person would give it."""
    return clock_answer(question, float(question.answer[1:])) if question.family in TIME_FAMILIES else question.answer


def is_correct(question: Question, answer: str) -> bool:
    """Exact match of the words; a clock time is right inside a span that proves it, 2 s more on both sides."""
    if question.family not in TIME_FAMILIES:
        return _words(answer) == _words(question.answer)
    found = re.fullmatch(r"\D*(\d{1,2}):(\d\d):(\d\d)\D*", answer.strip())
    if found is None:
        return False
    hours, minutes, seconds = (int(group) for group in found.groups())
    for first, last in question.spans:
        begin = question.start_unix + question.utc_offset_s + first - TIME_TOLERANCE_S
        since = (hours * 3600 + minutes * 60 + seconds - begin + 1) % DAY_S - 1  # a clock shows whole seconds
        if since <= last - first + 2 * TIME_TOLERANCE_S:
            return True
    return False


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def captions(seed: int = 0) -> list[tuple[tuple[str, ...], Query]]:
    """Texts that name something, with what they name: descriptions, and the training phrasings of questions."""
    rng = np.random.default_rng(seed)
    found: list[tuple[tuple[str, ...], Query]] = []
    for kind in KINDS:
        for colour in (None, *COLOURS):
            found.append((_texts_about(kind, colour), Query(kind, colour)))
    found += [((f"something {c}", f"a {c} thing", f"anything {c}"), Query(None, c)) for c in COLOURS]
    pairs = [(k, c) for k in KINDS if k != "door" for c in COLOURS]
    for _ in range(400):
        (ka, ca), (kb, cb) = (pairs[i] for i in rng.permutation(len(pairs))[:2])
        texts = tuple(t.format(a=f"{ca} {ka}", b=f"{cb} {kb}") for t in phrases.ORDER["train"])
        found.append((texts, Query(ka, ca, Query(kb, cb))))
    left: Query | None = None
    for kind in THINGS:
        left = Query(kind, None, left)
    assert left is not None
    found.append((phrases.LEFT_BEHIND["train"], left))
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
    """Every text a tokenizer should know: questions in the training phrasings, and all answers."""
    texts = [text for group, _ in captions() for text in group] + list(phrases.PRESENT["train"])
    things = [with_articles(f"a {c} {k}") for c in COLOURS for k in KINDS]
    words = [*NUMBERS, *PLACES, *ZONES, *COLOURS, "yes", "no", "before", "after", "nothing", "and"]
    return texts + things + words * 20 + ["12:34:56 07:08:09"] * 20


def majority_accuracy(asked: Sequence[Question]) -> dict[str, float]:
    """By family, and "all": how often the one most frequent answer of the family is right, on the questions themselves."""
    groups: dict[str, list[Question]] = defaultdict(list)
    for question in asked:
        groups[question.family].append(question)
    right = {f: Counter(true_answer(q) for q in group).most_common(1)[0][1] for f, group in groups.items()}
    return {f: right[f] / len(groups[f]) for f in groups} | {"all": sum(right.values()) / max(len(asked), 1)}


def question_only_guess(known: Sequence[Question], asked: Sequence[Question]) -> dict[str, float]:
    """By family, and "all": accuracy of the best guess from the question's words alone, learnt from `known`.

    Three guessers learn the most frequent answer by family, by (family, kind) and by (family, kind, colour); the best counts.
    """
    best: dict[str, float] = {}
    counts = Counter(question.family for question in asked)
    for depth in (1, 2, 3):
        learnt: dict[tuple[str | None, ...], Counter[str]] = defaultdict(Counter)
        for question in known:
            learnt[_about(question)[:depth]][true_answer(question)] += 1
        right: Counter[str] = Counter()
        for question in asked:
            answers = learnt.get(_about(question)[:depth])
            right[question.family] += bool(answers and is_correct(question, answers.most_common(1)[0][0]))
        best = {f: max(best.get(f, 0.0), right[f] / counts[f]) for f in counts}
    total = sum(best[f] * counts[f] for f in counts)
    return best | {"all": total / max(len(asked), 1)}


def _about(question: Question) -> tuple[str | None, ...]:
    query = question.query or Query()
    return question.family, query.kind, query.colour
