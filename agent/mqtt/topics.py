"""Build and parse the names of all MQTT topics. Pure functions; no other module does it."""

import re
from dataclasses import dataclass
from typing import Literal

ONLINE, OFFLINE, DISABLED = "online", "offline", "disabled"
ON, OFF = "ON", "OFF"

_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NAME = re.compile(r"[a-z0-9_*-]{1,64}")  # name of a camera or rule in a command topic
_MAX_TOPIC_BYTES = 256
_MAX_LEVELS = 16  # brokers close the connection over deeper topics


def usable_id(text: object) -> bool:
    """Return True when `text` can be the last level of an answer's topic."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Command:
    """A command that a topic names: enable or disable a rule at a camera, or snooze it. The payload says which."""

    camera: str
    rule: str
    action: Literal["enabled", "snooze"]


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of an agent, all below `prefix`."""

    prefix: str

    @property
    def status(self) -> str:
        """Topic of the agent's availability, which is also that of the last will."""
        return f"{self.prefix}/status"

    @property
    def health(self) -> str:
        """Topic of the agent's health."""
        return f"{self.prefix}/health"

    @property
    def ask(self) -> str:
        """Topic of questions."""
        return f"{self.prefix}/ask"

    def answer(self, question_id: str) -> str:
        """Return the topic of the answer to one question."""
        return f"{self.prefix}/answer/{question_id}"

    def may_answer_on(self, topic: str) -> bool:
        """Return True for a response topic that an asker may choose.

        It must be below `<prefix>/answer/` and without wildcards and control characters, because a broker would close
        the agent's connection over them.
        """
        below = topic.startswith(f"{self.prefix}/answer/") and not topic.endswith("/")
        plain = topic.isprintable() and not set("+#") & set(topic) and topic.count("/") < _MAX_LEVELS
        return below and plain and len(topic.encode("utf-8", "replace")) <= _MAX_TOPIC_BYTES

    def camera_status(self, camera: str) -> str:
        """Return the topic of the camera's status."""
        return f"{self.prefix}/{camera}/status"

    def memory(self, camera: str) -> str:
        """Return the topic of the numbers of the camera's memory."""
        return f"{self.prefix}/{camera}/memory"

    def state(self, camera: str, rule: str) -> str:
        """Return the topic that shows whether an alert is active."""
        return self._alert(camera, rule, "state")

    def event(self, camera: str, rule: str) -> str:
        """Return the topic of the rule's alert events."""
        return self._alert(camera, rule, "event")

    def snapshot(self, camera: str, rule: str) -> str:
        """Return the topic of the newest alert's picture."""
        return self._alert(camera, rule, "snapshot")

    def enabled(self, camera: str, rule: str) -> str:
        """Return the topic that shows whether the rule is enabled."""
        return self._alert(camera, rule, "enabled/state")

    def snooze(self, camera: str, rule: str) -> str:
        """Return the topic of the end of the snooze."""
        return self._alert(camera, rule, "snooze/state")

    def set_enabled(self, camera: str, rule: str) -> str:
        """Return the topic of commands that enable or disable the rule."""
        return self._alert(camera, rule, "enabled/set")

    def set_snooze(self, camera: str, rule: str) -> str:
        """Return the topic of commands that snooze the rule."""
        return self._alert(camera, rule, "snooze/set")

    def _alert(self, camera: str, rule: str, end: str) -> str:
        return f"{self.prefix}/{camera}/alert/{rule}/{end}"

    @property
    def commands(self) -> tuple[str, str]:
        """Topic filters that match every command topic."""
        return self.set_enabled("+", "+"), self.set_snooze("+", "+")

    def command(self, topic: str) -> Command | None:
        """Return the command of `topic`, or None when it is no command topic.

        "vilamp/yard/alert/bag/snooze/set" is Command("yard", "bag", "snooze").
        """
        if not topic.startswith(f"{self.prefix}/"):
            return None
        match topic.removeprefix(f"{self.prefix}/").split("/"):
            case [camera, "alert", rule, ("enabled" | "snooze") as action, "set"] if _NAME.fullmatch(
                camera
            ) and _NAME.fullmatch(rule):
                return Command(camera, rule, "enabled" if action == "enabled" else "snooze")
        return None
