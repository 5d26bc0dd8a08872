"""The grammar of lengths of time, days and parts of the day: "5 minutes ago", "last Monday", "early this morning".

Symbols that the rules make: V length of time, $ piece. Those of words are in `time_words`.
"""

from agent.reading.time_clock import MAX_HOUR
from agent.reading.time_rules import YEARS, Made, Match, Rule, rule
from agent.reading.times import Days, Piece, clock

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


def _duration(match: Match) -> Made:
    """Five minutes, an hour and a half, half an hour, 2h, una hora y media; the value is (number, unit)."""
    head = match.head
    units = match.of("U") or ["h"]
    shares = match.of("hq")
    numbers = match.of("NH1")
    if head[0] in "hq" or (head[0] == "1" and head[1:2] in ("h", "q")):
        number = shares[0]
    elif head[0] == "N" and "q" in head:
        number = numbers[0] * shares[0]
    else:
        number = (numbers[0] if numbers else 1.0) + (shares[0] if shares else 0.0)
    return "V", (number, units[0])


def seconds_of(value: tuple[float, str]) -> float:
    """Return the seconds of a length of time, a number and a unit."""
    return value[0] * UNIT_S[value[1]]


def _ago(match: Match) -> Made:
    [(number, unit)] = match.of("V")
    if unit in "dw" and number == int(number):
        return "$", Piece(match.calendar.day(-int(number) * (7 if unit == "w" else 1)))
    return "$", match.calendar.ago(seconds_of((number, unit)))


def _between_ago(match: Match) -> Made:
    """Between two and three hours ago, 5 to 10 minutes ago, vor zwei bis drei Stunden."""
    unit = UNIT_S[match.of("U")[0]]
    far, near = sorted(match.of("N1"), reverse=True)
    return (
        ("$", Piece(span=(match.calendar.now - far * unit, match.calendar.now - near * unit))) if far > near else None
    )


def _further_ago(match: Match) -> Made:
    """More than an hour ago, less than an hour ago."""
    moment = match.calendar.now - seconds_of(match.of("V")[0])
    return "$", Piece(span=(None, moment) if ">" in match.head else (moment, None))


def _nights_ago(match: Match) -> Made:
    [number], [part] = match.of("N1"), match.of("P")
    return "$", Piece(match.calendar.day(-int(number)), match.calendar.part(part))


def _last_duration(match: Match) -> Made:
    values = match.of("V")
    if not values:
        values = [(match.of("N1")[0], (match.of("U") or ["d"])[0])]
    return "$", Piece(span=(match.calendar.now - seconds_of(values[0]), None))


def _next_duration(match: Match) -> Made:
    [value] = match.of("V")
    return "$", Piece(span=(match.calendar.now + 1, match.calendar.now + seconds_of(value)))


def _period(match: Match) -> Made:
    """Last week, this month, la semaine dernière, past hour: a calendar period, or counted back from now."""
    [unit], head = match.of("U"), match.head
    offset = 1 if "X" in head else 0 if "T" in head and "R" not in head and "L" not in head else -1
    goes_back = head[0] == "R" or (head[0] == "T" and "R" in head) or head[:2] == "gR"
    if unit in "wMy" and not goes_back:
        days = match.calendar.period(unit, offset)
        return ("$", Piece(days)) if days else None
    if offset == -1:
        return "$", Piece(span=(match.calendar.now - UNIT_S[unit], None))
    if offset == 0 and unit == "d":
        return "$", Piece(match.calendar.day(0))
    if offset == 1:
        return "$", Piece(span=(match.calendar.now + 1, match.calendar.now + UNIT_S[unit]))
    if offset == 0 and unit == "h":
        moment = match.calendar.moment
        return "$", Piece(
            span=(match.calendar.now - 60 * moment.minute - moment.second - moment.microsecond / 1e6, None)
        )
    return None


def _just_now(match: Match) -> Made:
    return "$", Piece(span=(match.calendar.now - JUST_NOW_S, None))


def _day(match: Match) -> Made:
    return "$", Piece(match.calendar.day(match.of("D")[0]))


def _weekday(match: Match) -> Made:
    head, [number] = match.head, match.of("W")
    if "U" in head:
        week = match.calendar.period("w", -1)
        if week is None or match.of("U") != ["w"]:
            return None
        day = week.first.fromordinal(week.first.toordinal() + number)
        return "$", Piece(Days(day, day))
    is_before = "L" in head or "R" in head
    return "$", Piece(match.calendar.weekday(number, before_today=is_before, ahead="X" in head))


def _weekend(match: Match) -> Made:
    head = match.head
    if head == "E" and not match.ends:
        return None  # "a weekend bag"
    is_last = "L" in head or "R" in head
    return "$", Piece(match.calendar.weekend(before_now=is_last))


def _date(match: Match) -> Made:
    [(year, first, second)] = match.of("Y")
    if first < 0:
        day, month = second, -first
    elif second > 12 or (match.calendar.month_first and first <= 12):
        day, month = second, first
    else:
        day, month = first, second
    days = match.calendar.on_date(day, month, year)
    return ("$", Piece(days)) if days else None


def _named_date(match: Match) -> Made:
    numbers, [month] = [int(each) for each in match.of("NO1")], match.of("J")
    years = [each for each in numbers if each in YEARS]
    days = [each for each in numbers if 1 <= each <= 31]
    if not days or len(days) + len(years) < len(numbers):
        return None
    found_days = match.calendar.on_date(days[0], month, years[0] if years else None)
    return ("$", Piece(found_days)) if found_days else None


def _day_of_month(match: Match) -> Made:
    number = int(match.of("ON")[0])
    if not match.ends or not 1 <= number <= 31:
        return None
    if match.head[0] == "N" and match.language not in ("fr", "es"):
        return None
    days = match.calendar.on_date(number)
    return ("$", Piece(days)) if days else None


def _month(match: Match) -> Made:
    years = [int(each) for each in match.of("N") if each in YEARS]
    days = match.calendar.month(match.of("J")[0], years[0] if years else None)
    return ("$", Piece(days)) if days else None


def _year(match: Match) -> Made:
    [year] = match.of("N")
    days = match.calendar.period("y", int(year) - match.calendar.today.year) if year in YEARS else None
    return ("$", Piece(days)) if days else None


def _part(match: Match) -> Made:
    """This morning, last night, early in the morning, at night, la noche pasada."""
    head, parts = match.head, match.of("PpQ")
    name = "morning" if "Q" in head else parts[-1]
    if "y" in head and name == "morning":
        name = "early_morning"
    days = None
    if "T" in head:
        days = match.calendar.day(0)
    elif "L" in head or "R" in head:
        days = match.calendar.day(-1)
    elif "X" in head:
        days = match.calendar.day(1)
    return "$", Piece(days, match.calendar.part(name), needs_word=head in ("P", "yP"))


def _part_of_days(match: Match) -> Made:
    """In der Nacht von Montag auf Dienstag, la noche del lunes al martes."""
    [part, *_], [first, *_] = match.of("Pp"), match.of("W")
    return "$", Piece(match.calendar.weekday(first), match.calendar.part(part))


def _named_part(match: Match) -> Made:
    [(name, offset)] = match.of("I")
    return "$", Piece(None if offset is None else match.calendar.day(offset), match.calendar.part(name))


def _early(match: Match) -> Made:
    """Montag früh, where "früh" behind a day is its morning."""
    return ("$", Piece(hours=match.calendar.part("morning"))) if match.language == "de" else None


def _tomorrow(match: Match) -> Made:
    return "$", Piece(match.calendar.day(1))


def _as_piece(match: Match) -> Made:
    return "$", Piece(hours=match.of("Cr")[0])


BETWEEN_RULES: tuple[Rule, ...] = (rule("K?[N1][&t-][N1]UA|[vA]K?[N1][&tc-][N1]U", _between_ago),)
DAY_RULES: tuple[Rule, ...] = (
    # lengths of time
    rule("[N1]?[hq][b1g]*U(?!p)|[N1]U&1?[hq]|(?<=[LRA])U&1?h|(?<=A)U|U(?=A)|N&1?hU|NhU|NqbU|[N1]U", _duration),
    rule("H(?=A)|(?<=[ALRSv])H|(?<=[LR][ig])H", _duration),
    rule("A[<>]V|[<>]VA|v[<>]V", _further_ago),
    rule("A[o]?V|o?VA|vo?V", _ago),
    rule("[N1]PA", _nights_ago),
    rule("[ig]*[T]?[LR]V|T?N[RL]U|[LR]NU|VL|[LR][N1]P", _last_duration),
    rule("S[bg]*V(?!A)", _last_duration),
    rule("X[V]", _next_duration),
    rule("H", lambda match: ("C", clock(60 * match.tokens[0].value)) if match.tokens[0].value <= MAX_HOUR else None),
    rule("Z", _just_now),
    # days
    rule("Pf?[bg]*W[xctgai]*W", _part_of_days),
    rule("[LRTX]?W[bg]*L[U]|W[LRX]|[LRXT]+W|W", _weekday),
    rule("[LRTXe]*E[LR]?", _weekend),
    rule("Y", _date),
    rule("[NO1]b?g?J(?:b?,?N(?=[^CkM]|$)(?!U))?|Jg?[NO](?:,?N)?(?![U&])", _named_date),
    rule("(?<=[iSBFtf])J(?:b?N)?|[LRT]J", _month),
    rule("(?<=[iSBFt])N(?![UJ])", _year),
    rule("(?<=[ig])O|(?<=g)N(?=[,.]|$)", _day_of_month),
    rule("D", _day),
    rule("[T]R?U|[TLRX]+U|U[LRX]|R[U]", _period),
    # parts of the day
    rule("I", _named_part),
    rule("(?<=[TigbS$])Q|TQ", _part),
    rule("Q", _tomorrow),
    rule("(?<=[$])y(?=[^igTPp]|$)", _early),
    rule("y?[TLRX]*[ye]?[Pp][LR]?|yi?g?P", _part),
    rule("[Cr]", _as_piece),
)
