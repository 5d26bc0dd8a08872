"""The names of all topics, and what a command topic commands. Pure; the only place where topics are put together."""

import re
from dataclasses import dataclass
from typing import Literal

ONLINE, OFFLINE, DISABLED = "online", "offline", "disabled"
ON, OFF = "ON", "OFF"

_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_TOPIC_BYTES = 256


def usable_id(text: object) -> bool:
    """True when `text` can be the last level of an answer's topic."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Command:
    """What arrived on a command topic: to switch a rule, or to snooze it."""

    camera: str
    rule: str
    action: Literal["enabled", "snooze"]


@dataclass(frozen=True, slots=True)
class Topics:
    """Every topic under one prefix."""

    prefix: str

    @property
    def status(self) -> str:
        """The agent's availability, and its last will."""
        return f"{self.prefix}/status"

    @property
    def ask(self) -> str:
        """Questions."""
        return f"{self.prefix}/ask"

    def answer(self, question_id: str) -> str:
        """The answer to one question."""
        return f"{self.prefix}/answer/{question_id}"

    def may_answer_on(self, topic: str) -> bool:
        """True for a response topic that a questioner may choose: below <prefix>/answer/, without wildcards."""
        below = topic.startswith(f"{self.prefix}/answer/") and not topic.endswith("/")
        return below and not set("+#\0") & set(topic) and len(topic.encode()) <= _MAX_TOPIC_BYTES

    def camera_status(self, camera: str) -> str:
        """Whether media flows."""
        return f"{self.prefix}/{camera}/status"

    def memory(self, camera: str) -> str:
        """What is remembered, as numbers."""
        return f"{self.prefix}/{camera}/memory"

    def state(self, camera: str, rule: str) -> str:
        """Whether the rule's condition holds."""
        return self._alert(camera, rule, "state")

    def event(self, camera: str, rule: str) -> str:
        """Alert events."""
        return self._alert(camera, rule, "event")

    def snapshot(self, camera: str, rule: str) -> str:
        """The picture of the newest alert."""
        return self._alert(camera, rule, "snapshot")

    def enabled(self, camera: str, rule: str) -> str:
        """Whether the rule is switched on."""
        return self._alert(camera, rule, "enabled/state")

    def snooze(self, camera: str, rule: str) -> str:
        """Until when the rule is silent."""
        return self._alert(camera, rule, "snooze/state")

    def set_enabled(self, camera: str, rule: str) -> str:
        """Where to switch the rule."""
        return self._alert(camera, rule, "enabled/set")

    def set_snooze(self, camera: str, rule: str) -> str:
        """Where to silence the rule."""
        return self._alert(camera, rule, "snooze/set")

    def _alert(self, camera: str, rule: str, end: str) -> str:
        return f"{self.prefix}/{camera}/alert/{rule}/{end}"

    @property
    def commands(self) -> tuple[str, str]:
        """Filters that match every command topic."""
        return self.set_enabled("+", "+"), self.set_snooze("+", "+")

    def command(self, topic: str) -> Command | None:
        """What `topic` commands; None when it is no command topic.

        "vilamp/yard/alert/bag/snooze/set" is Command("yard", "bag", "snooze").
        """
        match topic.removeprefix(self.prefix + "/").split("/"):
            case [camera, "alert", rule, "enabled", "set"]:
                return Command(camera, rule, "enabled")
            case [camera, "alert", rule, "snooze", "set"]:
                return Command(camera, rule, "snooze")
        return None
