"""The grammar of time phrases: clock times, days and parts of the day are joined, and bounds like "since" applied."""

from collections.abc import Sequence
from dataclasses import replace

from agent.reading.time_clock import CLOCK_RULES
from agent.reading.time_days import BETWEEN_RULES, DAY_RULES, seconds_of
from agent.reading.time_lexer import Token
from agent.reading.time_rules import Made, Match, Rule, reduced, rule
from agent.reading.times import Calendar, Days, Op, Piece, within_part

SHORTLY_MIN = 15  # "shortly after 2 pm"
COMPARED = frozenset({"compared", "relative", "opposed", "comparado", "comparada", "compare", "rapport", "respecto"})


def phrases_of(tokens: Sequence[Token], language: str, calendar: Calendar) -> list[Token]:
    """Return the tokens with each phrase of time as one, whose symbol is "$" and whose value is a Piece."""
    return reduced(tokens, (*BETWEEN_RULES, *CLOCK_RULES, *DAY_RULES, *PHRASE_RULES), language, calendar)


def _merge(match: Match) -> Made:
    first, second = match.of("$")
    merged = merged_pieces(first, second)
    return ("$", merged) if merged else None


def merged_pieces(first: Piece, second: Piece) -> Piece | None:
    """Return one piece for two phrases that belong together, such as a day and a time of day; None if they do not."""
    if first.span or second.span:
        return None
    if first.days and second.days and first.days != second.days:
        return None
    if first.op != "in" and second.op != "in":
        return None
    hours = first.hours or second.hours
    if first.hours and second.hours:
        if first.hours == second.hours:
            hours = first.hours
        elif first.hours.part and not second.hours.part:
            hours = within_part(second.hours, first.hours)
        elif second.hours.part and not first.hours.part:
            hours = within_part(first.hours, second.hours)
        else:
            return None
    return Piece(first.days or second.days, hours, first.op if first.op != "in" else second.op)


def _limited(match: Match) -> Made:
    """Since, before, after or until a piece."""
    [piece] = match.of("$")
    if piece.op != "in":
        return None
    word = next(token for token in match.tokens if token.symbol in "SBvFtj")
    if word.symbol == "t" and match.word_before in COMPARED:
        return None
    if word.symbol == "j" and not (piece.hours and piece.hours.is_clock):
        return None
    at = piece.hours.at if piece.hours else None
    if word.symbol in "BF" and word.value == 1 and piece.hours and at is not None:
        low, high = (at, at + SHORTLY_MIN) if word.symbol == "F" else (at - SHORTLY_MIN, at)
        return "$", replace(piece, hours=replace(piece.hours, start=low, end=high, at=None))
    op: Op = _OPS[word.symbol]
    return "$", replace(piece, op=op, needs_word=False)


_OPS: dict[str, Op] = {"S": "since", "B": "before", "v": "before", "F": "after", "t": "until", "j": "until"}


def _onwards(match: Match) -> Made:
    """From 9 am onwards."""
    return "$", replace(match.of("$")[0], op="since")


def _pieces_between(match: Match) -> Made:
    """From yesterday noon to today 9 am, between Monday and Wednesday."""
    first, last = match.of("$")
    if first.op != "in" or last.op != "in":
        return None
    follows = last.days is None and first.days is not None and last.span is None
    if follows:
        last = replace(last, days=first.days)
    high = match.calendar.range_of(replace(last, op="until"))[1]
    low = match.calendar.start_of(first)
    if follows and low is not None and high is not None and high <= low and first.days:
        last = replace(last, days=_next_day(first.days))
        high = match.calendar.range_of(replace(last, op="until"))[1]
    if low is not None and high is not None and low >= high and first.days and not first.days.is_open:
        days = Days(*(each.fromordinal(each.toordinal() - 7) for each in (first.days.first, first.days.last)))
        low = match.calendar.start_of(replace(first, days=days))
    if low is None or (high is not None and low >= high):
        return None
    return "$", Piece(span=(low, high))


def _next_day(days: Days) -> Days:
    day = days.first.fromordinal(min(days.first.toordinal() + 1, days.first.max.toordinal()))
    return Days(day, day)


def _length_before(match: Match) -> Made:
    """The two minutes before 14:20, five minutes after nine."""
    [piece], seconds = match.of("$"), seconds_of(match.of("V")[0])
    if piece.op != "in" or not piece.hours or not piece.hours.is_clock:
        return None
    at = match.calendar.start_of(piece)
    if at is None:
        return None
    return "$", Piece(span=(at, at + seconds) if "F" in match.head else (at - seconds, at))


def _until_now(match: Match) -> Made:
    [piece] = match.of("$")
    return "$", Piece(span=(match.calendar.start_of(piece), None))


_FILL = "[igbace]*"
PHRASE_RULES: tuple[Rule, ...] = (
    rule(rf"\$[,]?{_FILL}\$", _merge),
    rule(r"[KfS]?[iga]*\$[tc-][iga]*\$|[Kf][iga]*\$&[iga]*\$", _pieces_between),
    rule(r"[SKf][iga]*\$[t&]n", _until_now),
    rule(r"V[BFv][ga]*\$", _length_before),
    rule(r"f[iga]*\$(?:u|i(?=[,.]|$))", _onwards),
    rule(r"[SBvFj][igabc]*\$|t[igab]*\$|S[xgbce]{1,5}a?\$|[BF][xgbce]{1,5}a\$|[BFv]x{1,3}\(\$,", _limited),
    rule(rf"\$[,]?{_FILL}\$", _merge),
)
