"""Convert times between unix seconds and text as people write it. Reads no clock: current time and zone are arguments."""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, time, timedelta, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

PartsOfDay = Mapping[str, tuple[int, int]]
"""Beginning and end of the parts of a day in minutes after midnight, by name; the end may be on the next day."""

_UNIT_S = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_OFFSET_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(sec|min|[smhdw])")
_OFFSET = re.compile(rf"[-−]\s*(?:{_OFFSET_PART.pattern}\s*)+", re.IGNORECASE)
_DAY = re.compile(
    r"today|(the day before )?yesterday", re.IGNORECASE
)  # dateparser returns the current time of day on that day for these
_TIME_OF_DAY = re.compile(r"\d{1,2}:\d{2}(:\d{2})?(\s*[ap]m)?", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_HELP = 'say "10 minutes ago", "yesterday 22:00", "this morning", "-24h", 2026-11-22T16:00 or unix seconds'
# A plain number counts as unix seconds only from ten digits (2001) on: a smaller one is probably a year or an hour.
MIN_UNIX_S, MAX_UNIX_S = 1e9, 1e11
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")  # in English, whatever the locale
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_WEEK_S = 6 * 86400.0  # before that, a weekday alone would be today's or tomorrow's
_FIRST_S, _LAST_S = -6.2e10, 2.534e11  # years 5 and 9999: the range that a datetime can show in every zone


class TimeError(ValueError):
    """The text cannot be parsed as a time, or the name is no time zone."""


def parse_time(
    text: str,
    *,
    now: float,
    zone: str,
    latest: bool = False,
    in_words: Callable[[str], float | None] = lambda text: None,
) -> float:
    """Return the unix seconds that `text` means, in the IANA time zone `zone` unless the text names its own zone.

    Accepted are unix seconds, ISO 8601, "-90s" or "-1h 30m" (that long before `now`), and English such as "10 minutes
    ago" or "yesterday 22:00". A time of day without a day means its latest occurrence that is not after `now`. A day
    without a time of day means its first moment. A local time that occurs twice, because clocks were set back, means
    its first occurrence, or its last if `latest` (see `instant_of`). A time before 1970 or after 5138 becomes the
    nearest time in that range. in_words: a better reader of words, which is asked first. Raises TimeError.
    """
    words = text.strip()
    found = _exact(words, now, zone, latest)
    if found is None:
        found = in_words(words)
    if found is None:
        moment = _english(words, now, load_zone(zone))
        if moment is None:
            raise TimeError(f'"{text}" is not a time: {_HELP}')
        found = instant_of(moment, load_zone(zone), latest=latest)
    return min(max(found, 0.0), MAX_UNIX_S)


def _exact(words: str, now: float, zone: str, latest: bool) -> float | None:
    """Return what a number, an offset like "-24h" or an ISO 8601 text means; None for words."""
    if not words:
        raise TimeError(f"the time is empty: {_HELP}")
    if _NUMBER.fullmatch(words):
        return _unix_seconds(words)
    if _OFFSET.fullmatch(words):
        return now - sum(float(n) * _UNIT_S[unit.lower()] for n, unit in _OFFSET_PART.findall(words.lower()))
    moment = _iso(words)
    return None if moment is None else instant_of(moment, load_zone(zone), latest=latest)


def instant_of(moment: datetime, zone: ZoneInfo, *, latest: bool = False) -> float:
    """Return the unix seconds of `moment`, which is a local time in `zone` unless it has its own UTC offset.

    When clocks are set back, local times of one hour occur twice. The first occurrence is returned, or the last if
    `latest`; so a window whose end is parsed with `latest` covers both. When clocks are set forward, the local times of
    one hour do not occur. For these the moment of the change is returned.

    Example in Berlin: 2026-10-25T02:40 is 00:40 UTC, and 01:40 UTC with `latest`. 2026-03-29T02:40 is 01:00 UTC, when
    the clocks went from 02:00 to 03:00.
    """
    if moment.tzinfo is not None:
        return moment.timestamp()
    first, last = (moment.replace(tzinfo=zone, fold=fold).timestamp() for fold in (0, 1))
    if first <= last:
        return last if latest else first
    return _change_between(last, first, zone)


def _change_between(before: float, after: float, zone: ZoneInfo) -> float:
    """Return the unix time, to the second, at which the UTC offset of `zone` changes between `before` and `after`."""
    old = datetime.fromtimestamp(before, zone).utcoffset()
    low, high = math.floor(before), math.ceil(after)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if datetime.fromtimestamp(middle, zone).utcoffset() == old else (low, middle)
    return float(high)


def _shown_twice(moment: datetime) -> bool:
    """Return whether the local time of `moment` occurs twice in its zone, because clocks are set back."""
    return moment.replace(fold=0).utcoffset() != moment.replace(fold=1).utcoffset()


def _zone_name(moment: datetime) -> str:
    """Return the abbreviation of the moment's zone, such as "CEST".

    Return "UTC+04:00" or the like if clocks are set back at that time and the abbreviation stays the same.
    """
    name = moment.tzname() or ""
    if _shown_twice(moment) and moment.replace(fold=0).tzname() == moment.replace(fold=1).tzname():
        return f"UTC{moment.isoformat()[-6:]}"
    return name


def _unix_seconds(words: str) -> float:
    seconds = float(words)
    if not MIN_UNIX_S <= seconds < MAX_UNIX_S:
        hint = "milliseconds? divide by 1000" if seconds >= MAX_UNIX_S else "a plain number means unix seconds"
        raise TimeError(f'"{words}" is not a time ({hint}): {_HELP}')
    return seconds


def unit_hint(number: float) -> str | None:
    """Return a hint if `number` looks like a time in a smaller unit than seconds; else None."""
    for unit, per_second in (("milliseconds", 1e3), ("microseconds", 1e6), ("nanoseconds", 1e9)):
        if MIN_UNIX_S <= number / per_second < MAX_UNIX_S:
            return f"it looks like {unit}: divide by {per_second:.0f} for unix seconds"
    return None


def _iso(words: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(words)
    except ValueError:
        return None
    return moment


def _english(words: str, now: float, local: ZoneInfo) -> datetime | None:
    import dateparser  # takes half a second to import

    base = local_moment(now, local).replace(tzinfo=None)
    moment = dateparser.parse(
        words,
        languages=["en"],
        settings={"RELATIVE_BASE": base, "PREFER_DATES_FROM": "past"},
    )
    if moment is None:
        return None
    if moment.tzinfo is not None:
        return _with_zone(moment, words, now, local)
    if _DAY.fullmatch(words):
        moment = datetime.combine(moment, time())
    elif _TIME_OF_DAY.fullmatch(words):
        moment = _latest_day(moment, now, local)
    elif _is_relative(words):
        # "2 hours ago" is a length of time: subtract it from the instant, not from the wall clock, so that a
        # change to or from summer time in between does not add or lose an hour.
        return local_moment(now + (moment - base).total_seconds(), local)
    return moment


def _with_zone(moment: datetime, words: str, now: float, local: ZoneInfo) -> datetime:
    """Return the moment that dateparser found in a text which names a zone, such as "22:00 CST".

    Several zones share an abbreviation like "CST": if the zone `local` has it, the moment is returned in `local`.
    """
    for fold in (0, 1):
        shown = moment.replace(tzinfo=local, fold=fold)
        if shown.tzname() == moment.tzname():
            moment = shown
            break
    clock = _TIME_OF_DAY.match(words)
    if (
        clock and len(words[clock.end() :].split()) == 1
    ):  # a time of day without a day: dateparser chose the day by `local`, not by the named zone
        moment -= timedelta(days=math.ceil((moment.timestamp() - now) / 86400.0))
    return moment


def _latest_day(moment: datetime, now: float, local: ZoneInfo) -> datetime:
    """Return the latest occurrence, not after `now`, of the time of day that dateparser put on `moment`'s day.

    dateparser compares local times: after clocks were set back to 02:10, it takes 02:40 for a time to come and returns
    yesterday's.
    """
    tomorrow = moment + timedelta(days=1)
    return tomorrow if instant_of(tomorrow, local) <= now else moment


def _is_relative(words: str) -> bool:
    return re.search(r"\b\d*\s*(second|sec|minute|min|hour|hr|h|m|s)s?\b", words, re.IGNORECASE) is not None


def load_zone(name: str) -> ZoneInfo:
    """Return the time zone with the IANA name `name`. Raises TimeError if there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # a folder of the zone database ("Europe") and an absolute path raise errors of their own kinds
        raise TimeError(f'"{name}" is not a time zone: use an IANA name such as Europe/Zurich or UTC') from None


def local_zone_name() -> str:
    """Return the IANA name of this machine's time zone; "UTC" if it cannot be found."""
    for candidate in (os.environ.get("TZ", "").removeprefix(":"), _zone_of_link(Path("/etc/localtime"))):
        try:
            if candidate:
                return load_zone(candidate).key
        except TimeError:
            continue
    return "UTC"


def _zone_of_link(link: Path) -> str:
    _, found, name = str(link.resolve()).partition("zoneinfo/")
    return name if found else ""


def local_moment(time: float, zone: tzinfo) -> datetime:
    """Return the local date and time of `time` (unix seconds), limited to the years that a datetime can hold."""
    return datetime.fromtimestamp(min(max(time, _FIRST_S), _LAST_S), zone)


def format_time(time: float, zone: str) -> str:
    """Return local date and time with the zone's abbreviation: "2026-11-22 17:04:05 CET"."""
    moment = local_moment(time, load_zone(zone))
    return f"{moment:%Y-%m-%d %H:%M:%S} {_zone_name(moment)}"


def format_day(time: float, zone: str) -> str:
    """Return the local date: "2026-11-22"."""
    return f"{local_moment(time, load_zone(zone)):%Y-%m-%d}"


def format_clock(time: float, zone: str) -> str:
    """Return the local time of day: "17:04:05"; "02:40:05 CEST" if it occurs twice because clocks are set back."""
    moment = local_moment(time, load_zone(zone))
    return f"{moment:%H:%M:%S} {_zone_name(moment)}" if _shown_twice(moment) else f"{moment:%H:%M:%S}"


def format_short(time: float, zone: str, now: float) -> str:
    """Return the local weekday and time, "Mon 14:02"; with the date if it is a week or more from `now`."""
    moment = local_moment(time, load_zone(zone))
    date = f" {moment.day} {_MONTHS[moment.month - 1]}" if abs(now - time) >= _WEEK_S else ""
    year = f" {moment.year}" if date and moment.year != local_moment(now, load_zone(zone)).year else ""
    return f"{_WEEKDAYS[moment.weekday()]}{date}{year} {moment:%H:%M}"


def format_stretch(after: float | None, before: float | None, zone: str, now: float) -> str:
    """Return a stretch of local time: "Sun 18:00-24:00", "since Sun 18:00", "until Mon 06:00", "all of memory"."""
    if after is None or before is None:
        told = [format_short(each, zone, now) for each in (after, before) if each is not None]
        return f"{'until' if after is None else 'since'} {told[0]}" if told else "all of memory"
    start, end = format_short(after, zone, now), format_short(before, zone, now)
    local = load_zone(zone)
    days = (local_moment(before, local).date() - local_moment(after, local).date()).days
    if days == 1 and end.endswith("00:00"):
        return f"{start}-24:00"
    return f"{start}-{end[-5:]}" if days == 0 else f"{start} to {end}"


def repeated_hour(times: Iterable[float], zone: str) -> str | None:
    """Return a note for the user if the local time of one of `times` occurs twice in `zone`; else None."""
    local = load_zone(zone)
    for each in times:
        moment = local_moment(each, local)
        if _shown_twice(moment):
            first, second = (_zone_name(moment.replace(fold=fold)) for fold in (0, 1))
            return (
                f"clocks in {zone} showed {moment:%H:%M} of {moment:%Y-%m-%d} twice, first in {first}, then in {second}"
            )
    return None


def format_stamp(time: float, zone: str) -> str:
    """Return local date and time for a file name: "20261122-170405"; "20261025-024005-CEST" if the time occurs twice."""
    moment = local_moment(time, load_zone(zone))
    name = re.sub(r"\W", "", _zone_name(moment), flags=re.ASCII)
    return f"{moment:%Y%m%d-%H%M%S}" + (f"-{name}" if _shown_twice(moment) else "")


def format_span(seconds: float) -> str:
    """Return a duration in its two largest units: "12 s", "3 min 20 s", "2 h 5 min", "4 d 1 h"."""
    whole = max(0, round(seconds))
    units = [(86400, "d"), (3600, "h"), (60, "min"), (1, "s")]
    for place, (size, name) in enumerate(units):
        if whole >= size or size == 1:
            small_size, small_name = units[min(place + 1, 3)]
            rest = whole % size // small_size
            return f"{whole // size} {name}" + (f" {rest} {small_name}" if rest else "")
    raise AssertionError("unreachable: the last unit is one second")
