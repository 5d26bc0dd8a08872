"""Finds the stretch of time and the cameras that the words of a question name, in English, German, Spanish and French.

No language model takes part. What is found is cut out of the question, so that the rest says what is asked about.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from agent.reading.camera_words import Mentions, mentions_of
from agent.reading.scope_text import cleaned, folded
from agent.reading.time_lexer import Token, language_of, tokens_of
from agent.reading.time_phrases import merged_pieces, phrases_of
from agent.reading.times import Calendar, Piece, Range
from agent.reading.types import Known, ScopeWords
from agent.times import PartsOfDay

Spans = list[tuple[int, int]]

_BEFORE_PIECE = frozenset("igabcefBSKv")  # symbols that belong to the phrase behind them
_FOLLOWS = re.compile(r"\W*(?:and|then|what about|how about|und|dann|was ist mit|y|luego|e|et|puis|ensuite)\b")
MAX_BACK = 4  # earlier questions that a follow-up may go on from
_FOR = ("for", "fur", "por", "pendant")  # "for the last ten minutes"
_JOIN = re.compile(r"\s+")
_LOOSE = re.compile(r"\s+([,;.?!])|^[\s,;:.\-–—]+|[\s,;:\-–—]+$")
_DOUBLED = re.compile(r"[,;:]\s*(?=[,;:.?!])")


def read_scope(text: str, known: Known, parts: PartsOfDay) -> ScopeWords:
    """Return the cameras and times that a question names. Never fails.

    The time zone is that of the first camera named, else that of the first camera. A question that begins with "and" or
    the like goes on with the cameras or times of an earlier one, if it names none itself.
    """
    words = _read(text, known, parts)
    if not _FOLLOWS.match(folded(cleaned(text))):
        return words
    asked = [said for role, said in reversed(known.earlier) if role == "user"][:MAX_BACK]
    for before in (_read(said, known, parts) for said in asked):
        if not words.cameras and before.cameras and not before.problem:
            names = tuple(each for each in before.words if each not in before.time_words)
            words = replace(words, cameras=before.cameras, words=(*names, *words.words))
        if not words.time_words and before.time_words:
            times = (*words.words, *before.time_words)
            words = replace(words, words=times, time_words=before.time_words)
            words = replace(words, after=before.after, before=before.before, others=before.others)
    return words


def _read(text: str, known: Known, parts: PartsOfDay) -> ScopeWords:
    shown = cleaned(text)
    plain = folded(shown)
    language = language_of(plain)
    mentions = mentions_of(shown, plain, known.cameras)
    zone = _zone_of(mentions, known)
    masked = _masked(plain, mentions.spans)
    calendar = Calendar(known.now, zone, parts)
    tokens = phrases_of(tokens_of(masked, language), language, calendar)
    places, spans = _found(tokens, language)
    ranges = _ranges(calendar, [tokens[place].value for place in places])
    after, before = ranges[0] if ranges else (None, None)
    cuts = _joined([*spans, *mentions.cuts])

    def told(parts: Spans) -> tuple[str, ...]:
        return tuple(_JOIN.sub(" ", shown[start:end]).strip(" ,") for start, end in parts)

    return ScopeWords(
        rest=_without(shown, cuts),
        cameras=mentions.cameras,
        after=after,
        before=before,
        words=told(cuts),
        time_words=told(spans),
        problem=mentions.problem,
        others=tuple((low, known.now if high is None else high) for low, high in ranges[1:] if low is not None),
    )


def read_moment(text: str, *, now: float, zone: str, parts: PartsOfDay, latest: bool) -> float | None:
    """Return the moment that words such as "2pm" or "this morning" mean as a bound; None if other words are among them.

    latest: of a local time that occurs twice, the second one.
    """
    plain = folded(cleaned(text))
    language = language_of(plain)
    calendar = Calendar(now, zone, parts)
    tokens = phrases_of(tokens_of(plain, language), language, calendar)
    places, spans = _found(tokens, language)
    if len(places) != 1 or _without(plain, spans):
        return None
    piece: Piece = tokens[places[0]].value
    if piece.hours is not None and ":" in plain:  # "9:15" is in the morning
        piece = replace(piece, hours=replace(piece.hours, start_is_vague=False, end_is_vague=False))
    return calendar.moment_of(piece, latest=latest)


def _zone_of(mentions: Mentions, known: Known) -> str:
    named = [camera for camera in known.cameras if camera.name in mentions.cameras] or list(known.cameras)
    return named[0].zone if named else "UTC"


def _masked(plain: str, spans: Spans) -> str:
    """Return the text with the names of cameras made into words that mean nothing, of the same length."""
    for start, end in spans:
        plain = plain[:start] + "x" * (end - start) + plain[end:]
    return plain


def _found(tokens: Sequence[Token], language: str) -> tuple[list[int], Spans]:
    """Return the places of the pieces that count, and what each covers of the text with the prepositions before it."""
    places, spans = [], []
    for place, token in enumerate(tokens):
        if token.symbol != "$":
            continue
        first = place
        while first and tokens[first - 1].symbol in _BEFORE_PIECE:
            first -= 1
        if first and tokens[first - 1].value in _FOR and token.value.span:
            first -= 1
        before = {each.symbol for each in tokens[first:place]}
        if token.value.needs_word and not before & set("iaceg" if language == "fr" else "iace"):
            continue
        places.append(place)
        owner = tokens[place + 1 : place + 2]
        ends_with_s = bool(owner) and owner[0].symbol == "b" and owner[0].end - token.end == 2  # yesterday's
        spans.append((tokens[first].start, owner[0].end if ends_with_s else token.end))
    return places, spans


def _joined(spans: Spans) -> Spans:
    """Return the spans in order, with those that overlap made one."""
    joined: Spans = []
    for start, end in sorted(spans):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _ranges(calendar: Calendar, pieces: list[Piece]) -> list[Range]:
    """Return the stretches of time that the pieces mean together: the one asked about first, then others."""
    days = [piece for piece in pieces if piece.days and not piece.hours]
    hours = [piece for piece in pieces if piece.hours and not piece.days]
    if days and hours and len(days) + len(hours) == len(pieces):
        merged = [merged_pieces(day, each) for day in days for each in hours]
        if all(merged) and 1 in (len(days), len(hours)):
            pieces = [piece for piece in merged if piece]
    found: list[Range] = []
    for piece in pieces:
        opened = found[-1] if found else (None, None)
        if piece.op in ("before", "until") and opened[0] is not None and opened[1] is None:
            day = next((each.days for each in pieces if each.days), None)
            upper = calendar.range_of(replace(piece, days=piece.days or day))[1]
            if upper is not None and upper > opened[0]:
                found[-1] = (opened[0], upper)
            continue
        low, high = calendar.range_of(piece)
        if low is not None and high is not None and low >= high:
            continue
        found.append((low, high))
    return _narrowed(found)


def _narrowed(ranges: list[Range]) -> list[Range]:
    """Return the ranges without repetitions; of one inside another only the inner one."""
    kept: list[Range] = []
    for each in ranges:
        inside = [place for place, other in enumerate(kept) if _contains(other, each)]
        if inside:
            kept[inside[0]] = each
        elif not any(_contains(each, other) for other in kept):
            kept.append(each)
    return list(dict.fromkeys(kept))


def _contains(outer: Range, inner: Range) -> bool:
    low, high = (float("-inf") if outer[0] is None else outer[0]), (float("inf") if outer[1] is None else outer[1])
    return low <= (float("-inf") if inner[0] is None else inner[0]) and high >= (
        float("inf") if inner[1] is None else inner[1]
    )


def _without(text: str, cuts: Spans) -> str:
    """Return the text without these parts, and without the spaces and commas that they leave behind."""
    kept, place = [], 0
    for start, end in cuts:
        kept.append(text[place:start])
        place = end
    kept.append(text[place:])
    rest = _JOIN.sub(" ", " ".join(part for part in map(str.strip, kept) if part))
    rest = _DOUBLED.sub("", rest)
    rest = _LOOSE.sub(lambda found: found[1] or "", rest)
    return rest if any(character.isalnum() for character in rest) else ""
