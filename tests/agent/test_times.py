"""Times as people write them: pure, with the present passed in."""

import pytest

from agent.times import (
    TimeError,
    format_clock,
    format_day,
    format_span,
    format_stamp,
    format_time,
    load_zone,
    local_zone_name,
    parse_time,
)

NOW = 1795364645.0  # 2026-11-22 16:24:05 UTC, a Sunday, 17:24:05 in Zurich
ZURICH = "Europe/Zurich"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10 minutes ago", "2026-11-22 17:14:05 CET"),
        ("an hour ago", "2026-11-22 16:24:05 CET"),
        ("yesterday 22:00", "2026-11-21 22:00:00 CET"),
        ("10 pm yesterday", "2026-11-21 22:00:00 CET"),
        ("9:15", "2026-11-22 09:15:00 CET"),
        ("22:00", "2026-11-21 22:00:00 CET"),  # not reached today: the latest one
        ("friday 10pm", "2026-11-20 22:00:00 CET"),
        ("today", "2026-11-22 00:00:00 CET"),
        ("Yesterday", "2026-11-21 00:00:00 CET"),
        ("the day before yesterday", "2026-11-20 00:00:00 CET"),
        ("monday", "2026-11-16 00:00:00 CET"),
        ("-24h", "2026-11-21 17:24:05 CET"),
        ("-1h 30m", "2026-11-22 15:54:05 CET"),
        ("-90s", "2026-11-22 17:22:35 CET"),
        ("2026-11-22T16:00", "2026-11-22 16:00:00 CET"),
        ("2026-11-22 16:00:30", "2026-11-22 16:00:30 CET"),
        ("2026-11-22T16:00Z", "2026-11-22 17:00:00 CET"),
        ("2026-11-22T16:00-05:00", "2026-11-22 22:00:00 CET"),
        ("2026-07-01T12:00", "2026-07-01 12:00:00 CEST"),
        ("  now ", "2026-11-22 17:24:05 CET"),
        ("1795364645", "2026-11-22 17:24:05 CET"),
    ],
)
def test_words_become_instants(text: str, expected: str) -> None:
    assert format_time(parse_time(text, now=NOW, zone=ZURICH), ZURICH) == expected


def test_the_zone_decides_what_a_wall_clock_means() -> None:
    zurich, utc = (parse_time("yesterday 22:00", now=NOW, zone=zone) for zone in (ZURICH, "UTC"))
    assert utc - zurich == 3600
    assert parse_time("10 minutes ago", now=NOW, zone=ZURICH) == parse_time("10 minutes ago", now=NOW, zone="UTC")


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("2026-11-01 01:30:00 EST", "America/New_York", "2026-11-01 06:30:00 UTC"),  # as `format_time` shows it
        ("2026-11-01 01:30:00 EDT", "America/New_York", "2026-11-01 05:30:00 UTC"),
        ("2026-04-05 01:45:00 +1030", "Australia/Lord_Howe", "2026-04-04 15:15:00 UTC"),
        ("2026-11-22 17:04:05 CET", "UTC", "2026-11-22 16:04:05 UTC"),
        ("yesterday 22:00 UTC", ZURICH, "2026-11-21 22:00:00 UTC"),
        ("2026-11-20 12:00 CST", "Asia/Shanghai", "2026-11-20 04:00:00 UTC"),
        ("2026-11-20 12:00 CST", "America/Chicago", "2026-11-20 18:00:00 UTC"),
        ("15:00 EST", ZURICH, "2026-11-21 20:00:00 UTC"),  # not reached today
        ("11:00 EST", ZURICH, "2026-11-22 16:00:00 UTC"),
        ("20:00 JST", "America/New_York", "2026-11-22 11:00:00 UTC"),
    ],
)
@pytest.mark.parametrize("latest", [False, True])
def test_a_zone_that_the_text_names_counts(text: str, zone: str, expected: str, latest: bool) -> None:
    assert format_time(parse_time(text, now=NOW, zone=zone, latest=latest), "UTC") == expected


def test_hours_ago_are_hours_even_over_a_change_of_the_clocks() -> None:
    # 2026-10-25 03:00 CEST became 02:00 CET; 04:30 CET is five hours after 00:30 CEST
    after_change = parse_time("2026-10-25T04:30", now=NOW, zone=ZURICH)
    five_hours_before = parse_time("5 hours ago", now=after_change, zone=ZURICH)
    assert after_change - five_hours_before == 5 * 3600
    assert format_time(five_hours_before, ZURICH) == "2026-10-25 00:30:00 CEST"


def test_a_fraction_of_a_second_is_kept() -> None:
    assert parse_time("1795364645.25", now=NOW, zone="UTC") == 1795364645.25


@pytest.mark.parametrize("text", ["", "   ", "sometime", "22", "2026", "10:99", "1795364645000", "-", "-5 parsecs"])
def test_what_is_no_time_says_what_would_be_one(text: str) -> None:
    with pytest.raises(TimeError, match="10 minutes ago"):
        parse_time(text, now=NOW, zone="UTC")


@pytest.mark.parametrize(
    ("text", "edge"),
    [("-99999999999h", 0.0), (f"-{'9' * 400}d", 0.0), ("0001-01-01T00:00+14:00", 0.0), ("9999-12-31T23:59:59", 1e11)],
)
def test_far_times_are_the_edge_of_what_is_remembered(text: str, edge: float) -> None:
    assert parse_time(text, now=NOW, zone=ZURICH) == edge
    assert format_time(edge, ZURICH)


def test_milliseconds_are_recognised() -> None:
    with pytest.raises(TimeError, match="divide by 1000"):
        parse_time("1795364645000", now=NOW, zone="UTC")


@pytest.mark.parametrize("zone", ["Mars", "Europe", "", "/etc/passwd", "../UTC"])
def test_unknown_zones_are_refused(zone: str) -> None:
    with pytest.raises(TimeError, match="IANA"):
        load_zone(zone)


def test_this_machine_has_a_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", ":Asia/Tokyo")
    assert local_zone_name() == "Asia/Tokyo"
    monkeypatch.setenv("TZ", "nonsense")
    load_zone(local_zone_name())  # falls back to a zone that exists


def test_times_are_shown_in_the_zone() -> None:
    assert format_time(NOW, "Asia/Tokyo") == "2026-11-23 01:24:05 JST"
    assert format_clock(NOW, ZURICH) == "17:24:05"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (12.4, "12 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (349_200, "4 d 1 h"),
        (-3, "0 s"),
    ],
)
def test_spans_are_shown_in_two_units(seconds: float, text: str) -> None:
    assert format_span(seconds) == text


@pytest.mark.parametrize("time", [-1e18, -6.3e10, 253_402_300_799.0, 253_402_300_800.0, 1e13, 1e300])
@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Kathmandu"])
def test_a_wild_clock_is_shown_as_the_nearest_time_there_is(time: float, zone: str) -> None:
    assert format_time(time, zone).lstrip("0").startswith("5-" if time < 0 else "9999-")
    assert format_stamp(time, zone)
    assert format_clock(time, zone)
    assert format_day(time, zone)
