"""The grammar of clock times: "at 14:20", "half past two", "um halb drei", "between 2 and 3 pm".

Symbols that the rules make: C clock time, r hours between two clock times. Those of words are in `time_words`.
"""

from dataclasses import replace

from agent.reading.time_rules import Made, Match, Rule, rule
from agent.reading.times import AROUND_MIN, HALF_MIN, NOON_MIN, Hours, between, clock

MAX_HOUR = 24
SOME_HOURS = 6  # "since 2 hours" is a length of time, "since 9 hours" a time of day


def _hour(number: float, *, is_vague: bool = True) -> Hours | None:
    """Return a full hour; None if there is none. is_vague: an hour up to twelve may be of either half of the day."""
    if number != int(number) or not 0 <= number <= MAX_HOUR:
        return None
    return clock(60 * number, is_vague=is_vague and 1 <= number <= 12)


def _half_day(hours: Hours, pm: int) -> Hours | None:
    at = hours.at or 0.0
    if at >= HALF_MIN:
        return hours
    return clock(at % NOON_MIN + 60 * pm)


def _number_half_day(match: Match) -> Made:
    [half] = match.of("M")
    clocks = match.of("C") or [_hour(number) for number in match.of("N")[:1]]
    made = clocks[0] and _half_day(clocks[0], half)
    return ("C", made) if made else None


def _number_oclock(match: Match) -> Made:
    numbers, [kind] = match.of("N"), match.of("k")
    made = _hour(numbers[0], is_vague=kind == 12)
    if made is None:
        return None
    minute = numbers[1] if len(numbers) > 1 and numbers[1] < 60 else 0
    return "C", clock((made.at or 0) + minute, is_vague=made.start_is_vague)


def _half_past(match: Match) -> Made:
    """Half past two, halb drei, quarter to three, Viertel nach zwei, dos y media, trois heures moins le quart."""
    head = match.head
    noon = [float(NOON_MIN) for part in match.of("Pp") if part == "noon"]
    numbers = [60 * number for number in match.of("N1") if number <= MAX_HOUR] + noon
    [share] = match.of("hq")
    if not numbers or (match.of("U") not in ([], ["h"])):
        return None
    is_german_half = head[0] == "h" and head[1] in "N"
    minus = is_german_half or "m" in head or "t" in head or "v" in head
    if is_german_half and match.language != "de":
        return None
    minute = numbers[0] + (-60 * share if minus else 60 * share)
    return "C", clock(minute, is_vague=minute < HALF_MIN and not noon)


def _at_number(match: Match) -> Made:
    """At 9, um neun, a las tres, à 9 heures: the words before stay, the number becomes a clock time."""
    if not match.ends and match.before in "oKSBFvt":
        return None
    units = match.of("U")
    if match.head[0] == "1" and match.language not in ("fr", "es"):
        return None
    if units and match.before == "S" and match.of("NH1")[0] <= SOME_HOURS:
        return None  # "depuis deux heures" is a length of time
    if units and (units != ["h"] or match.language not in ("fr", "es")):
        return None
    numbers = match.of("NH1")
    definite = bool(units) or bool(match.of("H"))
    made = _hour(numbers[0], is_vague=not definite)
    if made is None:
        return None
    if len(numbers) > 1 and numbers[1] < 60:
        made = clock((made.at or 0) + numbers[1], is_vague=made.start_is_vague)
    return "C", made


def _hours_between(match: Match) -> Made:
    head = match.head
    if not any(each in head for each in "CHKf") and "b" not in head:
        return None
    if not match.ends and "C" not in head and "H" not in head:
        return None
    if "C" not in head and "H" not in head and "K" not in head and "a" not in head and head[0] not in "fb":
        return None
    units = match.of("U")
    if any(unit != "h" for unit in units):
        return None
    ends: list[Hours] = []
    for token in match.tokens:
        if token.symbol == "C":
            ends.append(token.value)
        elif token.symbol in "Pp":
            if token.value != "noon":
                return None
            ends.append(clock(NOON_MIN))
        elif token.symbol in "NH1":
            definite = token.symbol == "H" or bool(units)
            made = _hour(token.value, is_vague=not definite)
            if made is None:
                return None
            ends.append(made)
    if len(ends) != 2:
        return None
    return "r", between(*ends)


def _around(match: Match) -> Made:
    [hours] = match.of("C")
    return "C", replace(hours, start=(hours.at or 0) - AROUND_MIN, end=(hours.at or 0) + AROUND_MIN)


CLOCK_RULES: tuple[Rule, ...] = (
    rule("(?<=[aoSBFtKfvci&D-])l(?!_)|(?<=[aoSBFtKfvci&-]g)l(?!_)", lambda match: ("C", clock(0))),
    rule("(?<=[iSBFtfLTXK&,-])w", lambda match: ("W", match.tokens[0].value)),
    rule("h1?[RF]N|[q][RFtv]N|(?<=[acoKBFS&t-])[N1]&[hq]|(?<![N1])h(?=N(?!U))Nk?|[Pp]U?&[hq]", _half_past),
    rule("(?<![ALRS])NU&[hq](?=[^U]|$)(?<=[hq])|N?NmU?q|NUmq|Nmq", _half_past),
    rule("[NC]k?M", _number_half_day),
    rule("NkN?(?!U)", _number_oclock),
    rule("[Kfb]?[ag]*[N1CHPp]U?[ac]?[t&ca-][ag]*[NCHPp]U?(?![N&J])", _hours_between),
    rule("(?<=[acoKSBFvt])[NH](?:UN?)?(?![UHJLRAN&%])|(?<=[aco][gb])N(?![UHJLRAN])|(?<=a)1(?!U)", _at_number),
    rule("o[ag]*C", _around),
)
