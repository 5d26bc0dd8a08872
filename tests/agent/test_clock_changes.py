"""Nights in which clocks are set: an hour that is shown twice, one that is passed over, half hours, and who tells of them."""

from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from agent.times import format_clock, format_stamp, format_time, instant_of, load_zone, parse_time, repeated_hour
from tests.support.agents import ListSource, frames, served

BERLIN, LORD_HOWE, KATHMANDU, MOSCOW = "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu", "Europe/Moscow"


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "zone", "first", "last"),
    [
        ("2026-10-25T02:40", BERLIN, "2026-10-25T00:40", "2026-10-25T01:40"),  # twice
        ("2026-10-25T02:00", BERLIN, "2026-10-25T00:00", "2026-10-25T01:00"),
        ("2026-10-25T03:00", BERLIN, "2026-10-25T02:00", "2026-10-25T02:00"),
        ("2026-03-29T02:00", BERLIN, "2026-03-29T01:00", "2026-03-29T01:00"),  # never: the change
        ("2026-03-29T02:59:59", BERLIN, "2026-03-29T01:00", "2026-03-29T01:00"),
        ("2026-03-29T03:00", BERLIN, "2026-03-29T01:00", "2026-03-29T01:00"),
        ("2026-04-05T01:40", LORD_HOWE, "2026-04-04T14:40", "2026-04-04T15:10"),  # half an hour
        ("2026-10-04T02:10", LORD_HOWE, "2026-10-03T15:30", "2026-10-03T15:30"),
        ("2026-05-05T12:15", KATHMANDU, "2026-05-05T06:30", "2026-05-05T06:30"),
        ("2023-11-05T00:30", "America/Havana", "2023-11-05T04:30", "2023-11-05T05:30"),  # midnight comes twice
        ("2026-04-24", "Africa/Cairo", "2026-04-23T22:00", "2026-04-23T22:00"),  # the day begins at 01:00
        ("2011-12-30T12:00", "Pacific/Apia", "2011-12-30T10:00", "2011-12-30T10:00"),  # a day that was not
        ("2026-10-25T02:40+02:00", BERLIN, "2026-10-25T00:40", "2026-10-25T00:40"),  # said
    ],
)
def test_both_readings_of_a_local_time(text: str, zone: str, first: str, last: str) -> None:
    moment = datetime.fromisoformat(text)
    assert instant_of(moment, load_zone(zone)) == at(first)
    assert instant_of(moment, load_zone(zone), latest=True) == at(last)
    now = at("2027-01-01")
    assert parse_time(text, now=now, zone=zone) == at(first)
    assert parse_time(text, now=now, zone=zone, latest=True) == at(last)


def test_a_time_of_day_in_the_hour_that_came_twice() -> None:
    now = at("2026-10-25T01:10")  # 02:10 for the second time
    assert parse_time("02:40", now=now, zone=BERLIN) == at(
        "2026-10-25T00:40"
    )  # half an hour ago, though clocks show 02:10
    assert parse_time("02:05", now=now, zone=BERLIN) == at("2026-10-25T00:05")
    assert parse_time("02:05", now=now, zone=BERLIN, latest=True) == at("2026-10-25T01:05")
    assert parse_time("22:00", now=now, zone=BERLIN) == at("2026-10-24T20:00")


@pytest.mark.parametrize(
    ("time", "zone", "whole", "clock", "stamp"),
    [
        ("2026-10-25T00:40:05", BERLIN, "2026-10-25 02:40:05 CEST", "02:40:05 CEST", "20261025-024005-CEST"),
        ("2026-10-25T01:40:05", BERLIN, "2026-10-25 02:40:05 CET", "02:40:05 CET", "20261025-024005-CET"),
        ("2026-10-25T02:40:05", BERLIN, "2026-10-25 03:40:05 CET", "03:40:05", "20261025-034005"),
        ("2026-03-29T01:00:00", BERLIN, "2026-03-29 03:00:00 CEST", "03:00:00", "20260329-030000"),
        ("2026-04-04T14:45:00", LORD_HOWE, "2026-04-05 01:45:00 +11", "01:45:00 +11", "20260405-014500-11"),
        ("2026-04-04T15:15:00", LORD_HOWE, "2026-04-05 01:45:00 +1030", "01:45:00 +1030", "20260405-014500-1030"),
        ("2014-10-25T21:30:00", MOSCOW, "2014-10-26 01:30:00 UTC+04:00", "01:30:00 UTC+04:00", "20141026-013000-UTC0400"),
        ("2014-10-25T22:30:00", MOSCOW, "2014-10-26 01:30:00 UTC+03:00", "01:30:00 UTC+03:00", "20141026-013000-UTC0300"),
        ("2026-05-05T06:30:00", KATHMANDU, "2026-05-05 12:15:00 +0545", "12:15:00", "20260505-121500"),
    ],
)  # fmt: skip
def test_what_is_shown_twice_has_its_zone(time: str, zone: str, whole: str, clock: str, stamp: str) -> None:
    assert (format_time(at(time), zone), format_clock(at(time), zone), format_stamp(at(time), zone)) == (
        whole,
        clock,
        stamp,
    )


def test_a_note_says_that_an_hour_came_twice() -> None:
    note = repeated_hour([at("2026-10-24T12:00"), at("2026-10-25T01:40")], BERLIN)
    assert note == "clocks in Europe/Berlin showed 02:40 of 2026-10-25 twice, first in CEST, then in CET"
    assert repeated_hour([at("2026-10-25T02:40"), at("2026-03-29T01:30")], BERLIN) is None


async def test_a_window_holds_both_readings(tmp_path: Path) -> None:
    """Frames at 02:10, 02:30, 02:50 CEST and at 02:10, 02:30, 02:50 CET."""
    async with served(tmp_path, cameras={"door": {"timezone": BERLIN}}) as site:
        begin = at("2026-10-25T00:10")
        await site.agent.cameras.watch("door", ListSource("door", frames(6, start=begin, step_s=1200.0)))
        await site.agent.encoded()
        async with httpx.AsyncClient(base_url=site.url, headers=site.headers("owner")) as http:

            async def ask(**window: str) -> tuple[int, list[str]]:
                body = {"messages": [{"role": "user", "content": "what is there?"}], "camera": "door", **window}
                got = (await http.post("/v1/chat/completions", json=body)).json()
                return got["vilamp"]["frames"], got["vilamp"]["notes"]

            count, notes = await ask(before="2026-10-25T02:40")
            assert count == 5
            assert any("twice, first in CEST, then in CET" in note for note in notes)
            assert (await ask(after="2026-10-25T02:20", before="2026-10-25T02:40"))[0] == 4
            assert (await ask(after="2026-10-25T02:40"))[0] == 4
            assert (await ask(after="2026-10-25T02:40+01:00"))[0] == 1
            listed = await http.get("/v1/cameras/door/frames", params={"before": "2026-10-25T02:20"})
            assert len(listed.json()["data"]) == 4
            drawn = await http.get(
                "/v1/cameras/door/timeline", params={"before": "2026-10-25T02:20", "keyframes": "false"}
            )
            assert drawn.json()["frames"] == 4
            clip = await http.get(
                "/v1/cameras/door/export", params={"after": "2026-10-25T02:20", "before": "2026-10-25T02:40"}
            )
            assert "door-20261025-022000-CEST.zip" in clip.headers["content-disposition"]
            gone = await http.delete(
                "/v1/cameras/door/frames", params={"after": "2026-10-25T02:45", "before": "2026-10-25T02:55"}
            )
            assert gone.json()["erased"]["frames"] == 4  # 02:50 CEST to 02:50 CET
