"""The sentences of an answer that is composed from visits, and the short questions that the model is asked for it.

A visit is a stretch of time in which a thing was in view. Whoever looked at the pictures says "came"; where nobody
could look, and only the relevance of the pictures is known, the sentences say "stood out". Pure text.
"""

import re
from collections.abc import Sequence

MOST_LISTED = 12
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
OPENS = re.compile(r"\b(?:door|gate|window)$")
_TOKEN = re.compile(r"\s*(?:\w+|[^\w\s])")
_NUMBERED = re.compile(r"(\d+)\W{0,6}(?:is |shows? )?(yes|no)\b", re.IGNORECASE)
_NONE = re.compile(r"\W*(?:none|no|neither)\b", re.IGNORECASE)


def article(thing: str) -> str:
    """Return the thing with its indefinite article: "an orange car"."""
    return f"{'an' if thing[:1] in 'aeiou' else 'a'} {thing}"


def capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def number_word(number: int) -> str:
    """Return the number as a word up to twelve, else in digits: 0 -> "zero", 12 -> "twelve", 13 -> "13"."""
    return _NUMBERS[number] if number < len(_NUMBERS) else str(number)


def joined(items: Sequence[str]) -> str:
    """Return "a, b and c", with "... and 3 more" in place of all after the twelfth."""
    listed = items if len(items) <= MOST_LISTED else [*items[:MOST_LISTED], f"{len(items) - MOST_LISTED} more"]
    return " and ".join(part for part in (", ".join(listed[:-1]), *listed[-1:]) if part)


# --- questions to the model ---


def ever_question(thing: str) -> str:
    """Return "did any red car ever come?", in the words that the built-in model was trained on."""
    return f"did any {thing} ever {'open' if OPENS.search(thing) else 'come'}?"


def when_question(thing: str) -> str:
    """Return "when did the red car come?", in the words that the built-in model was trained on."""
    return f"when did the {thing} {'open' if OPENS.search(thing) else 'come'}?"


def shows_question(thing: str) -> str:
    """Return the question whether one picture shows a thing, for models that follow instructions."""
    return f'Does this picture show this: "{thing}"? Answer with exactly one word: "yes" or "no".'


def which_question(thing: str, count: int) -> str:
    """Return the question which of several pictures show a thing, for models that follow instructions."""
    return (
        f"These are {count} pictures, numbered 1 to {count} in the order shown. Judge each by itself: does it show this: "
        f'"{thing}"? Answer with {count} lines and nothing else, one for each picture, such as "1: yes" or "2: no".'
    )


def read_which(text: str, count: int) -> list[bool | None]:
    """Return for each of `count` pictures what the answer to `which_question` says of it. None: nothing.

    An answer without numbers that begins with "none" or "no" is about all of them.
    """
    said: dict[int, bool] = {}
    for number, word in _NUMBERED.findall(text):
        said.setdefault(int(number), word.lower() == "yes")
    if not said and _NONE.match(text):
        return [False] * count
    return [said.get(number) for number in range(1, count + 1)]


def means_yes(answer: str) -> bool:
    """Return whether an answer begins with "yes"."""
    return re.match(r"\W*yes\b", answer.lower()) is not None


def means_no(answer: str) -> bool:
    """Return whether an answer begins with "no"."""
    return re.match(r"\W*no\b", answer.lower()) is not None


# --- answers ---


class Wording:
    """The sentences about one thing. looked: somebody looked at the pictures; if not, only their relevance is known."""

    def __init__(self, thing: str, *, looked: bool = True) -> None:
        self.thing = thing
        self._looked = looked
        self._did = ("opened" if OPENS.search(thing) else "came") if looked else "stood out"
        self._some = article(thing) if looked else f"something like {article(thing)}"

    def never(self) -> str:
        """ "I saw no red car"."""
        return f"I saw no {self.thing}" if self._looked else f"nothing like {article(self.thing)} stood out"

    def existence(self, time: str | None) -> str:
        """ "Yes, a red car came at 14:03:22"; "No, I saw no red car". time: None: it never came."""
        if not self._looked:
            return capital(self.never() if time is None else f"{self._some} stood out at {time}")
        return f"No, {self.never()}" if time is None else f"Yes, {self._some} {self._did} at {time}"

    def when(self, times: Sequence[str]) -> str:
        """ "A red car came at 14:03:22 and 15:10:01"."""
        return capital(f"{self._some} {self._did} at {joined(times)}" if times else self.never())

    def seen(self, times: Sequence[str]) -> str:
        """ "A red car was seen at 14:03:22 and 15:10:01"."""
        return capital(f"{self._some} was seen at {joined(times)}") if times and self._looked else self.when(times)

    def count(self, times: Sequence[str], *, at_least: bool, wanted: int | None = None) -> str:
        """ "A red car came at 14:03:22 and 15:10:01: two times", or "I saw no red car: zero times".

        at_least: there may be more. wanted: the number that the question asks about ("more than two" is 3), which the
        answer then says yes or no to.
        """
        number = f"{number_word(len(times))} {'time' if len(times) == 1 else 'times'}"
        told = f"{self.when(times)}: {'at least ' if at_least and times else ''}{number}"
        if wanted is None or not self._looked:
            return told
        if len(times) < wanted and at_least:
            return f"I cannot tell. {told}"
        return f"{'Yes' if len(times) >= wanted else 'No'}. {told}"

    def end(self, which: str, time: str) -> str:
        """ "A red car was first seen at 14:03:22". which: "first" or "last"."""
        was = f"was {which} seen" if self._looked else f"{which} stood out"
        return capital(f"{self._some} {was} at {time}")

    def duration(self, spans: Sequence[str], total: str) -> str:
        """ "A red car was there from 14:03 to 14:10: 7 min". spans: "from 14:03 to 14:10". total: "7 min"."""
        if not spans:
            return capital(self.never())
        was = "was there" if self._looked else "stood out"
        return capital(f"{self._some} {was} {joined(spans)}: {total}{' in all' if len(spans) > 1 else ''}")

    def clause(self, time: str) -> str:
        """ "the red car came at 14:03:22"."""
        return f"the {self.thing} {self._did} at {time}"

    def place(self, time: str, place: str) -> str:
        """ "The red car was seen at 14:03:22: on the left of the picture"."""
        return f"The {self.thing} was seen at {time}: {place}"


def order_of(relation: str, things: Sequence[str], times: Sequence[float]) -> str:
    """Return the result of comparing the times of two things, in unix seconds: "before", "yes", "the red car", ..."""
    first, second = times
    if first == second:
        return "at the same time"
    earlier = first < second
    if relation in ("before", "after"):
        return "yes" if earlier == (relation == "before") else "no"
    if relation in ("first", "last"):
        return f"the {things[0] if earlier == (relation == 'first') else things[1]}"
    return "before" if earlier else "after"


def more_often(names: Sequence[str], counts: Sequence[int]) -> str:
    """Return which of two was more often: "more often: the dog", or "equally often"."""
    if counts[0] == counts[1]:
        return "equally often"
    return f"more often: {names[0] if counts[0] > counts[1] else names[1]}"


def cut(text: str, limit: int | None) -> tuple[str, int, bool]:
    """Return the text up to `limit` words and marks, their number, and whether something was cut off. None: no limit."""
    tokens = [found.end() for found in _TOKEN.finditer(text)]
    if limit is None or len(tokens) <= limit:
        return text, len(tokens), False
    return text[: tokens[limit - 1]], limit, True


def verdict_of(answer: str) -> str:
    """Return the result alone from a composed answer.

    "The red car came at 14:03:22, the dog came at 13:58:10: after." -> "after"; "Yes, a dog came at 14:03." -> "yes".
    For a count the result is the number, for a side of the picture the side, for a first or last time the time.
    """
    if found := re.match(r"(yes|no)\b", answer.lower()):
        return found[1]
    verdict = re.sub(r" \(camera [^)]*\)$", "", answer.rpartition(": ")[2].rstrip(". "))
    return re.sub(
        r" times?$|^(?:on|in) the (?=left|middle|right)| of the picture$|^.* (?:first|last) seen at ", "", verdict
    )
