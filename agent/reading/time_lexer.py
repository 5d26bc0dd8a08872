"""Turns the words of a question into symbols of time: one token for each phrase of `time_words` and each number.

Everything else becomes an "x"; `symbols` of the tokens is a text in which the grammar looks for patterns.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from agent.reading.scope_text import WORD, is_one_letter_off
from agent.reading.time_words import FUNCTION_WORDS, LANGUAGES, TABLES, Meaning
from agent.reading.times import clock

MAX_WORDS = 6  # of a phrase of the tables
MIN_FUZZY = 6  # letters of a word from which on one may be wrong

_PM = r"(?P<{0}>[ap])\.?\s?m\b\.?"
_CLOCK = re.compile(
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d{2})(?::\d{2})?|\s?h\s?(?P<minute_h>\d{2})\b|\.(?P<minute_dot>\d{2})"
    rf"(?=\s?(?:uhr\b|h\b|[ap]\.?\s?m\b)))(?:\s?{_PM.format('pm')}|\s?(?:uhr|h)\b)?(?![\d:])"
    rf"|(?P<hour_pm>\d{{1,2}})\s?{_PM.format('pm_alone')}"
    r"|(?P<hour_uhr>\d{1,2})\s?uhr(?:\s(?P<minute_uhr>[0-5]\d)\b)?"
)
_DATE = re.compile(
    r"(?P<iso>\d{4}-\d{2}-\d{2})(?=\D|$)|(?P<full>\d{1,2}[./]\d{1,2}[./](?:\d{4}|\d{2}))(?!\d)"
    r"|(?P<short>\d{1,2}\.\d{1,2}\.|\d{1,2}/\d{1,2})(?![\d/])"
)
_GERMAN_DAY = re.compile(
    r"((?:mon|diens|donners|frei|sams|sonn)tag|mittwoch)(fruh|vormittag|mittag|nachmittag|abend|nacht|morgen)s?"
)
_ISO_TIME = re.compile(r"(?<=\d)t(?=\d\d:)")
_ORDINAL = re.compile(r"(\d{1,2})(?:st|nd|rd|th|er|[ªº]|\.(?=\s?[a-z]))(?![a-z])")
_HOURS = re.compile(r"(\d{1,2})\s?h\b")
_COMPACT = re.compile(r"(\d+)(mins?|secs?|hrs?|std|[smdw])\b")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")
_UNITS = {"s": "s", "m": "m", "h": "h", "d": "d", "w": "w"}


@dataclass(frozen=True, slots=True)
class Token:
    """A symbol with its value, and the part of the text it stands for."""

    symbol: str
    value: Any
    start: int
    end: int


def symbols(tokens: Sequence[Token]) -> str:
    """Return the symbols of the tokens as one text, a character for each token."""
    return "".join(token.symbol for token in tokens)


def language_of(text: str) -> str:
    """Return the language whose small words the folded text has most of; English if it has none."""
    words = WORD.findall(text)
    counts = {
        name: sum(2 * (word in FUNCTION_WORDS[name]) + ((word,) in TABLES[name][0]) for word in words)
        for name in LANGUAGES
    }
    return max(LANGUAGES, key=lambda name: counts[name])


def tokens_of(text: str, language: str) -> list[Token]:
    """Return the tokens of a folded text, in order."""
    return list(_tokens(_ISO_TIME.sub(" ", text), language))


def _tokens(text: str, language: str) -> Iterator[Token]:
    place = 0
    while place < len(text):
        character = text[place]
        if character.isspace() or character in "'\"_":
            place += 1
            continue
        found = (
            _number(text, place, language)
            if character.isdigit()
            else _word(text, place, language)
            if character.isalpha()
            else [_sign(text, place)]
        )
        yield from found
        place = found[-1].end


def _sign(text: str, place: int) -> Token:
    character = text[place]
    if character in "-–—−":
        # a hyphen inside a word says nothing, one between two times means "to"
        inside = text[place - 1 : place].isalpha() and text[place + 1 : place + 2].isalpha()
        return Token("-" if not inside else "_", None, place, place + 1)
    symbol = {"&": "&", "(": "(", "+": "&"}.get(character, "," if character in ",;:)/|[]{}" else ".")
    return Token(symbol, None, place, place + 1)


def _number(text: str, place: int, language: str) -> list[Token]:
    """Return the token of a date, a time of day, an ordinal or a number, or two tokens for "5min"."""
    if place and (text[place - 1].isalpha() or text[place - 1] == "_"):
        end = _NUMBER.match(text, place)
        return [Token("x", "", place, end.end() if end else place + 1)]  # "cam2"
    if (found := _DATE.match(text, place)) and (date := _date(found)):
        return [Token("Y", date, place, found.end())]
    if (found := _CLOCK.match(text, place)) and (hours := _clock(found, language)):
        return [Token("C", hours, place, found.end())]
    if found := _ORDINAL.match(text, place):
        return [Token("O", int(found[1]), place, found.end())]
    if found := _HOURS.match(text, place):
        return [Token("H", float(found[1]), place, found.end())]
    if found := _COMPACT.match(text, place):
        unit = _UNITS[found[2][0]] if found[2] != "std" else "h"
        middle = found.end(1)
        return [Token("N", float(found[1]), place, middle), Token("U", unit, middle, found.end())]
    found = _NUMBER.match(text, place)
    if found is None or text[found.end() : found.end() + 1].isalpha() or len(found[0]) > 9:
        return [Token("x", "", place, found.end() if found else place + 1)]
    return [Token("N", float(found[0].replace(",", ".")), place, found.end())]


def _date(found: re.Match[str]) -> tuple[int | None, int, int] | None:
    """Return year (None: not said), and the two other numbers in the order written; month first in an ISO date."""
    if found["iso"]:
        year, month, day = map(int, found["iso"].split("-"))
        return (year, -month, day)
    numbers = [int(each) for each in re.split(r"[./]", (found["full"] or found["short"]).strip("."))]
    if not all(1 <= each <= 31 for each in numbers[:2]) or min(numbers[:2]) > 12:
        return None
    year_ = numbers[2] if len(numbers) > 2 else None
    return (year_ + 2000 if year_ is not None and year_ < 100 else year_, numbers[0], numbers[1])


def _clock(found: re.Match[str], language: str) -> Any:
    hour = int(found["hour"] or found["hour_pm"] or found["hour_uhr"])
    minute = int(found["minute"] or found["minute_h"] or found["minute_dot"] or found["minute_uhr"] or 0)
    half = found["pm"] or found["pm_alone"]
    if hour > 24 or minute > 59 or (hour == 24 and minute):
        return None
    goes_on = found.string[found.end() :].lstrip()[:1].isalnum()
    if half and found["hour_pm"] and language == "de" and " am" in found[0] and goes_on:
        return None  # "um 10 am Montag"
    if half and not 1 <= hour <= 12:
        half = None
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    said_twelve = language in ("en", "es") and 1 <= hour <= 12 and not half
    is_vague = said_twelve and found["hour"] is not None and len(found["hour"]) == 1
    return clock(60 * hour + minute, is_vague=is_vague)


def _word(text: str, place: int, language: str) -> list[Token]:
    """Return the token of the longest phrase that begins here."""
    words = [found] if (found := WORD.match(text, place)) else []
    while words and len(words) < MAX_WORDS:
        between = re.compile(r"(?:\s+|\s?['\-‐]\s?|\.\s?)").match(text, words[-1].end())
        found = WORD.match(text, between.end()) if between else None
        if found is None:
            break
        words.append(found)
    for count in range(len(words), 0, -1):
        phrase = tuple(word[0] for word in words[:count])
        for name in (language, *(each for each in LANGUAGES if each != language)):
            meanings, own = TABLES[name]
            if phrase in meanings and (name == language or phrase not in own):
                if count > 1 and "." in text[words[0].end() : words[count - 1].start()] and phrase != ("a", "m"):
                    continue
                symbol, value = meanings[phrase][0]
                return [Token(symbol, _value(symbol, value, language), place, words[count - 1].end())]
    if not words:
        return [Token("x", "", place, place + 1)]
    first = words[0]
    if (day := _GERMAN_DAY.fullmatch(first[0])) is not None:  # Montagabend
        middle = first.start() + day.end(1)
        return [*_word(text[:middle], place, "de"), *_word(text[: first.end()], middle, "de")]
    if (meant := _misspelt(first[0], language)) is not None:
        return [Token(meant[0], _value(*meant, language), place, first.end())]
    return [Token("x", first[0], place, first.end())]


@lru_cache(maxsize=1024)
def _misspelt(word: str, language: str) -> Meaning | None:
    """Return the meaning of the only long word of the language that is one letter off, if there is one."""
    if len(word) < MIN_FUZZY - 1 or word in FUNCTION_WORDS[language]:
        return None
    meanings = {
        phrase: each[0]
        for phrase, each in TABLES[language][0].items()
        if len(phrase) == 1 and len(phrase[0]) >= MIN_FUZZY and is_one_letter_off(word, phrase[0])
    }
    return next(iter(meanings.values())) if len(set(meanings.values())) == 1 else None


def _value(symbol: str, value: str, language: str) -> Any:
    if symbol in "N1hq":
        return float(value)
    if symbol in "DWJkMwBF":
        return int(value)
    if symbol == "I":
        name, _, offset = value.partition(" ")
        return name, (None if offset == "?" else int(offset))
    return value
