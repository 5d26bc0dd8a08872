"""Settings of rules. Every default stands here and nowhere else.

A rule is the same over REST and in the YAML file; its name is the key it stands under.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from agent.settings.types import Part, Slug
from agent.times import MAX_UNIX_S, load_zone, local_moment
from agent.untrusted.plain import plain_line

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d|24:00")


def check_clock(value: object) -> object:
    """ "HH:MM" itself. YAML reads an unquoted 22:00 as the number 1320: that is taken for what was meant."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 24 * 60:
        value = f"{value // 60:02}:{value % 60:02}"
    if not isinstance(value, str) or not _CLOCK.fullmatch(value):
        raise ValueError('a time of day is written as "22:00", from 00:00 to 24:00')
    return value


Clock = Annotated[str, BeforeValidator(check_clock)]


def name_switches(value: object) -> object:
    """`on` and `off` as names: YAML reads both, unquoted, as true and false, where they stand as keys too."""
    if not isinstance(value, dict):
        return value
    return {{True: "on", False: "off"}.get(key, key) if isinstance(key, bool) else key: v for key, v in value.items()}


class GateSettings(Part):
    """When a frame is unusual enough to be looked at. Scores are in spreads of the camera's own background."""

    on: float = Field(default=8.0, gt=0, le=100, description="the gate opens at this score")
    off: float = Field(default=4.0, gt=0, le=100, description="an open gate closes below this score")
    surge: float = Field(
        default=1.5,
        gt=1,
        le=100,
        description="a surge of an open gate: so many times its last peak; the judge is asked afresh",
    )
    background_s: float = Field(default=300.0, gt=0, le=86400, description="seconds in which the background is learnt")
    open_factor: float = Field(default=4.0, ge=1, description="how much slower it is learnt while the gate is open")
    warm_up_frames: int = Field(
        default=30,
        ge=2,
        le=1000,
        description="frames before the gate may open; later none counts for more than one of them",
    )
    min_spread: float = Field(default=0.002, gt=0, le=1, description="a spread is taken to be at least this cosine")

    @model_validator(mode="after")
    def _hysteresis(self) -> "GateSettings":
        if self.off > self.on:
            raise ValueError("off must not be above on: the gate would open and close at every frame")
        return self


class ConfirmSettings(Part):
    """n of the last m verdicts must be yes."""

    n: int = Field(default=2, ge=1, le=32, description="verdicts that must be yes")
    m: int = Field(default=3, ge=1, le=32, description="among so many last ones")

    @model_validator(mode="after")
    def _possible(self) -> "ConfirmSettings":
        if self.n > self.m:
            raise ValueError(f"{self.n} of the last {self.m} verdicts can never be yes: n is at most m")
        return self


class JudgeSettings(Part):
    """How the language model is asked, and how often."""

    window_s: float = Field(default=8.0, ge=1, le=3600, description="seconds of video that it is shown")
    num_keyframes: int = Field(default=8, ge=1, le=512, description="frames of them that it sees in full")
    recent: int = Field(default=4, ge=0, le=512, description="of those, places reserved for the newest frames")
    every_s: float = Field(default=1.0, gt=0, le=3600, description="seconds between verdicts, at least")
    recheck_s: float = Field(
        default=20.0, gt=0, le=3600, description="while verdicts do not change anything the pause doubles up to this"
    )
    per_minute: float = Field(
        default=20.0, gt=0, le=600, description="verdicts per minute for this rule on all its cameras, on average"
    )

    @model_validator(mode="after")
    def _in_order(self) -> "JudgeSettings":
        if self.recheck_s < self.every_s:
            raise ValueError("recheck_s must not be below every_s: the pause grows from every_s to recheck_s")
        return self


class ScheduleSettings(Part):
    """A part of the week, by the camera's own clock. An end at or before the start lies on the next day."""

    days: tuple[Day, ...] = Field(default=(), description="days on which it starts: mon to sun; none named: every day")
    start: Clock = Field(default="00:00", description="local time of day")
    end: Clock = Field(default="24:00", description="local time of day, not included; 24:00: midnight")

    def covers(self, time: float, zone: str) -> bool:
        """True when `time` (unix seconds) lies in it, seen in the IANA zone `zone`.

        Worked example: days [fri], 22:00 to 06:00 covers Friday 23:00 and Saturday 05:59, not Friday 05:00. In the night
        in which the clock is set back that is nine hours, in the one in which it is set forward seven.
        """
        local = local_moment(time, load_zone(zone))
        days = self.days or DAYS
        today, yesterday = DAYS[local.weekday()] in days, DAYS[local.weekday() - 1] in days
        minute, start, end = local.hour * 60 + local.minute, _minute(self.start), _minute(self.end)
        if start < end:
            return today and start <= minute < end
        return (today and minute >= start) or (yesterday and minute < end)


def _minute(clock: str) -> int:
    """ "06:30" -> 390."""
    return int(clock[:2]) * 60 + int(clock[3:])


def check_words(text: str) -> str:
    """`text` on one line, without what steers a terminal or deceives a reader. Raises ValueError when nothing is left."""
    words = plain_line(text)
    if not words:
        raise ValueError("say in words what to watch for")
    return words


class RuleSettings(Part):
    """One standing question."""

    condition: Annotated[str, AfterValidator(check_words)] = Field(
        min_length=1, max_length=300, description="what to watch for, in plain words"
    )
    cameras: tuple[Slug, ...] = Field(default=(), description="cameras it watches; none named: all")
    enabled: bool = Field(default=True, description="false: it watches nothing")
    gate: Annotated[GateSettings, BeforeValidator(name_switches)] = GateSettings()
    confirm: ConfirmSettings = ConfirmSettings()
    judge: JudgeSettings = JudgeSettings()
    clear: int = Field(default=2, ge=1, le=32, description="verdicts `no` in a row that end an alert")
    hold_s: float = Field(default=10.0, ge=0, le=86_400, description="seconds that an alert lasts, at least")
    cooldown_s: float = Field(
        default=60.0, ge=0, le=86_400, description="seconds after its end in which no other alert begins"
    )
    snooze: float | None = Field(
        default=None, ge=0, le=MAX_UNIX_S, description="no alert begins before this time (unix seconds)"
    )
    schedule: tuple[ScheduleSettings, ...] = Field(
        default=(), max_length=32, description="when an alert may begin; none named: always"
    )
    snapshot: bool = Field(default=True, description="keep and send a picture with an alert")

    def watches(self, camera: str) -> bool:
        """True when the rule is about this camera."""
        return not self.cameras or camera in self.cameras

    def scheduled(self, time: float, zone: str) -> bool:
        """True when an alert may begin at `time`."""
        return not self.schedule or any(part.covers(time, zone) for part in self.schedule)


class AlertsSettings(Part):
    """What rules share."""

    max_rules: int = Field(default=64, ge=1, le=1000, description="rules made over REST, at most; beyond it: 409")
    max_alerts: int = Field(default=10_000, ge=1, le=1_000_000, description="alerts kept, the oldest go first")
    max_suppressed: int = Field(
        default=10_000, ge=1, le=1_000_000, description="alerts that did not fire kept, the oldest go first"
    )
    max_outbox: int = Field(
        default=1000, ge=1, le=1_000_000, description="events that wait for MQTT or a webhook, at most for each"
    )
    max_waiting: int = Field(
        default=16, ge=1, le=1000, description="frames that wait for a verdict, at most; beyond it: judge_busy"
    )
    late_s: float = Field(
        default=300.0, gt=0, le=86_400, description="a frame encoded later than this after it was taken fires nothing"
    )
