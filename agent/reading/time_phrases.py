"""The grammar of time phrases: tokens become clock times, days and parts of the day, and these become pieces.

Each rule is a pattern over the symbols of `time_words` and a function that turns the tokens it matched into one token.
Rules are applied in order, each until it finds nothing more; what a rule makes, the later ones use. Symbols that rules
make: C clock time, r hours between two clock times, V duration, Y date, $ piece.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from agent.reading.time_lexer import Token, symbols
from agent.reading.time_words import FUNCTION_WORDS
from agent.reading.times import AROUND_MIN, Calendar, Days, Hours, Op, Piece, between, clock, within_part

UNIT_S = {
    "s": 1.0,
    "m": 60.0,
    "q": 900.0,
    "Q": 1800.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
    "M": 2592000.0,
    "y": 31536000.0,
}
JUST_NOW_S = 120.0
SOME_HOURS = 6
SHORTLY_MIN = 15  # "shortly after 2 pm"
YEARS = range(1970, 2200)
COMPARED = frozenset({"compared", "relative", "opposed", "comparado", "comparada", "compare", "rapport", "respecto"})
MAX_HOUR = 24
FUNCTION = frozenset().union(*FUNCTION_WORDS.values())

Made = tuple[str, Any] | None  # symbol and value; None: the rule does not apply after all
Make = Callable[["Phrases", Sequence[Token], re.Match[str]], Made]
Rule = tuple[re.Pattern[str], Make]


class Phrases:
    """Finds the phrases of time in a text that `tokens_of` has taken apart."""

    def __init__(self, tokens: list[Token], language: str, calendar: Calendar) -> None:
        self.tokens = tokens
        self.language = language
        self.calendar = calendar

    def reduce(self) -> list[Token]:
        """Return the tokens after all rules; those with the symbol "$" hold the pieces."""
        for pattern, make in RULES:
            place = 0
            while (found := pattern.search(symbols(self.tokens), place)) is not None:
                made = make(self, self.tokens[found.start() : found.end()], found)
                place = found.start() + 1
                if made is not None:
                    first, last = self.tokens[found.start()], self.tokens[found.end() - 1]
                    self.tokens[found.start() : found.end()] = [Token(*made, first.start, last.end)]
                    place = max(0, found.start() - 3)
        return self.tokens

    def ends_at(self, found: re.Match[str]) -> bool:
        """Return whether nothing that could be counted follows: "around 9" is a time of day, "around 9 cars" is not."""
        following = self.tokens[found.end() : found.end() + 1]
        return not following or following[0].symbol != "x" or following[0].value in FUNCTION


def _of(tokens: Sequence[Token], kinds: str) -> list[Any]:
    """Return the values of the tokens with these symbols."""
    return [token.value for token in tokens if token.symbol in kinds]


# --- clock times ---


def _hour(number: float, language: str, *, is_vague: bool | None = None) -> Hours | None:
    if number != int(number) or not 0 <= number <= MAX_HOUR:
        return None
    vague = 1 <= number <= 12 if is_vague is None else is_vague and 1 <= number <= 12
    return clock(60 * number, is_vague=vague)


def _half_day(hours: Hours, pm: int) -> Hours | None:
    at = hours.at or 0.0
    if at >= 780:
        return hours
    return clock(at % 720 + 60 * pm)


def _number_half_day(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    [half] = _of(tokens, "M")
    clocks = _of(tokens, "C") or [_hour(number, self.language) for number in _of(tokens, "N")[:1]]
    made = clocks[0] and _half_day(clocks[0], half)
    return ("C", made) if made else None


def _number_oclock(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    numbers, [kind] = _of(tokens, "N"), _of(tokens, "k")
    made = _hour(numbers[0], self.language, is_vague=kind == 12)
    if made is None:
        return None
    minute = numbers[1] if len(numbers) > 1 and numbers[1] < 60 else 0
    return "C", clock((made.at or 0) + minute, is_vague=made.start_is_vague)


def _half_past(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    """Half past two, halb drei, quarter to three, Viertel nach zwei, dos y media, trois heures moins le quart."""
    head = symbols(tokens)
    noon = [720.0 for part in _of(tokens, "Pp") if part == "noon"]
    numbers = [60 * number for number in _of(tokens, "N1") if number <= MAX_HOUR] + noon
    [share] = _of(tokens, "hq")
    if not numbers or (_of(tokens, "U") not in ([], ["h"])):
        return None
    is_german_half = head[0] == "h" and head[1] in "N"
    minus = is_german_half or "m" in head or "t" in head or "v" in head
    if is_german_half and self.language != "de":
        return None
    minute = numbers[0] + (-60 * share if minus else 60 * share)
    return "C", clock(minute, is_vague=minute < 780 and not noon)


def _clock_half(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    """Neuf heures et demie, where "neuf heures" may also be a length of time: the half decides nothing."""
    return _half_past(self, tokens, found)


def _spanish_minutes(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    return None


def _at_number(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    """At 9, um neun, a las tres, à 9 heures: the words before stay, the number becomes a clock time."""
    if not self.ends_at(found) and self.tokens[found.start() - 1].symbol in "oKSBFvt":
        return None
    units = _of(tokens, "U")
    if tokens[0].symbol == "1" and self.language not in ("fr", "es"):
        return None
    if units and self.tokens[found.start() - 1].symbol == "S" and _of(tokens, "NH1")[0] <= SOME_HOURS:
        return None  # "depuis deux heures" is a length of time
    if units and (units != ["h"] or self.language not in ("fr", "es")):
        return None
    numbers = _of(tokens, "NH1")
    definite = bool(units) or bool(_of(tokens, "H"))
    made = _hour(numbers[0], self.language, is_vague=not definite)
    if made is None:
        return None
    if len(numbers) > 1 and numbers[1] < 60:
        made = clock((made.at or 0) + numbers[1], is_vague=made.start_is_vague)
    return "C", made


def _hours_between(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    head = symbols(tokens)
    if not any(each in head for each in "CHKf") and "b" not in head:
        return None
    if not self.ends_at(found) and "C" not in head and "H" not in head:
        return None
    if "C" not in head and "H" not in head and "K" not in head and "a" not in head and head[0] not in "fb":
        return None
    units = _of(tokens, "U")
    if any(unit != "h" for unit in units):
        return None
    ends: list[Hours] = []
    for token in tokens:
        if token.symbol == "C":
            ends.append(token.value)
        elif token.symbol in "Pp":
            if token.value != "noon":
                return None
            ends.append(clock(720))
        elif token.symbol in "NH1":
            definite = token.symbol == "H" or bool(units)
            made = _hour(token.value, self.language, is_vague=not definite)
            if made is None:
                return None
            ends.append(made)
    if len(ends) != 2:
        return None
    return "r", between(*ends)


def _around(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    [hours] = _of(tokens, "C")
    return "C", replace(hours, start=(hours.at or 0) - AROUND_MIN, end=(hours.at or 0) + AROUND_MIN)


# --- durations ---


def _duration(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    """Five minutes, an hour and a half, half an hour, 2h, una hora y media; the value is (number, unit)."""
    head = symbols(tokens)
    units = _of(tokens, "U") or ["h"]
    shares = _of(tokens, "hq")
    numbers = _of(tokens, "NH1")
    if head[0] in "hq" or (head[0] == "1" and head[1:2] in ("h", "q")):
        number = shares[0]
    elif head[0] == "N" and "q" in head:
        number = numbers[0] * shares[0]
    else:
        number = (numbers[0] if numbers else 1.0) + (shares[0] if shares else 0.0)
    return "V", (number, units[0])


def _seconds(value: tuple[float, str]) -> float:
    return value[0] * UNIT_S[value[1]]


def _ago(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    [(number, unit)] = _of(tokens, "V")
    if unit in "dw" and number == int(number):
        return "$", Piece(self.calendar.day(-int(number) * (7 if unit == "w" else 1)))
    return "$", self.calendar.ago(_seconds((number, unit)))


def _nights_ago(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    [number], [part] = _of(tokens, "N1"), _of(tokens, "P")
    return "$", Piece(self.calendar.day(-int(number)), self.calendar.part(part))


def _last_duration(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    values = _of(tokens, "V")
    if not values:
        values = [(_of(tokens, "N1")[0], _of(tokens, "U")[0])]
    return "$", Piece(span=(self.calendar.now - _seconds(values[0]), None))


def _next_duration(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    [value] = _of(tokens, "V")
    return "$", Piece(span=(self.calendar.now + 1, self.calendar.now + _seconds(value)))


def _period(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    """Last week, this month, la semaine dernière, past hour: a calendar period, or counted back from now."""
    [unit], head = _of(tokens, "U"), symbols(tokens)
    offset = 1 if "X" in head else 0 if "T" in head and "R" not in head and "L" not in head else -1
    goes_back = head[0] == "R" or (head[0] == "T" and "R" in head) or head[:2] == "gR"
    if unit in "wMy" and not goes_back:
        days = self.calendar.period(unit, offset)
        return ("$", Piece(days)) if days else None
    if offset == -1:
        return "$", Piece(span=(self.calendar.now - UNIT_S[unit], None))
    if offset == 0 and unit == "d":
        return "$", Piece(self.calendar.day(0))
    if offset == 1:
        return "$", Piece(span=(self.calendar.now + 1, self.calendar.now + UNIT_S[unit]))
    if offset == 0 and unit == "h":
        moment = self.calendar.moment
        return "$", Piece(
            span=(self.calendar.now - 60 * moment.minute - moment.second - moment.microsecond / 1e6, None)
        )
    return None


def _just_now(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    return "$", Piece(span=(self.calendar.now - JUST_NOW_S, None))


# --- days ---


def _day(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    return "$", Piece(self.calendar.day(_of(tokens, "D")[0]))


def _weekday(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    head, [number] = symbols(tokens), _of(tokens, "W")
    if "U" in head:
        week = self.calendar.period("w", -1)
        if week is None or _of(tokens, "U") != ["w"]:
            return None
        day = week.first.fromordinal(week.first.toordinal() + number)
        return "$", Piece(Days(day, day))
    is_before = "L" in head or "R" in head
    return "$", Piece(self.calendar.weekday(number, before_today=is_before, ahead="X" in head))


def _weekend(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    head = symbols(tokens)
    if head == "E" and not self.ends_at(found):
        return None  # "a weekend bag"
    is_last = "L" in head or "R" in head
    return "$", Piece(self.calendar.weekend(before_now=is_last))


def _date(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    [(year, first, second)] = _of(tokens, "Y")
    if first < 0:
        day, month = second, -first
    elif second > 12 or (self.calendar.month_first and first <= 12):
        day, month = second, first
    else:
        day, month = first, second
    days = self.calendar.on_date(day, month, year)
    return ("$", Piece(days)) if days else None


def _named_date(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    numbers, [month] = [int(each) for each in _of(tokens, "NO1")], _of(tokens, "J")
    years = [each for each in numbers if each in YEARS]
    days = [each for each in numbers if 1 <= each <= 31]
    if not days or len(days) + len(years) < len(numbers):
        return None
    found_days = self.calendar.on_date(days[0], month, years[0] if years else None)
    return ("$", Piece(found_days)) if found_days else None


def _day_of_month(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    number = int(_of(tokens, "ON")[0])
    if not self.ends_at(found) or not 1 <= number <= 31:
        return None
    if tokens[0].symbol == "N" and self.language not in ("fr", "es"):
        return None
    days = self.calendar.on_date(number)
    return ("$", Piece(days)) if days else None


def _month(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    years = [int(each) for each in _of(tokens, "N") if each in YEARS]
    days = self.calendar.month(_of(tokens, "J")[0], years[0] if years else None)
    return ("$", Piece(days)) if days else None


def _year(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    [year] = _of(tokens, "N")
    days = self.calendar.period("y", int(year) - self.calendar.today.year) if year in YEARS else None
    return ("$", Piece(days)) if days else None


# --- parts of the day ---


def _part(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    """This morning, last night, early in the morning, at night, la noche pasada."""
    head, parts = symbols(tokens), _of(tokens, "PpQ")
    name = "morning" if "Q" in head else parts[-1]
    if "y" in head and name == "morning":
        name = "early_morning"
    days = None
    if "T" in head:
        days = self.calendar.day(0)
    elif "L" in head or "R" in head:
        days = self.calendar.day(-1)
    elif "X" in head:
        days = self.calendar.day(1)
    return "$", Piece(days, self.calendar.part(name), needs_word=head in ("P", "yP"))


def _part_of_days(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    """In der Nacht von Montag auf Dienstag, la noche del lunes al martes."""
    [part, *_], [first, *_] = _of(tokens, "Pp"), _of(tokens, "W")
    return "$", Piece(self.calendar.weekday(first), self.calendar.part(part))


def _named_part(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    [(name, offset)] = _of(tokens, "I")
    return "$", Piece(None if offset is None else self.calendar.day(offset), self.calendar.part(name))


def _early(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    """Montag früh, where "früh" behind a day is its morning."""
    return ("$", Piece(hours=self.calendar.part("morning"))) if self.language == "de" else None


def _tomorrow(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    return "$", Piece(self.calendar.day(1))


def _as_piece(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    return "$", Piece(hours=_of(tokens, "Cr")[0])


# --- pieces together ---


def _merge(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    first, second = _of(tokens, "$")
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


def _limited(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    """Since, before, after or until a piece."""
    [piece] = _of(tokens, "$")
    if piece.op != "in":
        return None
    word = next(token for token in tokens if token.symbol in "SBvFtj")
    before = self.tokens[found.start() - 1 : found.start()]
    if word.symbol == "t" and before and before[0].value in COMPARED:
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


def _onwards(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    """From 9 am onwards."""
    return "$", replace(_of(tokens, "$")[0], op="since")


def _since_duration(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    return _last_duration(self, tokens, found)


def _pieces_between(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    """From yesterday noon to today 9 am, between Monday and Wednesday."""
    first, last = _of(tokens, "$")
    if first.op != "in" or last.op != "in":
        return None
    if last.days is None and first.days is not None and last.span is None:
        last = replace(last, days=first.days)
    high = self.calendar.range_of(replace(last, op="until"))[1]
    low = self.calendar.start_of(first)
    if low is not None and high is not None and low >= high and first.days and not first.days.is_open:
        days = Days(*(each.fromordinal(each.toordinal() - 7) for each in (first.days.first, first.days.last)))
        low = self.calendar.start_of(replace(first, days=days))
    if low is None or (high is not None and low >= high):
        return None
    return "$", Piece(span=(low, high))


def _until_now(self: Phrases, tokens: Sequence[Token], found: re.Match[str]) -> Made:
    [piece] = _of(tokens, "$")
    return "$", Piece(span=(self.calendar.start_of(piece), None))


def _rule(pattern: str, make: Make) -> Rule:
    return re.compile(pattern), make


_FILL = "[igbace]*"
RULES: tuple[Rule, ...] = (
    # clock times
    _rule("(?<=[aoSBFtKfvci&D-])l(?!_)|(?<=[aoSBFtKfvci&-]g)l(?!_)", lambda self, tokens, found: ("C", clock(0))),
    _rule("(?<=[iSBFtfLTXK&,-])w", lambda self, tokens, found: ("W", tokens[0].value)),
    _rule("h1?[RF]N|[q][RFtv]N|(?<=[acoKBFS&t-])[N1]&[hq]|(?<![N1])h(?=N(?!U))Nk?|[Pp]U?&[hq]", _half_past),
    _rule("(?<![ALRS])NU&[hq](?=[^U]|$)(?<=[hq])|N?NmU?q|NUmq|Nmq", _half_past),
    _rule("[NC]k?M", _number_half_day),
    _rule("NkN?(?!U)", _number_oclock),
    _rule("[Kfb]?[ag]*[N1CHPp]U?[ac]?[t&ca-][ag]*[NCHPp]U?(?![N&J])", _hours_between),
    _rule("(?<=[acoKSBFvt])[NH](?:UN?)?(?![UHJLRAN&%])|(?<=[aco][gb])N(?![UHJLRAN])|(?<=a)1(?!U)", _at_number),
    _rule("o[ag]*C", _around),
    # durations
    _rule("[N1]?[hq][b1g]*U(?!p)|[N1]U&1?[hq]|(?<=[LRA])U&1?h|(?<=A)U|U(?=A)|N&1?hU|NhU|NqbU|[N1]U", _duration),
    _rule("H(?=A)|(?<=[ALRSv])H|(?<=[LR][ig])H", _duration),
    _rule("A[o]?V|VA|vo?V", _ago),
    _rule("[N1]PA", _nights_ago),
    _rule("[ig]*[T]?[LR]V|T?N[RL]U|[LR]NU|VL", _last_duration),
    _rule("S[bg]*V(?!A)", _since_duration),
    _rule("X[V]", _next_duration),
    _rule("H", lambda self, tokens, found: ("C", clock(60 * tokens[0].value)) if tokens[0].value <= MAX_HOUR else None),
    _rule("Z", _just_now),
    # days
    _rule("Pf?[bg]*W[xctgai]*W", _part_of_days),
    _rule("[LRTX]?W[bg]*L[U]|W[LRX]|[LRXT]+W|W", _weekday),
    _rule("[LRTXe]*E[LR]?", _weekend),
    _rule("Y", _date),
    _rule("[NO1]b?g?J(?:b?,?N(?=[^CkM]|$)(?!U))?|Jg?[NO](?:,?N)?(?![U&])", _named_date),
    _rule("(?<=[iSBFtf])J(?:b?N)?|[LRT]J", _month),
    _rule("(?<=[iSBFt])N(?![UJ])", _year),
    _rule("(?<=[ig])O|(?<=g)N(?=[,.]|$)", _day_of_month),
    _rule("D", _day),
    _rule("[T]R?U|[TLRX]+U|U[LRX]|R[U]", _period),
    # parts of the day
    _rule("I", _named_part),
    _rule("(?<=[TigbS$])Q|TQ", _part),
    _rule("Q", _tomorrow),
    _rule("(?<=[$])y(?=[^igTPp]|$)", _early),
    _rule("y?[TLRX]*[ye]?[Pp][LR]?|yi?g?P", _part),
    _rule("[Cr]", _as_piece),
)
RULES += (
    _rule(rf"\$[,]?{_FILL}\$", _merge),
    _rule(r"[KfS]?[iga]*\$[tc-][iga]*\$|[Kf][iga]*\$&[iga]*\$", _pieces_between),
    _rule(r"[SKf][iga]*\$[t&]n", _until_now),
    _rule(r"f[iga]*\$(?:u|i(?=[,.]|$))", _onwards),
    _rule(r"[SBvFj][igabc]*\$|t[igab]*\$|S[xgbce]{1,5}a?\$|[BF][xgbce]{1,5}a\$|[BFv]x{1,3}\(\$,", _limited),
    _rule(rf"\$[,]?{_FILL}\$", _merge),
)
