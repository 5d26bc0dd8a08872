"""Times typed as options mean what people mean, in the zone of the camera."""

import pytest

from agent.ask.moments import moment_of
from agent.settings.settings import PartsOfDaySettings
from agent.times import TimeError, format_stretch, format_time

NOW = 1795364645.0  # 2026-11-22 17:24:05 in Zurich, a Sunday
ZURICH = "Europe/Zurich"
PARTS = PartsOfDaySettings().ranges()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("this morning", "2026-11-22 06:00:00 CET"),
        ("half an hour ago", "2026-11-22 16:54:05 CET"),
        ("2pm", "2026-11-22 14:00:00 CET"),
        ("10 pm", "2026-11-21 22:00:00 CET"),
        ("noon", "2026-11-22 12:00:00 CET"),
        ("last night", "2026-11-21 22:00:00 CET"),
        ("yesterday", "2026-11-21 00:00:00 CET"),
        ("last Friday at 10 pm", "2026-11-20 22:00:00 CET"),
        ("9:15", "2026-11-22 09:15:00 CET"),
        ("gestern um 22 Uhr", "2026-11-21 22:00:00 CET"),
        ("2026-11-22T16:00:30", "2026-11-22 16:00:30 CET"),
        ("yesterday 22:00 UTC", "2026-11-21 23:00:00 CET"),
        ("-24h", "2026-11-21 17:24:05 CET"),
    ],
)
def test_words_are_moments(text: str, expected: str) -> None:
    assert format_time(moment_of(text, now=NOW, zone=ZURICH, parts=PARTS), ZURICH) == expected


@pytest.mark.parametrize("text", ["", "the gate this morning", "sometime", "22", "10:99"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(TimeError, match="this morning"):
        moment_of(text, now=NOW, zone=ZURICH, parts=PARTS)


def test_an_upper_bound_in_a_repeated_hour_is_the_later_one() -> None:
    now = 1792965600.0  # 2026-10-25 23:00 in Zurich
    first, last = (moment_of("today 2:30 am", now=now, zone=ZURICH, parts=PARTS, latest=each) for each in (False, True))
    assert last - first == 3600


@pytest.mark.parametrize(
    ("after", "before", "expected"),
    [
        (NOW - 3600, NOW, "Sun 16:24-17:24"),
        (1795280400.0, 1795302000.0, "Sat 18:00-24:00"),
        (1795280400.0, NOW, "Sat 18:00 to Sun 17:24"),
        (NOW - 3600, None, "since Sun 16:24"),
        (None, NOW - 8 * 86400, "until Sat 14 Nov 17:24"),
        (None, None, "all of memory"),
    ],
)
def test_stretches_are_shown_in_few_words(after: float | None, before: float | None, expected: str) -> None:
    assert format_stretch(after, before, ZURICH, NOW) == expected
