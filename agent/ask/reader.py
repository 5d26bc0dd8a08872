"""Read a question in English by rules: whether it is about the present, and its kind and things if it has a known form.

The rules are regular expressions. A question that matches none has no plan. This module does no input or output.
"""

import re
from dataclasses import dataclass
from typing import Literal

from agent.ask.sentences import OPENS
from agent.reading.types import Place, Reading

_ASKS = re.compile(
    r"(?:(?:please|can you|could you)\s+)*(?:(?:tell me|say|describe|show me)\s+)?"
    r"(?:what|who|which|whose|how many|is|are|can|do)\b"
)
_PRESENT = re.compile(r"\b(?:is|are|am|can|do you see|you see)\b|'s\b|'re\b")
_NOW = re.compile(r"\b(?:(?:right )?now|at (?:the|this)(?: very)? moment|at present|currently)\b")
# What may follow "now": nothing, or a place
_PLACE = re.compile(r"\s*(?:(?:at|in|on|by|near|inside|outside|before|behind)(?:\s+[\w'-]+){1,4})?\s*[?.!]*")
# Words of questions that need the past although they say "now": other times, change, comparison, last places
_MORE = re.compile(
    r"\b(?:ago|again|after|afternoon|all|already|anymore|back|been|between|by now|changes?|days?|did(?:n'?t)?|difference|"
    r"different|during|earlier|ever|every\w*|evening|far|first|from|gone|ha[ds](?:n'?t)?|have(?:n'?t)?|history|hours?|just|"
    r"last|less|long|longer|minutes?|missing|more|morning|new|next|night|noon|often|recently|same|since|so|still|than|then|"
    r"till|times?|today|tonight|until|up to|usual|usually|was(?:n'?t)?|weeks?|were(?:n'?t)?|when|where|while|whole|"
    r"yesterday|yet)\b"
)
_PAST = re.compile(
    r"\b(?!(?:closed|crowded|locked|parked|seated)\b)\w{2,}ed\b|\b(?:came|fell|left|ran|said|stood|took|went)\b"
)
_INSIDE = re.compile(r"[.?!:;](?=\s*\w)")  # more than one sentence


def about_now(question: str) -> bool:
    """Return whether the newest frames are enough to answer the question.

    They are for a single question in the present tense that says "now" or the like.

    True: "what can you see right now?", "who is at the door at the moment?". False: "did a dog come?", "what has
    changed until now?", and "where is the red box now?", which asks where the box was last seen.
    """
    words = _plain(question)
    if _ASKS.match(words) is None or _PRESENT.search(words) is None or _INSIDE.search(words) is not None:
        return False
    if _MORE.search(words) is not None or _PAST.search(words) is not None:
        return False
    return any(found[0] == "currently" or _PLACE.fullmatch(words, found.end()) for found in _NOW.finditer(words))


Kind = Literal[
    "before or after", "before", "after", "first", "last", "zone", "camera", "where", "side", "count", "first time",
    "last time", "ever",
]  # fmt: skip
_OF_ANY: tuple[Kind | None, ...] = ("ever", "first time", "last time")

_VERB = (
    r"(?:(?:come|came|here|there|seen|been|arrived?|appear(?:ed)?|pass(?:ed)?|opened|enter(?:ed)?|show(?:ed|n)? up)"
    r"(?: by| in| past| along)?|(?:go|went|drive|drove|driven|walk(?:ed)?|run|ran|ride|rode|ridden) (?:by|past))"
)
# Words that are not part of a thing's name (verbs, times, numbers, states, "another"). A question that has one of them
# where a name is expected asks for more than when a thing came, so it gets no plan.
_NO_NAME = (
    r"about|accident|accidents|activity|after|afternoon|again|ago|alarm|all|alone|already|also|always|and|any|anywhere|"
    r"april|are|around|asleep|at|ate|august|average|away|back|bark|barks|be|been|before|behind|between|both|break|broke|"
    r"broken|busiest|but|by|came|camera|can|carry|chance|change|changes|climb|close|closed|closes|come|comes|crash|crashes|"
    r"cross|cut|damage|damaged|danger|dark|dawn|day|days|december|delay|delays|did|difference|different|distinct|do|does|"
    r"down|downstairs|drive|driven|drives|drone|drop|drops|drove|during|dusk|each|earlier|early|eat|eaten|empty|end|enter|"
    r"evening|event|events|ever|every|everywhere|exit|fall|february|fell|fewest|fight|fire|first|flew|fly|for|found|four|"
    r"friday|from|get|go|goes|gone|got|had|has|have|he|held|here|hid|hidden|hide|hit|hold|hours?|how|i|if|in|incident|"
    r"incidents|indoors|inside|is|issue|issues|it|january|july|jump|jumps|june|just|last|late|lately|later|latest|lay|"
    r"leave|leaves|left|less|lie|lights?|locked|long|look|many|march|may|meet|midnight|minutes?|monday|month|more|morning|"
    r"most|motion|move|movement|moves|much|near|nearby|never|newest|news|next|night|no|nobody|noise|none|noon|not|november|"
    r"now|october|of|off|often|oldest|on|once|one|only|open|or|other|others|out|outdoors|outside|over|overnight|parked|"
    r"party|pass|passes|pick|play|power|problem|problems|put|rain|ran|really|reason|recently|ride|robot|rode|rooms?|rover|"
    r"run|runs|same|sat|saturday|second|seconds|september|she|shut|sign|since|sit|sleep|slept|snow|some|somebody|someone|"
    r"somewhere|speak|stand|start|steal|still|stole|stolen|stood|stop|stopped|stops|storm|sun|sunday|swam|swim|take|taken|"
    r"talk|than|that|their|then|there|these|they|third|this|those|three|threw|through|throw|thrown|thursday|times?|to|"
    r"today|together|tomorrow|tonight|took|trace|traffic|trouble|tuesday|turn|turned|twice|two|under|unique|unlocked|until|"
    r"up|upstairs|very|wait|walk|walks|was|we|wednesday|week|weekend|weeks|went|were|what|when|where|which|while|who|whose|"
    r"will|within|year|yesterday|you"
)


_DONE = r"(?!(?:red|bed|shed|sled|moped)\b)[a-z]+[^e]ed"  # "the bag dropped"


def _thing(name: str, article: str = "(?:the|an?) ") -> str:
    """Return a regular expression that matches the name of a thing and captures it in the group `name`.

    It matches up to three words, such as "red car", optionally followed by "with a" and up to two more, as in "person
    with a bag". article: the regular expression for the word that must precede the name, such as "the".
    """
    word = rf"(?!(?:{_NO_NAME}|the|an?|with|[a-z]+ing|{_DONE})\b)[a-z][a-z'-]*"
    return rf"{article}(?P<{name}>{word}(?: {word}){{0,2}}?(?: with (?:the|an?) {word}(?: {word})??)?)"


_A, _B, _AFTERWARDS = _thing("a"), _thing("b"), rf"(?: {_VERB})*"
_SEEN_TO = rf"(?: (?:{_VERB}|open))*"  # "did you see the door open"; "was the door open" asks about a state
_YOU_SAW = r"(?:did|have|had|has) (?:you|i|we|the robot)(?: ever)? (?:see|seen|notice|noticed|spot|spotted)"


def _came(article: str = "(?:the|an?) ", afterwards: str = _AFTERWARDS) -> str:
    """Return a regular expression for "did you see the A", "was the A here", "did the A come", "has the A been here".

    article: the regular expression for "the" or "a" before the thing A. afterwards: that for what may follow "was the
    A".
    """
    return "|".join(
        (
            rf"{_YOU_SAW} {_thing('a', article)}{_SEEN_TO}",
            rf"(?:was|were) {_thing('was', article)}{afterwards}",
            rf"did {_thing('came', article)}(?: ever)? (?:{_VERB}|open){_AFTERWARDS}",
            rf"(?:has|had|have) {_thing('has', article)}(?: ever)?(?: {_VERB})+",
        )
    )


_CAME = rf"(?:{_came()})"
_OFTEN = rf"(?:{_came('(?:the|an?|any) ')}|{_thing('often', '(?:the|an?|any) ')} did (?:{_VERB}|open){_AFTERWARDS})"
_WHICH, _CAME_WHICH = r"(?:which|what|who)", rf"(?:{_VERB}|was(?: {_VERB})?|did you see)"
_IN_ALL = r"(?:so far|in all|in total|altogether)"
_ANY = "(?:the|an?|any) "
_PICTURE = r"(?:the |your )?(?:picture|image|frame|view|scene)"
_NAMED, _OTHER = _thing("a", _ANY), _thing("came", _ANY)
_WHEN = r"(?:when|(?:at )?(?:what|which) time)"
_AT_ALL = r"(?:so far|yet|at all|in (?:the|this) (?:video|footage|recording)|on (?:camera|video))"
_SAW = r"(?:you|i|we|the robot)"
_BY_WORD: dict[str, Kind] = {
    "before or after": "before or after", "after or before": "before or after", "before": "before", "after": "after",
    "first": "first", "last": "last", "room": "zone", "zone": "zone", "area": "zone", "camera": "camera",
}  # fmt: skip
_BY_KIND: tuple[tuple[Kind | None, str], ...] = (  # None: the kind is that of the group "word" in _BY_WORD
    (None, rf"{_CAME} (?P<word>before or after|after or before|before|after) {_B}{_AFTERWARDS}(?: did| was)?"),
    (None, rf"(?P<word>before or after|after or before) {_B},? (?:when )?{_CAME}"),
    (None, rf"{_WHICH}(?: of (?:the two|them))? {_CAME_WHICH} (?P<word>first|last),? {_A} or {_B}"),
    (None, rf"(?:in )?(?:which|what) (?P<word>room|zone|area) {_CAME}(?: in)?"),
    (None, rf"(?:on |by |with )?(?:which|what) (?P<word>camera) {_CAME}(?: on| by)?"),
    (None, rf"which (?P<word>camera) (?:saw|showed|has seen) {_A}"),
    ("zone", rf"where (?:was|were) (?:you|it|the robot) when (?:it|you|the robot) saw {_A}"),
    # a robot asks for its own pose; "where did you see it?", asked of a camera, is a place in the picture
    ("zone", rf"where (?:did|have|has) (?:i|we|the robot) (?:see|seen|notice|noticed|spot|spotted) {_A}"),
    ("where", rf"where {_CAME}"),
    ("side", rf"where in {_PICTURE} {_CAME}"),
    ("side", rf"(?:on|at|to) (?:which|what) side(?: of {_PICTURE})? {_CAME}"),
    ("first time", rf"{_WHEN} (?:was|were) {_NAMED} first {_VERB}"),
    ("first time", rf"{_WHEN} did {_NAMED} first {_VERB}"),
    ("first time", rf"{_WHEN} did {_SAW} first (?:see|notice|spot) {_NAMED}"),
    ("first time", rf"(?:when|what) (?:was|is) the first time(?: that)? (?:{_SAW} saw {_NAMED}|{_OTHER}(?: was)? {_VERB})"),
    ("last time", rf"{_WHEN} (?:was|were) {_NAMED} last {_VERB}"),
    ("last time", rf"{_WHEN} did {_NAMED} last {_VERB}"),
    ("last time", rf"{_WHEN} did {_SAW} last (?:see|notice|spot) {_NAMED}"),
    ("last time", rf"(?:when|what) (?:was|is) the last time(?: that)? (?:{_SAW} saw {_NAMED}|{_OTHER}(?: was)? {_VERB})"),
    ("count", rf"(?:count )?how (?:many times|often) {_OFTEN}(?: {_IN_ALL})?"),
    ("count", rf"how many {_thing('many', '')} (?:{_YOU_SAW}|(?:were |have )?{_VERB}{_AFTERWARDS})(?: {_IN_ALL})?"),
    ("ever", rf"(?:{_came(_ANY, f'(?: {_VERB})+')})(?: {_AT_ALL})?"),  # "was the dog fed?" asks something else
    ("ever", rf"(?:(?:was|were) there(?: ever)?|(?:has|have) there(?: ever)? been) {_NAMED}{_AFTERWARDS}(?: {_AT_ALL})?"),
    ("ever", rf"(?:whether|if) (?:{_SAW} (?:ever )?saw {_NAMED}|{_OTHER}(?: ever)? {_VERB})(?: {_AT_ALL})?"),
)  # fmt: skip
_FORMS = tuple((kind, re.compile(form)) for kind, form in _BY_KIND)
_PLURALS = {"people": "person", "children": "child", "mice": "mouse", "geese": "goose", "knives": "knife", "wolves": "wolf",
            "leaves": "leaf", "shelves": "shelf", "feet": "foot"}  # fmt: skip
_SINGULARS = {"gas", "lens", "series", "glasses", "scissors"}
# In "did you see a man argue" the word after such a noun may be an unknown verb
_DOERS = frozenset(
    {
        *("person", "man", "woman", "child", "boy", "girl", "kid", "baby", "people", "guard", "postman", "mailman"),
        *("driver", "stranger", "robot", "dog", "cat", "bird", "horse", "cow"),
        *("car", "truck", "bus", "van", "bike", "bicycle", "motorcycle", "train"),
    }
)
_SEEN = re.compile(r"\b(?:see|saw|seen|notice|noticed|spot|spotted)\b")
_POLITE = re.compile(r"^(?:(?:please|can you|could you|tell me|say)\s+)*")


@dataclass(frozen=True)
class Plan:
    """What a question asks by these rules: its kind and the one or two things that it is about, in its words and order."""

    kind: Kind
    things: tuple[str, ...]


def plan_of(question: str) -> Plan | None:
    """Return what a question asks, or None if it has no known form.

    "was the red car here before or after the dog?" -> Plan("before or after", ("red car", "dog"))
    "is it here?" -> None
    """
    words = _POLITE.sub("", _plain(question)).rstrip(" ?.!")
    for kind, form in _FORMS:
        if found := form.fullmatch(words):
            named = found.groupdict()
            things = tuple(named[name] for name in ("a", "was", "came", "has", "often", "b") if named.get(name))
            if many := named.get("many"):
                things = (singular(many),)
            elif kind in _OF_ANY:  # "were there any dogs?"
                things = (singular(things[0]),)
            if _SEEN.search(words) and any(map(_may_do, things)):
                return None
            return None if len(set(things)) < len(things) else Plan(kind or _BY_WORD[named["word"]], things)
    return None


def reading_of(question: str) -> Reading:
    """Return what a question asks, by these rules."""
    if about_now(question):
        return Reading("present")
    plan = plan_of(question)
    if plan is None:
        return Reading("describe")
    match plan.kind:
        case "ever":
            return Reading("existence", plan.things)
        case "first time" | "last time":
            return Reading("first" if plan.kind == "first time" else "last", plan.things)
        case "count":
            return Reading("count", plan.things)
        case "zone" | "camera" | "side" | "where":
            places: dict[str, Place] = {"zone": "room", "camera": "camera", "side": "side"}
            return Reading("where", plan.things, place=places.get(plan.kind, ""))
        case relation:
            return Reading("order", plan.things, relation=relation)


def _may_do(thing: str) -> bool:
    """Return whether the last word of the name may be a verb: "man argue", "old dog yawn".

    False for "man with a hat" and "car door".
    """
    named = thing.split(" with ")[0].split()
    doing = named[next((place for place, word in enumerate(named) if word in _DOERS), len(named)) + 1 :]
    return bool(doing) and not OPENS.search(thing)


def _plain(question: str) -> str:
    """Return the text of the question in lower case, with single spaces and straight apostrophes."""
    return " ".join(question.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split())


def singular(things: str) -> str:
    """Return the singular of a thing's name by the usual rules: "red cars" -> "red car", "people" -> "person"."""
    things, *others = re.split(r"(?= with )", things, maxsplit=1)
    *before, last = things.split()
    if last in _SINGULARS:
        pass
    elif last in _PLURALS:
        last = _PLURALS[last]
    elif last.endswith("men"):
        last = f"{last[:-3]}man"
    elif re.search(r"(?:ss|x|z|ch|sh|^bus|^lens|^gas)es$", last):
        last = last[:-2]
    elif re.search(r"[^aeiou]ies$", last):
        last = f"{last[:-3]}y"
    elif re.search(r"[^su]s$", last):
        last = last[:-1]
    return " ".join([*before, last]) + "".join(others)
