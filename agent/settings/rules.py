"""Settings of alert rules, the same in the YAML file and over REST. The rule's name is its key, not one of them.

How a rule decides: its gate scores every frame, and is open while the camera shows something unusual that resembles the
rule's condition. While it is open, a language model (the judge) is asked whether the condition is true. Each of the
judge's answers is a verdict, yes or no; several yes raise an alert.
"""

import logging
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from agent.settings.removed import take_removed
from agent.settings.types import Part, Slug
from agent.times import MAX_UNIX_S, load_zone, local_moment
from agent.untrusted.plain import plain_line

log = logging.getLogger(__name__)

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d|24:00")


def check_clock(value: object) -> object:
    """Return a time of day as "HH:MM". Raises ValueError.

    Whole minutes since midnight are accepted too, because YAML reads an unquoted 22:00 as the number 1320.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 24 * 60:
        value = f"{value // 60:02}:{value % 60:02}"
    if not isinstance(value, str) or not _CLOCK.fullmatch(value):
        raise ValueError('a time of day is written as "22:00", from 00:00 to 24:00')
    return value


Clock = Annotated[str, BeforeValidator(check_clock)]


def name_switches(value: object) -> object:
    """Return a mapping in which the keys True and False are replaced by "on" and "off". Other values are not changed.

    YAML reads these two keys as true and false when they are not quoted.
    """
    if not isinstance(value, dict):
        return value
    return {{True: "on", False: "off"}.get(key, key) if isinstance(key, bool) else key: v for key, v in value.items()}


class GateSettings(Part):
    """The gate of a rule: when a frame is unusual enough to ask the judge, a language model.

    A frame's score is how much more it resembles the condition than the camera's frames usually do, divided by the
    usual spread of that resemblance at this camera.
    """

    on: float = Field(default=8.0, gt=0, le=100, description="score that opens the gate")
    off: float = Field(default=4.0, gt=0, le=100, description="score below which it closes")
    background_s: float = Field(default=300.0, gt=0, le=86400, description="seconds to learn the background")

    @model_validator(mode="after")
    def _hysteresis(self) -> "GateSettings":
        if self.off > self.on:
            raise ValueError("off must not be above on: the gate would open and close at every frame")
        return self


class ConfirmSettings(Part):
    """How many of the judge's verdicts raise an alert: at least n of the last m must be yes."""

    n: int = Field(default=2, ge=1, le=32, description="verdicts that must be yes")
    m: int = Field(default=3, ge=1, le=32, description="of the last so many")

    @model_validator(mode="after")
    def _possible(self) -> "ConfirmSettings":
        if self.n > self.m:
            raise ValueError(f"{self.n} of the last {self.m} verdicts can never be yes: n is at most m")
        return self


class JudgeSettings(Part):
    """The judge of a rule, a language model: which frames it is shown, and how often it is asked."""

    window_s: float = Field(default=8.0, ge=1, le=3600, description="seconds of video shown to the judge")
    num_keyframes: int = Field(default=8, ge=1, le=512, description="frames of them shown in full")
    recent: int = Field(default=4, ge=0, le=512, description="keyframes reserved for the newest frames")
    every_s: float = Field(default=1.0, gt=0, le=3600, description="shortest pause between verdicts")
    recheck_s: float = Field(default=20.0, gt=0, le=3600, description="longest pause while verdicts change nothing")
    per_minute: float = Field(default=20.0, gt=0, le=600, description="average verdicts per minute, all cameras")

    @model_validator(mode="after")
    def _in_order(self) -> "JudgeSettings":
        if self.recheck_s < self.every_s:
            raise ValueError("recheck_s must not be below every_s: the pause grows from every_s to recheck_s")
        return self


class ScheduleSettings(Part):
    """A part of the week, in the camera's time zone. If `end` is not after `start`, it is a time on the next day."""

    days: tuple[Day, ...] = Field(default=(), description="days it starts on, mon to sun; none: every day")
    start: Clock = Field(default="00:00", description="local time of day")
    end: Clock = Field(default="24:00", description="local time of day, exclusive")

    def covers(self, time: float, zone: str) -> bool:
        """Return True when `time` (unix seconds) lies in this part of the week in the IANA time zone `zone`.

        Worked example: days [fri], 22:00 to 06:00 covers Friday 23:00 and Saturday 05:59, not Friday 05:00. This span
        has nine hours in the night in which clocks are set back, and seven when they are set forward.
        """
        local = local_moment(time, load_zone(zone))
        days = self.days or DAYS
        today, yesterday = DAYS[local.weekday()] in days, DAYS[local.weekday() - 1] in days
        minute, start, end = local.hour * 60 + local.minute, _minute(self.start), _minute(self.end)
        if start < end:
            return today and start <= minute < end
        return (today and minute >= start) or (yesterday and minute < end)


def _minute(clock: str) -> int:
    """Return the minutes since midnight: 390 for "06:30"."""
    return int(clock[:2]) * 60 + int(clock[3:])


def check_words(text: str) -> str:
    """Return `text` on one line without control characters. Raises ValueError when nothing is left."""
    words = plain_line(text)
    if not words:
        raise ValueError("describe in words what to watch for")
    return words


class RuleSettings(Part):
    """One alert rule: a condition that cameras are watched for, and when it raises an alert."""

    condition: Annotated[str, AfterValidator(check_words)] = Field(
        min_length=1, max_length=300, description="what to watch for, in plain words"
    )
    cameras: tuple[Slug, ...] = Field(default=(), description="cameras to watch; none: all")
    enabled: bool = Field(default=True, description="false: the rule is off")
    gate: Annotated[GateSettings, BeforeValidator(name_switches)] = GateSettings()
    confirm: ConfirmSettings = ConfirmSettings()
    judge: JudgeSettings = JudgeSettings()
    clear: int = Field(default=2, ge=1, le=32, description="verdicts `no` in a row that end an alert")
    hold_s: float = Field(default=10.0, ge=0, le=86_400, description="shortest duration of an alert")
    cooldown_s: float = Field(default=60.0, ge=0, le=86_400, description="seconds between an alert and the next")
    snooze: float | None = Field(default=None, ge=0, le=MAX_UNIX_S, description="unix seconds until which it is silent")
    schedule: tuple[ScheduleSettings, ...] = Field(
        default=(), max_length=32, description="when alerts may begin; none: always"
    )
    snapshot: bool = Field(default=True, description="store and send a picture")

    @model_validator(mode="before")
    @classmethod
    def _without_removed(cls, given: Any) -> Any:
        """Return the given settings without those that this version has removed, and log a warning for each.

        Rules that an earlier version stored, or that old clients send, are therefore still accepted.
        """
        if not isinstance(given, dict):
            return given
        kept, removed = take_removed({"rules": {"rule": given}})
        for place, replacement in removed.items():
            log.warning(
                "a rule has a removed setting", extra={"setting": ".".join(map(str, place[2:])), "now": replacement}
            )
        return kept["rules"]["rule"]

    def watches(self, camera: str) -> bool:
        """Return True when the rule watches this camera."""
        return not self.cameras or camera in self.cameras

    def scheduled(self, time: float, zone: str) -> bool:
        """Return True when the schedule lets an alert begin at `time` (unix seconds) in the IANA time zone `zone`."""
        return not self.schedule or any(part.covers(time, zone) for part in self.schedule)


class AlertsSettings(Part):
    """Limits shared by all rules."""

    max_alerts: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="stored alerts, and as many that did not fire",
    )
