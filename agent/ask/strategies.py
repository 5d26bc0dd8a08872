"""Answer a question by the strategy for its kind: compose the answer from visits, or choose frames and let words follow.

When, how often, how long, where and in which order a thing came is composed from its visits, the stretches of time with
the thing in view (`agent.ask.finding`). Everything else is answered in the answerer's own words, about frames that the
strategy chooses. If nobody can look, because no language model is configured or it is away, the kinds in `ALONE` are
answered from the relevance of the frames alone, and say so.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.ask.answerer import Answerer
from agent.ask.checks import checked
from agent.ask.finding import Finder, Found
from agent.ask.inquiry import Inquiry
from agent.ask.keyframes import Chooser, Search, frames_per_camera, seen, seen_in_all
from agent.ask.overview import Overview
from agent.ask.question import Question, Seen, Step
from agent.ask.sentences import Wording, capital, cut, more_often, order_of, when_question
from agent.ask.visit_words import VisitWords
from agent.errors import AnswererAway
from agent.reading.types import Kind, Reading
from agent.runtime.lanes import Priority
from agent.settings.settings import AnsweringSettings
from agent.times import format_span, format_time
from memory.window import Window
from model.familiarity import CANNOT_TELL
from model.pointing import AROUND_ROWS, boxes_of, side_during_stay
from model.visit_search import End, Visit

if TYPE_CHECKING:
    from model.features import Defaults

Events = AsyncGenerator[str | Step | Seen, None]

ALONE: frozenset[Kind] = frozenset({"existence", "when", "first", "last", "count", "list", "find", "duration"})
"""Kinds that are answered from relevance alone when nobody can look at pictures."""
FROM_VISITS: frozenset[Kind] = ALONE | {"where", "order", "compare"}
ABOUT_NOW: frozenset[Kind] = frozenset({"present", "state"})

SOME_FOREIGN = "some of these cameras show what this model was not trained on; nothing said of them is reliable"
NOT_LOOKED = "answered from the relevance of the pictures alone; no language model looked at them"
NO_VERDICT = "the model told of no picture whether it shows"
NOTHING_STANDS_OUT = "nothing stands out for this question: no stretch of time is clearly more relevant than the others"
_ENDS: dict[Kind, End] = {"existence": "any", "first": "first", "last": "last", "where": "last", "state": "last"}
_GAVE_UP = {"first": "before it", "last": "after it"}
OFFLINE_S = 60.0
OFFLINE_INTERVALS = 10.0  # a camera is offline if its newest picture is older than this many intervals and OFFLINE_S


class Strategies:
    """Answers questions about windows with one answerer."""

    def __init__(
        self,
        chooser: Chooser,
        answerer: Answerer[Any],
        settings: AnsweringSettings,
        defaults: "Defaults",
        zone_of: Callable[[str], str],
    ) -> None:
        """defaults: of the checkpoint that encodes frames and texts. zone_of: returns the time zone of a camera."""
        self._chooser = chooser
        self._answerer = answerer
        self._settings = settings
        self._defaults = defaults
        self._zone_of = zone_of
        self._finder = Finder(chooser, answerer, settings, defaults.wording)
        self._overview = Overview(chooser, answerer, settings, zone_of)

    def answers_alone(self, question: Question, reading: Reading) -> bool:
        """Return whether this question can be answered although the answerer is away."""
        return self.is_composed(question, reading) and reading.kind in ALONE

    def search_texts(self, question: Question, reading: Reading) -> tuple[str, ...]:
        """Return the texts by which the frames of this question are searched."""
        if self.is_composed(question, reading):
            return tuple(map(self._finder.phrase, reading.things))
        return (self._search_text(question, reading),)

    async def events(self, inquiry: Inquiry) -> Events:
        """Yield the answer: the evidence, steps, and pieces of text. Raises a Problem."""
        reading, question = inquiry.reading, inquiry.question
        if self.is_composed(question, reading):
            events = self._cut(self._composed(inquiry), inquiry)
        elif reading.kind == "overview" and question.priority is Priority.QUESTION and self._answerer.pictures_per_look:
            events = self._overview.events(inquiry)
        else:
            events = self._in_words(inquiry)
        async with aclosing(events):
            async for event in events:
                yield event

    # --- in the answerer's own words ---

    async def _in_words(self, inquiry: Inquiry) -> Events:
        question, kind = inquiry.question, inquiry.reading.kind
        selection = inquiry.selection
        if kind == "state" and question.recent is None:
            selection = replace(selection, recent=max(1, selection.num_keyframes // 4))
        text = self._search_text(question, inquiry.reading)
        inquiry.chosen = await self._chooser.choose(inquiry.window, Search((text,)), selection, inquiry.watch)
        [chosen] = inquiry.chosen
        context = await self._answerer.prepare(inquiry.window, [chosen], question, inquiry.watch)
        inquiry.tally = context.tally
        inquiry.notes += context.notes
        if selection.rule == "visits" and kind not in ABOUT_NOW and question.priority is Priority.QUESTION:
            inquiry.notes += [] if chosen.keyframes.visits else [NOTHING_STANDS_OUT]
        if kind == "present":
            inquiry.notes += self._ages(inquiry.window, inquiry.now)
        yield context.seen
        pieces = self._answerer.stream(question, context)
        if question.priority is Priority.QUESTION:
            pieces = checked(pieces, inquiry.reading, question, context.seen, self._zone_of)
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    def _search_text(self, question: Question, reading: Reading) -> str:
        """Return the text by which keyframes are chosen: for a dual encoder of its own the thing, else the question.

        A question such as "and what colour was it?" does not name its subject; the message before it often does.
        """
        if self._defaults.query == "thing" and reading.things and question.priority is Priority.QUESTION:
            return " and ".join(reading.things)
        before = [said.text for said in question.earlier if said.role == "user"][-1:]
        return " ".join((*(before if self._answerer.reads_conversations else ()), question.core))

    def _ages(self, window: Window, now: float) -> list[str]:
        """Return a note for each camera whose newest picture is too old to show what is there now."""
        notes, first = [], 0
        for camera, size in zip(window.cameras, frames_per_camera(window), strict=True):
            times = window.times[first : first + size]
            first += size
            usual_s = float(np.median(np.diff(times))) if size > 1 else 0.0
            if size and (age_s := now - float(times[-1])) > max(OFFLINE_S, OFFLINE_INTERVALS * usual_s):
                notes.append(f"the newest picture of {camera} is {format_span(age_s)} old: the camera is offline")
        return notes

    # --- composed from visits ---

    def is_composed(self, question: Question, reading: Reading) -> bool:
        """Return whether the answer is composed from visits; otherwise it is in the answerer's own words."""
        if not self._settings.in_steps or question.priority is not Priority.QUESTION or not reading.things:
            return False
        if reading.kind == "state":  # a model that follows no instructions cannot be asked about a state
            return self._answerer.judge_manner == "question"
        if reading.kind == "order":
            return len(reading.things) == 2
        return reading.kind in FROM_VISITS

    async def _composed(self, inquiry: Inquiry) -> Events:
        """Yield the answer from visits; from relevance alone if the answerer has no eyes or is away."""
        answers_alone, problem = inquiry.reading.kind in ALONE, self._answerer.problem
        is_away = self._answerer.pictures_per_look == 0 or problem is not None
        if not (is_away and answers_alone):
            try:
                async with aclosing(self._by_kind(inquiry, looked=True)) as events:
                    async for event in events:
                        yield event
                return
            except AnswererAway as away:
                if not answers_alone:
                    raise
                problem = away.message
        inquiry.notes.append(f"{NOT_LOOKED}{f': {problem}' if problem else ''}".rstrip("."))
        async with aclosing(self._by_kind(inquiry, looked=False)) as events:
            async for event in events:
                yield event

    def _by_kind(self, inquiry: Inquiry, *, looked: bool) -> Events:
        match inquiry.reading.kind:
            case "order":
                return self._order(inquiry)
            case "compare":
                return self._compare(inquiry)
            case _:
                return self._one_thing(inquiry, looked=looked)

    async def _one_thing(self, inquiry: Inquiry, *, looked: bool) -> Events:
        """Yield the answer about the first thing of the question."""
        found = await self._rank(inquiry, inquiry.window, inquiry.reading.things[0], _ENDS.get(inquiry.reading.kind))
        if looked:
            yield seen(inquiry.window, found.keyframes([visit.best for visit in found.visits] or [_best(found)]))
            async for step in self._finder.look(
                inquiry.window, found, inquiry.question, inquiry.budget, inquiry.tally, inquiry.watch
            ):
                yield step
            self._note_looks(inquiry, found)
        yield await self._evidence(inquiry, inquiry.window, found)
        yield CANNOT_TELL if found.foreign == 1 else await self._text(inquiry, found)

    async def _text(self, inquiry: Inquiry, found: Found) -> str:
        words, visits = VisitWords(inquiry.window, self._zone_of), found.visits
        wording, kind = Wording(found.thing, looked=found.looked), inquiry.reading.kind
        times = [words.begin(visit) for visit in visits]
        if kind == "count":
            text = wording.count(times, at_least=found.at_least, wanted=inquiry.reading.at_least)
        elif kind == "existence":
            text = wording.existence(words.at(visits[0].best) if visits else None)
        elif not visits:
            text = capital(wording.never())
        elif kind in ("first", "last"):
            text = wording.end(kind, words.at(visits[0].first if kind == "first" else visits[0].last))
        elif kind == "duration":
            text = wording.duration([words.span(visit) for visit in visits], words.total(visits))
        elif kind == "state":
            text = self._state(inquiry.window, words, wording, visits[0])
        elif kind == "where":
            text = wording.place(words.time(visits[0].best), await self._place_of(inquiry, words, found))
        else:
            text = wording.seen(times) if kind == "find" else wording.when(times)
        return f"{text}."

    async def _order(self, inquiry: Inquiry) -> Events:
        """Yield when the two things came, each as soon as it is known, and which was earlier."""
        reading, words = inquiry.reading, VisitWords(inquiry.window, self._zone_of)
        parts: list[Seen] = []
        times: list[float] = []
        for number, thing in enumerate(reading.things):
            found = await self._rank(inquiry, inquiry.window, thing, "last" if reading.relation == "last" else "first")
            async for step in self._finder.look(
                inquiry.window, found, inquiry.question, inquiry.budget, inquiry.tally, inquiry.watch
            ):
                yield step
            self._note_looks(inquiry, found)
            parts.append(await self._evidence(inquiry, inquiry.window, found))
            yield seen_in_all(parts)
            if found.foreign == 1 or not found.visits or not found.looked:
                never = (
                    f"{capital(Wording(thing).never())}." if found.looked else f"I cannot tell when the {thing} came."
                )
                said = CANNOT_TELL if found.foreign == 1 else never
                yield f"{'. ' if number else ''}{said}"
                return
            [visit] = found.visits
            row = visit.last if reading.relation == "last" else visit.first
            clause = Wording(thing).clause(words.time(row))
            yield f", {clause}" if number else capital(clause)
            times.append(float(inquiry.window.times[row]))
        yield f": {order_of(reading.relation, reading.things, times)}."

    async def _compare(self, inquiry: Inquiry) -> Events:
        """Yield how often each of two things came, or one thing in each of several stretches of time."""
        reading = inquiry.reading
        windows = (inquiry.window, *inquiry.others)
        asked = [
            (self._stretch(each) if inquiry.others else "", each, thing) for each in windows for thing in reading.things
        ]
        parts: list[Seen] = []
        counts: list[int] = []
        for number, (name, window, thing) in enumerate(asked):
            found = await self._rank(inquiry, window, thing, None)
            async for step in self._finder.look(
                window, found, inquiry.question, inquiry.budget, inquiry.tally, inquiry.watch
            ):
                yield step
            self._note_looks(inquiry, found)
            parts.append(await self._evidence(inquiry, window, found))
            yield seen_in_all(parts)
            if found.foreign == 1:
                yield CANNOT_TELL
                return
            times = [VisitWords(window, self._zone_of).begin(visit) for visit in found.visits]
            told = Wording(thing, looked=found.looked).count(times, at_least=found.at_least)
            yield f"{' ' if number else ''}{f'{capital(name)}: ' if name else ''}{told}."
            counts.append(len(found.visits))
        if len(counts) == 2:
            names = [name or f"the {thing}" for name, _, thing in asked]
            yield f" {capital(more_often(names, counts))}."

    # --- parts of composed answers ---

    def _stretch(self, window: Window) -> str:
        """Return the name of a stretch of time: "from 2026-11-22 09:00 to ..."."""
        zone = self._zone_of(window.cameras[int(window.camera_index[0])])
        return f"from {format_time(float(window.times.min()), zone)} to {format_time(float(window.times.max()), zone)}"

    async def _rank(self, inquiry: Inquiry, window: Window, thing: str, only: End | None) -> Found:
        return await self._finder.rank(window, thing, only, inquiry.watch)

    def _note_looks(self, inquiry: Inquiry, found: Found) -> None:
        """Note how many pictures were looked at, in place of the note about the search before."""
        spent, begin = inquiry.budget, "answered from visits (answering.in_steps): "
        inquiry.notes = [note for note in inquiry.notes if not note.startswith(begin)]
        calls = f" in {spent.num_calls} calls" if spent.num_calls < spent.num_pictures else " one by one"
        inquiry.notes.append(f"{begin}{spent.num_pictures} pictures were looked at{calls}")
        if not found.looked:
            inquiry.notes.append(f"{NO_VERDICT} {found.thing}: answered from the relevance of the pictures alone")
            return
        if 0 < found.foreign < 1:
            inquiry.notes.append(SOME_FOREIGN)
        if (
            found.at_least
            and inquiry.reading.kind not in ("count", "compare")
            and not (found.only == "any" and found.visits)
        ):
            beside = f" {_GAVE_UP[found.only]}" if found.visits and found.only in _GAVE_UP else ""
            inquiry.notes.append(
                f"the search was given up after {spent.num_pictures} pictures: there may be one{beside}"
            )

    async def _evidence(self, inquiry: Inquiry, window: Window, found: Found) -> Seen:
        """Return the frames that prove the visits, with boxes around the thing; those looked at if there is no visit."""
        words = VisitWords(window, self._zone_of)
        rows = [
            row
            for visit in found.visits
            for row in (
                visit.first,
                visit.best,
                *([visit.last] if words.is_long(visit) or found.only == "last" else []),
            )
        ]
        keyframes = found.keyframes(rows or list(found.shows) or [_best(found)])
        boxes = {}
        if found.looked and found.visits and found.foreign == 0:
            pointed = await self._answerer.pointed(
                window, keyframes.rows, self._finder.phrase(found.thing), again=False
            )
            if pointed is not None:
                boxes = {int(row): boxes_of(each) for row, each in zip(*pointed, strict=True)}
        return seen(window, keyframes, boxes)

    def _state(self, window: Window, words: VisitWords, wording: Wording, visit: Visit) -> str:
        same = np.flatnonzero(window.camera_index == window.camera_index[visit.last])
        newest = int(same[-1])
        if visit.last == newest:
            return f"Yes, the {wording.thing} is in the newest picture, of {words.at(newest)}"
        last = wording.end("last", words.at(visit.last))
        return f"No, {last[0].lower()}{last[1:]}; the newest picture is of {words.time(newest)}"

    async def _place_of(self, inquiry: Inquiry, words: VisitWords, found: Found) -> str:
        """Return where the thing was seen: the camera, the place in the frame's metadata, or the side of the picture."""
        place, [visit] = inquiry.reading.place, found.visits
        if place == "camera":
            return f"camera {words.camera(visit.best)}"
        where = "" if place == "side" else words.whereabouts(visit.best)
        if not where and place != "room":
            where = await self._side(inquiry, found) or "I cannot tell on which side of the picture"
        if not where:
            return f"camera {words.camera(visit.best)}, which sent nothing of where it was"
        return words.with_camera(visit.best, where)

    async def _side(self, inquiry: Inquiry, found: Found) -> str:
        """Return on which side of the picture the thing was in its visit; "" if that cannot be told."""
        window, [visit] = inquiry.window, found.visits
        same = np.flatnonzero(window.camera_index == window.camera_index[visit.best])
        at = int(np.searchsorted(same, visit.best))
        rows = same[max(0, at - AROUND_ROWS) : at + AROUND_ROWS + 1]
        pointed = await self._answerer.pointed(window, rows, when_question(found.thing), again=True)
        if pointed is not None:
            rows, presences = pointed
            place = int(np.searchsorted(rows, visit.best))
            return side_during_stay(presences, place, window.times[rows]) if len(rows) else ""
        text = (
            f'On which side of this picture is "{found.thing}"? Answer with exactly one word: '
            '"left", "middle", "right", or "unclear".'
        )
        asked = replace(inquiry.question, text=text, words=None, earlier=(), max_new_tokens=16)
        inquiry.budget.spend(1)
        looked = await self._answerer.look(window, np.array([visit.best], np.int64), asked, inquiry.tally)
        said = looked.text.strip("\"'*_. \n").lower()
        sides = {"left": "on the left", "middle": "in the middle", "centre": "in the middle", "right": "on the right"}
        return f"{sides[said]} of the picture" if said in sides else ""

    async def _cut(self, events: Events, inquiry: Inquiry) -> Events:
        """Yield the events, the text only up to the asker's token limit. A token of a composed answer is a word or mark.

        The configured limit bounds the model's work and does not apply: nothing is generated here.
        """
        limit, num_tokens, looks = inquiry.question.max_new_tokens, 0, inquiry.tally
        async with aclosing(events):
            async for event in events:
                if not isinstance(event, str):
                    yield event
                    continue
                told, count, was_cut = cut(event, None if limit is None else limit - num_tokens)
                num_tokens += count
                yield told
                if was_cut:
                    looks.finish_reason = "length"
                    break
        looks.completion_tokens = num_tokens


def _best(found: Found) -> int:
    return int(np.argmax(found.scores))
