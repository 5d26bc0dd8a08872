"""Questions that are answered in steps: what came before what, where (in which room, by which camera) a thing was seen, and how
often it came.

A small language model tells reliably when a thing came and guesses at the first two; and a time it names is that of a frame it
was shown (`model.clocks`). So each thing is asked about by itself, "when did the red car come?", and the frames of those
times tell the rest: which is earlier, and what their metadata says of the place. For a count it is asked of single frames,
the most relevant first, whether they show the thing (`model.visits`).

In: a question in English. Out: a `Plan` of questions to ask instead, or None; which frame an answer names; the words of an
answer. Told by its words, and meant to miss rather than to be wrong. Pure; it asks nothing itself.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from model.select import Keyframes

Kind = Literal["before or after", "before", "after", "first", "last", "zone", "camera", "count"]

_VERB = (
    r"(?:come|came|here|there|seen|been|arrived?|appear(?:ed)?|pass(?:ed)?|opened|enter(?:ed)?|show(?:ed)? up)"
    r"(?: by| in| past)?"
)
# Words that name no thing by themselves, or one among several, or a state, a time or a number of it, or are no part of a name:
# where one stands, more is asked than when a thing came.
_NO_NAME = (
    r"about|after|afternoon|again|all|alone|also|always|and|any|are|asleep|at|average|away|back|be|been|before|behind|both|"
    r"broken|busiest|but|by|camera|can|closed|damaged|dark|day|days|did|different|distinct|do|does|down|each|empty|end|ever|"
    r"every|fewest|first|for|four|from|gone|had|has|have|he|hours?|how|i|if|indoors|inside|is|it|just|last|latest|leave|"
    r"leaves|left|less|lights?|locked|many|midnight|minutes?|month|more|most|much|near|never|newest|next|night|no|nobody|"
    r"none|noon|not|now|of|off|often|oldest|on|once|one|only|open|or|other|others|out|outdoors|outside|parked|rain|really|"
    r"robot|rooms?|same|second|seconds|she|shut|snow|some|somebody|someone|start|still|stopped|storm|sun|than|that|their|"
    r"then|these|they|third|this|those|three|through|times?|to|today|together|tomorrow|tonight|turned|twice|two|unique|"
    r"unlocked|until|up|very|was|we|week|weekend|weeks|were|what|when|where|which|while|who|whose|will|year|yesterday|you"
)


def _thing(name: str, article: str = "(?:the|an?) ") -> str:
    """Up to three words, which may be followed by "with a" (the) and up to two more: "red car", "person with an orange bag"."""
    word = rf"(?!(?:{_NO_NAME}|the|an?|with|[a-z]+ing)\b)[a-z][a-z'-]*"
    return rf"{article}(?P<{name}>{word}(?: {word}){{0,2}}?(?: with (?:the|an?) {word}(?: {word})??)?)"


_A, _B, _AFTERWARDS = _thing("a"), _thing("b"), rf"(?: {_VERB})*"
_SEEN_TO = rf"(?: (?:{_VERB}|open))*"  # "did you see the door open"; "was the door open" asks about a state
_YOU_SAW = r"(?:did|have|had|has) (?:you|i|we|the robot)(?: ever)? (?:see|seen|notice|noticed|spot|spotted)"


def _came(article: str = "(?:the|an?) ") -> str:
    """ "did you see the A", "was the A here", "did the A come", "has the A been here"."""
    return "|".join(
        (
            rf"{_YOU_SAW} {_thing('a', article)}{_SEEN_TO}",
            rf"(?:was|were) {_thing('was', article)}{_AFTERWARDS}",
            rf"did {_thing('came', article)} (?:{_VERB}|open){_AFTERWARDS}",
            rf"(?:has|had|have) {_thing('has', article)}(?: {_VERB})+",
        )
    )


_CAME = rf"(?:{_came()})"
_OFTEN = rf"(?:{_came('(?:the|an?|any) ')}|{_thing('often', '(?:the|an?|any) ')} did (?:{_VERB}|open){_AFTERWARDS})"
_WHICH = r"(?:which|what|who)"
_IN_ALL = r"(?:so far|in all|in total|altogether)"
_FORMS = tuple(
    re.compile(form)
    for form in (
        rf"{_CAME} (?P<kind>before or after|after or before|before|after) {_B}{_AFTERWARDS}(?: did| was)?",
        rf"(?P<kind>before or after|after or before) {_B},? (?:when )?{_CAME}",
        rf"{_WHICH}(?: of (?:the two|them))? (?:{_VERB}|was(?: {_VERB})?|did you see) (?P<kind>first|last),? {_A} or {_B}",
        rf"(?:in )?(?:which|what) (?P<kind>room|zone|area) {_CAME}(?: in)?",
        rf"(?:on |by |with )?(?:which|what) (?P<kind>camera) {_CAME}(?: on| by)?",
        rf"which (?P<kind>camera) (?:saw|showed|has seen) {_A}",
        rf"where (?:was|were) (?:you|it|the (?P<kind>robot)) when (?:it|you|the robot) saw {_A}",
        # a robot asks for its own pose; "where did you see it?", asked of a camera, is a place in the picture
        rf"where (?:did|have|has) (?P<kind>i|we|the robot) (?:see|seen|notice|noticed|spot|spotted) {_A}",
        rf"(?:count )?how (?P<kind>many times|often) {_OFTEN}(?: {_IN_ALL})?",
        rf"how (?P<kind>many) {_thing('many', '')} (?:{_YOU_SAW}|(?:were |have )?{_VERB}{_AFTERWARDS})(?: {_IN_ALL})?",
    )
)
_KINDS: dict[str, Kind] = {
    "before or after": "before or after", "after or before": "before or after", "before": "before", "after": "after",
    "first": "first", "last": "last", "room": "zone", "zone": "zone", "area": "zone", "robot": "zone", "i": "zone", "we": "zone",
    "the robot": "zone", "camera": "camera", "many times": "count", "often": "count", "many": "count",
}  # fmt: skip
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_PLURALS = {"people": "person", "children": "child", "mice": "mouse", "geese": "goose", "knives": "knife", "wolves": "wolf",
            "leaves": "leaf", "shelves": "shelf", "feet": "foot"}  # fmt: skip
_SINGULARS = {"gas", "lens", "series"}
MOST_LISTED = 12
_POLITE = re.compile(r"^(?:(?:please|can you|could you|tell me|say)\s+)*")


@dataclass(frozen=True)
class Plan:
    """`things` as the question names them ("red car"): two in the order of the question, or one."""

    kind: Kind
    things: tuple[str, ...]

    @property
    def is_order(self) -> bool:
        """Are the times of two things compared?"""
        return len(self.things) > 1

    @property
    def whens(self) -> tuple[str, ...]:
        """What is asked instead: "when did the red car come?"; frames are chosen by these words."""
        return tuple(f"when did the {thing} {_comes(thing)}?" for thing in self.things)

    @property
    def evers(self) -> tuple[str, ...]:
        """What is asked first, of the same frames: a thing that never came has no time."""
        return tuple(f"did any {thing} ever {_comes(thing)}?" for thing in self.things)

    def came(self, number: int, time: str) -> str:
        """Words of one step: "the red car came at 14:03:22", or "was seen" where its place is asked."""
        thing = self.things[number]
        did = "was seen" if not self.is_order else "opened" if _comes(thing) == "open" else "came"
        return f"the {thing} {did} at {time}"

    def untold(self, number: int) -> str:
        """Words of a step whose answer names no time."""
        return f"I cannot tell when the {self.things[number]} {'opened' if _comes(self.things[number]) == 'open' else 'came'}"

    def never_came(self, number: int) -> str:
        """Words of a step that found nothing."""
        return f"I saw no {self.things[number]}"

    def count(self, times: Sequence[str], *, at_least: bool = False) -> str:
        """Words of a count, its verdict last: "A dog came at 14:03:22 and 15:10:01: two times"."""
        if not times:
            return f"I saw no {self.things[0]}: {number_word(0)} times"
        did = "opened" if _comes(self.things[0]) == "open" else "came"
        listed = (
            times if len(times) <= MOST_LISTED else [*times[:MOST_LISTED], f"{len(times) - MOST_LISTED} times more"]
        )
        told = " and ".join(", ".join(part) for part in (listed[:-1], listed[-1:]) if part)
        total = f"{'at least ' if at_least else ''}{number_word(len(times))} {'time' if len(times) == 1 else 'times'}"
        article = "An" if self.things[0][0] in "aeiou" else "A"
        return f"{article} {self.things[0]} {did} at {told}: {total}"

    def verdict(self, times: Sequence[float]) -> str:
        """What the times of both things come to: "before", "yes", "the red car"; of one moment: "at the same time"."""
        first, second = times
        if first == second:
            return "at the same time"
        earlier = first < second
        if self.kind in ("before", "after"):
            return "yes" if earlier == (self.kind == "before") else "no"
        if self.kind in ("first", "last"):
            return f"the {self.things[0] if earlier == (self.kind == 'first') else self.things[1]}"
        return "before" if earlier else "after"


def plan_of(question: str) -> Plan | None:
    """ "was the red car here before or after the dog?" -> Plan("before or after", ("red car", "dog")); "is it here?" -> None."""
    words = " ".join(question.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split())
    words = _POLITE.sub("", words).rstrip(" ?.!")
    for form in _FORMS:
        if found := form.fullmatch(words):
            named = found.groupdict()
            things = tuple(named[name] for name in ("a", "was", "came", "has", "often", "b") if named.get(name))
            if many := named.get("many"):
                things = (singular(many),)
            return None if len(set(things)) < len(things) else Plan(_KINDS[named["kind"] or "robot"], things)
    return None


def named_row(words: str, clocks: Sequence[str], keyframes: Keyframes) -> int | None:
    """The row of the keyframe whose time an answer names; of several with one clock time the one with the highest score.

    "it came at 12:34:56" with that clock before the second keyframe -> its row; None where no time is named.
    """
    named = [place for place, clock in enumerate(clocks) if clock in words]
    if not named:
        return None
    first = min(named, key=lambda place: (words.index(clocks[place]), -float(keyframes.scores[place])))
    return int(keyframes.rows[first])


def verdict_of(answer: str) -> str:
    """What an answer in steps comes to: "The red car came at 14:03:22, the dog came at 13:58:10: after." -> "after"; of
    a count the number alone."""
    return re.sub(r" times?$", "", answer.rpartition(": ")[2].rstrip(". "))


def means_no(answer: str) -> bool:
    """Is this the answer "no"? "No.", "no, I did not" """
    return re.match(r"\s*no\b", answer.lower()) is not None


def means_yes(answer: str) -> bool:
    """Is this the answer "yes"?"""
    return re.match(r"\s*yes\b", answer.lower()) is not None


def number_word(number: int) -> str:
    """0 -> "zero", 12 -> "twelve", 13 -> "13"."""
    return _NUMBERS[number] if number < len(_NUMBERS) else str(number)


def singular(things: str) -> str:
    """ "red cars" -> "red car", "boxes" -> "box", "people" -> "person"; of English, the usual cases."""
    *before, last = things.split()
    if last in _PLURALS:
        last = _PLURALS[last]
    elif last.endswith("men"):
        last = f"{last[:-3]}man"
    elif re.search(r"(?:ss|x|z|ch|sh|^bus|^lens|^gas)es$", last):
        last = last[:-2]
    elif re.search(r"[^aeiou]ies$", last):
        last = f"{last[:-3]}y"
    elif re.search(r"[^su]s$", last) and last not in _SINGULARS:
        last = last[:-1]
    return " ".join([*before, last])


def _comes(thing: str) -> str:
    return "open" if re.search(r"\b(?:door|gate|window)$", thing) else "come"
