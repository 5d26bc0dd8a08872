"""Strangers' wordings put to drawn worlds: which answers are right, which confidently wrong, which refused.

A wording is a question with slots, such as "how many {things} came through?", and its family. The slots are filled with
things of a drawn world whose true answer is known.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from agent.ask.checks import DOES_NOT_FIT
from agent.ask.keyframes import Selection
from agent.ask.sentences import verdict_of
from agent.ask.understanding import REFUSALS
from agent.evaluation.arms import Asker
from agent.evaluation.clips import features_of, world_clip
from model.familiarity import CANNOT_TELL
from model.hub import BUILTIN
from model.video_model import VideoModel
from model.world.answers import Query, Question, clock_slot, is_correct, true_answer
from model.world.phrases import NUMBERS
from model.world.questions import questions, with_articles
from model.world.scene import Scene
from model.world.things import COLOURS, KINDS
from model.world.visits import Seen, Visit, look

REFUSED = ("I did not understand", DOES_NOT_FIT, CANNOT_TELL.rstrip("."), "I cannot tell")
_PLURALS = {"person": "people", "box": "boxes"}
Row = dict[str, Any]


def asked_of(rows: Sequence[Row], scene: Scene, times: np.ndarray, start_unix: float, seed: int) -> Iterator[Question]:
    """Yield the wordings that this world can answer, each filled with a thing of it."""
    rng = np.random.default_rng([0x3057, seed])
    seen = look(scene, times)
    given = questions(scene, start_unix, times, rng, "eval")
    for row in rows:
        family = row["family"].removesuffix("_door")
        if family in ("present", "left_behind"):
            found: list[Made] = [(q.answer, q.query, list(q.spans), {}) for q in given if q.family == family]
        else:
            found = list(_FAMILIES[family](seen, _pairs(row, seen), row))
        if found:
            answer, query, spans, words = found[int(rng.integers(len(found)))]
            text = with_articles(row["text"].format(**words))
            judged = {"first_seen": "when", "earlier": "order"}.get(family, family)
            yield Question(judged, text, answer, query, tuple(spans), start_unix)


def _pairs(row: Row, seen: Seen) -> list[tuple[str, str | None]]:
    """Return the (kind, colour) that fit a wording; colour None where its words name none."""
    is_door = row["family"].endswith("_door") or row.get("kind") == "door"
    kinds = [row["kind"]] if row.get("kind") else [kind for kind in KINDS if (kind == "door") == is_door]
    colours = COLOURS if any(slot in row["text"] for slot in ("{thing}", "{things}", "{colour}", "{a}")) else (None,)
    pairs = [(kind, colour) for kind in kinds for colour in colours]
    return [pair for pair in pairs if seen.is_sure(*pair)]


Made = tuple[str, Query | None, list[tuple[float, float]], dict[str, str]]


def _one(
    answer: Callable[[list[Visit]], str | None],
) -> Callable[[Seen, list[tuple[str, str | None]], Row], Iterator[Made]]:
    """Return a maker of questions about one thing. answer: from its visits; None: cannot be asked."""

    def make(seen: Seen, pairs: list[tuple[str, str | None]], row: Row) -> Iterator[Made]:
        for kind, colour in pairs:
            visits = seen.of(kind, colour)
            if (said := answer(visits)) is None:
                continue
            proof = visits[:1] if row["family"].startswith("first") else visits[-1:]
            spans = [(visit.first_s, visit.last_s) for visit in proof]
            yield said, Query(kind, colour), spans, _words(kind, colour)

    return make


def _words(kind: str, colour: str | None) -> dict[str, str]:
    many = _PLURALS.get(kind, f"{kind}s")
    name = f"{colour} " if colour else ""
    return {"thing": f"{name}{kind}", "things": f"{name}{many}", "colour": colour or "", "kind": kind}


def _existence(seen: Seen, pairs: list[tuple[str, str | None]], row: Row) -> Iterator[Made]:
    """As many things that came as things that did not, whose kind or colour did."""
    came = [pair for pair in pairs if seen.of(*pair)]
    kinds, colours = {visit.kind for visit in seen.visits}, {visit.colour for visit in seen.visits}
    never = [pair for pair in pairs if not seen.of(*pair) and (pair[0] in kinds or pair[1] in colours)]
    for kind, colour in came + never[: max(1, len(came))]:
        yield "yes" if seen.of(kind, colour) else "no", Query(kind, colour), [], _words(kind, colour)


def _colour(seen: Seen, pairs: list[tuple[str, str | None]], row: Row) -> Iterator[Made]:
    for kind in {kind for kind, _ in pairs}:
        visits = seen.of(kind, None)
        if len({visit.colour for visit in visits}) == 1 and seen.is_sure(kind, None):
            yield visits[0].colour, Query(kind), [], _words(kind, None)


def _order(seen: Seen, pairs: list[tuple[str, str | None]], row: Row) -> Iterator[Made]:
    once = [visit for visit in seen.visits if len(seen.of(visit.kind, visit.colour)) == 1 and visit.kind != "door"]
    once = [visit for visit in once if seen.is_sure(visit.kind, visit.colour)]
    for a in once:
        for b in once:
            if a.last_s + 3 < b.first_s or b.last_s + 3 < a.first_s:
                is_before = a.first_s < b.first_s
                first = a.name if is_before else b.name
                answer = f"the {first}" if row["family"] == "earlier" else "before" if is_before else "after"
                query = Query(a.kind, a.colour, Query(b.kind, b.colour))
                yield answer, query, [], {"a": a.name, "b": b.name}


def _slot(visits: list[Visit]) -> str | None:
    return clock_slot(visits[0].first_s, visits[0].last_s) if visits else None


_FAMILIES: dict[str, Callable[[Seen, list[tuple[str, str | None]], Row], Iterator[Made]]] = {
    "existence": _existence,
    "colour": _colour,
    "count": _one(lambda visits: NUMBERS[len(visits)] if len(visits) < len(NUMBERS) else None),
    "when": _one(lambda visits: _slot(visits) if len(visits) == 1 else None),
    "first_seen": _one(_slot),
    "last_seen": _one(lambda visits: _slot(visits[-1:])),
    "where": _one(lambda visits: visits[0].place if len(visits) == 1 else None),
    "order": _order,
    "earlier": _order,
}


def on_worlds(rows: Sequence[Row], num_worlds: int, num_frames: int) -> Row:
    """Return how often the built-in model's answers to the wordings are right, on drawn worlds that it never saw."""
    model = VideoModel.load(BUILTIN)
    arm, outcomes, mistakes = Selection.of(model.info.defaults), [], []
    for number in range(num_worlds):
        clip = world_clip(31_000 + number, num_frames)
        assert clip.scene is not None
        asker = Asker(model, features_of(model, clip), clip.times)
        for question in asked_of(rows, clip.scene, clip.times - clip.start_unix, clip.start_unix, number):
            reading = asker.understood(question.text).reading
            assert reading is not None
            text = asker.ask(question.text, arm, in_steps=True).text
            outcome = judged(question, text, refused=reading.kind in REFUSALS)
            outcomes.append((question.family, outcome))
            if outcome != "right":
                wanted, read = true_answer(question), [reading.kind, *reading.things]
                mistakes.append({"text": question.text, "wanted": wanted, "read": read, "said": text})
    return {"families": table(outcomes), "mistakes": mistakes}


def judged(question: Question, text: str, *, refused: bool) -> str:
    """Return "right", "wrong" or "refused". text: the whole answer; refused: the question was not understood."""
    if is_correct(question, verdict_of(text)) or is_correct(question, text):
        return "right"
    return "refused" if refused or text.startswith(REFUSED) else "wrong"


def table(outcomes: Sequence[tuple[str, str]]) -> Row:
    """Return shares of outcomes by family. outcomes: (family, outcome)."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for family, outcome in outcomes:
        counts[family][outcome] += 1
        counts["all"][outcome] += 1
    return {
        family: {
            "asked": count.total(),
            **{name: round(count[name] / count.total(), 3) for name in ("right", "wrong", "refused")},
        }
        for family, count in sorted(counts.items())
    }
