"""The calendar of a question: what days and times of day mean in a time zone, seen from the moment of asking.

A phrase of time becomes a `Piece`, and a piece a range of unix seconds. Days are local dates; times of day are minutes
after midnight, and may be above 1440, on the next day. Local times are turned into instants at the very end, so that
summer time changes nothing in between: an upper bound in a repeated hour takes the later one.
"""

from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from typing import Literal

from agent.times import PartsOfDay, instant_of, load_zone, local_moment

Op = Literal["in", "since", "before", "after", "until"]
Range = tuple[float | None, float | None]  # after and before in unix seconds; None: no bound

DAY_MIN, NOON_MIN = 1440, 720
HALF_MIN = 780  # times before 13:00 may be meant for the other half of the day
CLOCK_MIN, AROUND_MIN = 5, 30  # minutes on each side of "at 14:20" and of "around 2 pm"
AGO_SHARE, AGO_MIN_S = 0.2, 30.0  # "5 minutes ago" is uncertain by 20 %, and by at least half a minute
DAYTIME_MIN = (7 * 60, 19 * 60)  # "yesterday at 3" is in the afternoon
MORNINGS = frozenset({"morning", "early_morning", "madrugada"})
MADRUGADA = (0, 360)


@dataclass(frozen=True, slots=True)
class Days:
    """Consecutive local dates, from `first` to `last`. is_open: they go on, as today does."""

    first: date
    last: date
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Hours:
    """A stretch of the day, from `start` to `end` in minutes after midnight.

    at: the moment that "since" or "until" it mean, of a clock time or noon. part: the name of the part of the day.
    start_is_vague, end_is_vague: the words leave open whether it is before or after noon, as "at 3" does.
    """

    start: float
    end: float
    at: float | None = None
    part: str = ""
    start_is_vague: bool = False
    end_is_vague: bool = False

    @property
    def is_clock(self) -> bool:
        return self.at is not None and not self.part


@dataclass(frozen=True, slots=True)
class Piece:
    """What one phrase of time says: a `span` in unix seconds, or days, hours or both.

    point: for a span, the one moment it is about. needs_word: it counts only behind a preposition: "night" does not,
    "at night" does.
    """

    days: Days | None = None
    hours: Hours | None = None
    op: Op = "in"
    span: Range | None = None
    point: float | None = None
    needs_word: bool = False


def clock(minute: float, *, is_vague: bool = False) -> Hours:
    """Return the minutes around a time of day."""
    return Hours(minute - CLOCK_MIN, minute + CLOCK_MIN, minute, "", is_vague, is_vague)


def between(first: Hours, last: Hours) -> Hours | None:
    """Return the stretch between two times of day, in which the definite one settles the vague one."""
    start, end = _low(first), _high(last)
    start_is_vague, end_is_vague = first.start_is_vague, last.end_is_vague
    if start_is_vague and not end_is_vague:
        end += 0 if any(each < end for each in _twice(start)) else DAY_MIN
        start, start_is_vague = max(each for each in _twice(start) if each < end), False
    elif end_is_vague and not start_is_vague:
        later = (*_twice(end), end % NOON_MIN + DAY_MIN)
        end, end_is_vague = min(each for each in later if each > start), False
    elif end <= start:
        end += NOON_MIN if start_is_vague and end + NOON_MIN > start else DAY_MIN
    return Hours(start, end, None, "", start_is_vague, end_is_vague)


def within_part(hours: Hours, part: Hours) -> Hours:
    """Return hours that a part of the day settles: "8 in the evening" is 20:00, "last night at 2" is 26:00."""
    shifts: tuple[int, ...] = (0, NOON_MIN, DAY_MIN, DAY_MIN + NOON_MIN) if hours.start < HALF_MIN else (0, DAY_MIN)
    if part.part in MORNINGS and hours.start < HALF_MIN:
        shifts = (0,) if hours.start % NOON_MIN == hours.start or hours.start < 0 else (-NOON_MIN,)
    middle = hours.start if hours.at is None else hours.at
    inside = [shift for shift in shifts if part.start <= middle + shift <= part.end]
    nearest = min(shifts, key=lambda shift: abs(middle + shift - (part.start + part.end) / 2))
    return _shifted(hours, inside[0] if inside else nearest)


def _shifted(hours: Hours, minutes: float) -> Hours:
    at = None if hours.at is None else hours.at + minutes
    return Hours(hours.start + minutes, hours.end + minutes, at, hours.part)


def _twice(minute: float) -> tuple[float, float]:
    return minute % NOON_MIN, minute % NOON_MIN + NOON_MIN


def _low(hours: Hours) -> float:
    return hours.start if hours.at is None else hours.at


def _high(hours: Hours) -> float:
    return hours.end if hours.at is None else hours.at


class Calendar:
    """Resolves days and hours as of one moment in one time zone."""

    def __init__(self, now: float, zone: str, parts: PartsOfDay) -> None:
        self.now = now
        self._zone = load_zone(zone)
        self._parts = {**parts, "madrugada": MADRUGADA, "tonight": (18 * 60, 30 * 60)}
        self.moment = local_moment(now, self._zone)
        self.today = self.moment.date()
        self.month_first = "/" in zone and zone.split("/")[0] in ("America", "US")

    # --- days ---

    def day(self, offset: int) -> Days:
        """Return today (0), yesterday (-1) and so on; today is open."""
        day = self._shifted(self.today, offset)
        return Days(day, day, is_open=offset == 0)

    def weekday(self, number: int, *, before_today: bool = False, ahead: bool = False) -> Days:
        """Return the latest such weekday; today counts unless `before_today`. Monday is 0. ahead: the next one."""
        back = (self.today.weekday() - number) % 7 or (7 if before_today else 0)
        day = self._shifted(self.today, (7 - back) if ahead else -back)
        return Days(day, day)

    def weekend(self, *, before_now: bool = False) -> Days:
        """Return the latest Saturday and Sunday that have begun; before_now: not the one we are in."""
        saturday = self.weekday(5).first
        if before_now and (self.today - saturday).days < 2:
            saturday = self._shifted(saturday, -7)
        return Days(saturday, self._shifted(saturday, 1))

    def period(self, unit: str, offset: int) -> Days | None:
        """Return a calendar week ("w"), month ("M") or year ("y"): this one (0), the last one (-1), the next one (1)."""
        if unit == "w":
            monday = self._shifted(self.today, 7 * offset - self.today.weekday())
            return Days(monday, self._shifted(monday, 6), is_open=offset == 0)
        if unit == "M":
            months = 12 * self.today.year + self.today.month - 1 + offset
            return self._month(months // 12, months % 12 + 1, is_open=offset == 0)
        if unit == "y" and 1 < self.today.year + offset < 9999:
            year = self.today.year + offset
            return Days(date(year, 1, 1), date(year, 12, 31), is_open=offset == 0)
        return None

    def on_date(self, day: int, month: int | None = None, year: int | None = None) -> Days | None:
        """Return one date; without a year, or without a month, the latest one that has begun. None if there is none."""
        tries = 12 if month is None else 5  # 29 February comes every four years
        for back in range(tries):
            if year is not None:
                found = _date(year, month or self.today.month, day)
            elif month is None:
                months = 12 * self.today.year + self.today.month - 1 - back
                found = _date(months // 12, months % 12 + 1, day)
            else:
                found = _date(self.today.year - back, month, day)
            if found is not None and (found <= self.today or year is not None):
                return Days(found, found)
        return None

    def month(self, number: int, year: int | None = None) -> Days | None:
        """Return the latest month of this number (1 to 12) that has begun, or that of the year."""
        latest = self.today.year - (number > self.today.month)
        return self._month(year or latest, number)

    def _month(self, year: int, month: int, *, is_open: bool = False) -> Days | None:
        first = _date(year, month, 1)
        if first is None or year >= 9999:
            return None
        following = date(year + month // 12, month % 12 + 1, 1)
        return Days(first, following - timedelta(days=1), is_open)

    def _shifted(self, day: date, days: int) -> date:
        ordinal = min(max(day.toordinal() + days, 2), date.max.toordinal() - 2)
        return date.fromordinal(ordinal)

    # --- hours ---

    def part(self, name: str) -> Hours:
        """Return a part of the day, such as "morning". "since noon" means since 12:00, whenever noon begins."""
        start, end = self._parts[name]
        return Hours(start, end if end > start else end + DAY_MIN, NOON_MIN if name == "noon" else None, name)

    # --- spans ---

    def ago(self, seconds: float) -> Piece:
        """Return the stretch that "5 minutes ago" means."""
        margin = max(AGO_SHARE * seconds, AGO_MIN_S)
        moment = self.now - seconds
        return Piece(span=(moment - margin, moment + margin), point=moment)

    def range_of(self, piece: Piece) -> Range:
        """Return the bounds of a piece in unix seconds."""
        if piece.span is not None:
            return self._of_span(piece)
        if piece.hours is None:
            return self._of_days(piece)
        if piece.days is not None and piece.days.last > piece.days.first:
            return self._of_days(replace(piece, hours=None))
        return self._of_hours(piece, piece.hours)

    def moment_of(self, piece: Piece, *, latest: bool) -> float | None:
        """Return the one moment that a piece means as a bound: the clock time, or the beginning of its stretch.

        latest: of a local time that occurs twice, the second one.
        """
        if piece.span is not None:
            return piece.point if piece.point is not None else piece.span[0]
        if piece.hours is None:
            return self.instant((piece.days or self.day(0)).first, 0, latest=latest)
        day, hours = self._placed(piece, piece.hours)
        return self.instant(day, _low(hours), latest=latest)

    def start_of(self, piece: Piece) -> float | None:
        """Return the moment at which "since" the piece begins."""
        return self.range_of(replace(piece, op="since"))[0]

    def _of_span(self, piece: Piece) -> Range:
        low, high = piece.span or (None, None)
        point = piece.point
        match piece.op:
            case "since":
                return (low if point is None else point), None
            case "before":
                return None, (low if point is None else point)
            case "after":
                return (high if point is None else point), None
            case "until":
                return None, (high if point is None else point)
        return low, high

    def _of_days(self, piece: Piece) -> Range:
        days = piece.days or self.day(0)
        low = self.instant(days.first, 0)
        high = None if days.is_open else self.instant(days.last, DAY_MIN, latest=True)
        match piece.op:
            case "since":
                return low, None
            case "before":
                return None, low
            case "after":
                return (self.now if high is None else high), None
            case "until":
                return None, high
        return low, high

    def _of_hours(self, piece: Piece, hours: Hours) -> Range:
        day, hours = self._placed(piece, hours)
        low = self.instant(day, _low(hours) if piece.op == "since" else hours.start)
        high = self.instant(day, hours.end, latest=True)
        midnight = self.instant(day, 0)
        match piece.op:
            case "since":
                return low, None
            case "before" | "until":
                end = self.instant(day, (_low if piece.op == "before" else _high)(hours), latest=True)
                return (midnight if midnight < end else self.instant(day, -DAY_MIN)), end
            case "after":
                after = self.instant(day, _high(hours))
                end = self.instant(day, DAY_MIN, latest=True)
                is_today = piece.days is None and day == self.today
                return after, (None if is_today or end <= after else end)
        return low, high

    def _placed(self, piece: Piece, hours: Hours) -> tuple[date, Hours]:
        """Return the day of these hours, and the hours without doubt about noon."""
        choices = [hours]
        if hours.start_is_vague or hours.end_is_vague:
            base = _low(hours) % NOON_MIN - _low(hours)
            choices = [_shifted(hours, base), _shifted(hours, base + NOON_MIN)]
        day = piece.days.first if piece.days else self.today
        if day != self.today:
            usual = [each for each in choices if DAYTIME_MIN[0] <= _low(each) < DAYTIME_MIN[1]]
            return day, (usual or choices)[-1]
        if piece.days is not None or piece.op in ("before", "until"):
            begun = [each for each in choices if self.instant(day, _low(each)) <= self.now]
            return day, (begun or choices[:1])[-1]
        found = [
            (self.instant(day, _low(each)), day, each)
            for day in (self.today, self._shifted(self.today, -1))
            for each in choices
        ]
        begun_ = [each for each in found if each[0] <= self.now]
        _, day, chosen = max(begun_ or found, key=lambda each: each[0])
        return day, chosen

    def instant(self, day: date, minute: float, *, latest: bool = False) -> float:
        """Return the unix seconds of a local time; a missing one means the change of the clocks, see `instant_of`."""
        extra, rest = divmod(round(minute * 60), DAY_MIN * 60)
        moment = datetime.combine(self._shifted(day, extra), time()) + timedelta(seconds=rest)
        return instant_of(moment, self._zone, latest=latest)


def _date(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except (ValueError, OverflowError):
        return None
