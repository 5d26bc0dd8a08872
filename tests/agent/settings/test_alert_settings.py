"""Settings of alert rules: ranges, names and schedules."""

from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from agent.settings.rules import RuleSettings, ScheduleSettings
from agent.settings.source import load_settings


def at(text: str, zone: str = "Europe/Zurich") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def covers(text: str, **part: Any) -> bool:
    return ScheduleSettings.model_validate(part).covers(at(text), "Europe/Zurich")


def test_schedule_covers_hours_on_given_days() -> None:
    office = {"days": ["mon", "fri"], "start": "08:00", "end": "18:30"}
    assert covers("2026-11-20T08:00", **office)  # a Friday
    assert covers("2026-11-20T18:29", **office)
    assert not covers("2026-11-20T18:30", **office)
    assert not covers("2026-11-20T07:59", **office)
    assert not covers("2026-11-21T12:00", **office)


def test_schedule_over_midnight_belongs_to_its_first_day() -> None:
    night = {"days": ["fri"], "start": "22:00", "end": "06:00"}
    assert covers("2026-11-20T23:00", **night)
    assert covers("2026-11-21T05:59", **night)
    assert not covers("2026-11-20T05:00", **night)
    assert not covers("2026-11-21T23:00", **night)
    assert covers("2026-11-21T00:00", days=["fri"], start="12:00", end="12:00")


@pytest.mark.parametrize(("evening", "hours"), [("2026-03-28", 7), ("2026-10-24", 9), ("2026-11-20", 8)])
def test_schedule_covers_a_night_with_a_clock_change(evening: str, hours: int) -> None:
    noon = at(f"{evening}T12:00")
    night = ScheduleSettings.model_validate({"start": "22:00", "end": "06:00"})
    covered = [minute for minute in range(24 * 60) if night.covers(noon + 60 * minute, "Europe/Zurich")]
    assert covered == list(range(10 * 60, (10 + hours) * 60))


def test_schedule_of_whole_days_uses_the_camera_clock() -> None:
    sunday = ScheduleSettings(days=("sun",))
    assert sunday.covers(at("2026-11-22T00:00"), "Europe/Zurich")
    assert sunday.covers(at("2026-11-22T23:59"), "Europe/Zurich")
    assert not sunday.covers(at("2026-11-23T00:00"), "Europe/Zurich")
    assert sunday.covers(at("2026-11-23T00:00"), "America/New_York")


def test_unquoted_yaml_times_are_accepted() -> None:
    part = ScheduleSettings.model_validate({"start": 1320, "end": "06:00"})
    assert (part.start, part.end) == ("22:00", "06:00")
    for wrong in ("25:00", "8:00", 1441, True, None, "24:01"):
        with pytest.raises(ValidationError, match="time of day"):
            ScheduleSettings.model_validate({"start": wrong})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"confirm": {"n": 3, "m": 2}}, "can never be yes"),
        ({"judge": {"every_s": 30}}, "recheck_s must not be below every_s"),
        ({"cameras": ["Yard"]}, "cannot be a name"),
        ({"condition": ""}, "at least 1 character"),
        ({"colour": 1}, "Extra inputs"),
        ({"schedule": [{"days": ["monday"]}]}, "Input should be 'mon'"),
    ],
)
def test_invalid_rules_are_refused_with_advice(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RuleSettings.model_validate({"condition": "a bag", **changes})


def test_unquoted_on_and_off_are_accepted_as_keys(tmp_path: Path) -> None:
    file = tmp_path / "vilamp.yaml"
    file.write_text("rules: {bag: {condition: a bag, gate: {on: 7, off: 3}, schedule: [{start: 22:00, end: 06:00}]}}")
    rule = load_settings(file, environ={}).rules["bag"]
    assert (rule.gate.on, rule.gate.off) == (7, 3)
    assert (rule.schedule[0].start, rule.schedule[0].end) == ("22:00", "06:00")


def test_rule_without_cameras_watches_all() -> None:
    assert RuleSettings(condition="a bag").watches("yard")
    assert not RuleSettings(condition="a bag", cameras=("gate",)).watches("yard")


def test_rules_survive_json() -> None:
    rule = RuleSettings.model_validate({"condition": "a bag", "schedule": [{"days": ["mon"], "start": "08:00"}]})
    assert RuleSettings.model_validate(rule.model_dump(mode="json")) == rule
