"""Rules of the grammar of time: a pattern over symbols, and what it makes of the tokens that it matches."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agent.reading.time_lexer import Token, symbols
from agent.reading.time_words import FUNCTION_WORDS
from agent.reading.times import Calendar

FUNCTION = frozenset().union(*FUNCTION_WORDS.values())
YEARS = range(1970, 2200)  # numbers that are years


@dataclass(frozen=True, slots=True)
class Match:
    """The tokens that a rule's pattern matched, with the tokens around them.

    before: the symbol before them, "" at the beginning; word_before: its value. ends: nothing follows that could be
    counted: "around 9" is a time of day, "around 9 cars" is not.
    """

    tokens: Sequence[Token]
    head: str
    before: str
    word_before: Any
    ends: bool
    language: str
    calendar: Calendar

    def of(self, kinds: str) -> list[Any]:
        """Return the values of the tokens with these symbols."""
        return [token.value for token in self.tokens if token.symbol in kinds]


Made = tuple[str, Any] | None  # symbol and value; None: the rule does not apply after all
Make = Callable[[Match], Made]
Rule = tuple[re.Pattern[str], Make]


def rule(pattern: str, make: Make) -> Rule:
    """Return a rule."""
    return re.compile(pattern), make


def reduced(tokens: Sequence[Token], rules: Sequence[Rule], language: str, calendar: Calendar) -> list[Token]:
    """Return the tokens after all rules, applied in order, each until it finds nothing more."""
    kept, text = list(tokens), symbols(tokens)
    for pattern, make in rules:
        place = 0
        while (found := pattern.search(text, place)) is not None:
            start, end = found.span()
            made = make(_match(kept, text, start, end, language, calendar))
            place = start + 1
            if made is not None:
                kept[start:end] = [Token(*made, kept[start].start, kept[end - 1].end)]
                text = text[:start] + made[0] + text[end:]
                place = max(0, start - 3)  # what comes before may now be part of a match
    return kept


def _match(tokens: list[Token], text: str, start: int, end: int, language: str, calendar: Calendar) -> Match:
    following = tokens[end] if end < len(tokens) else None
    ends = following is None or following.symbol != "x" or following.value in FUNCTION
    before = tokens[start - 1] if start else Token("", None, 0, 0)
    return Match(tokens[start:end], text[start:end], before.symbol, before.value, ends, language, calendar)
