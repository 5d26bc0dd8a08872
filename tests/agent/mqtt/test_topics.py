"""MQTT topics: commands, names and response topics."""

import pytest

from agent.mqtt.topics import Command, Topics, usable_id

TOPICS = Topics("home/vilamp")


def test_commands_are_recognised_in_topics() -> None:
    assert TOPICS.command("home/vilamp/yard/alert/bag/snooze/set") == Command("yard", "bag", "snooze")
    assert TOPICS.command(TOPICS.set_enabled("yard", "bag")) == Command("yard", "bag", "enabled")
    for other in (TOPICS.enabled("yard", "bag"), TOPICS.status, TOPICS.ask, "yard/alert/bag/snooze/set/x"):
        assert TOPICS.command(other) is None


def test_topics_are_distinct() -> None:
    names = [TOPICS.status, TOPICS.ask, TOPICS.answer("x"), TOPICS.camera_status("a"), TOPICS.memory("a")]
    names += [make("a", "b") for make in (TOPICS.state, TOPICS.event, TOPICS.snapshot, TOPICS.enabled, TOPICS.snooze)]
    names += [TOPICS.set_enabled("a", "b"), TOPICS.set_snooze("a", "b")]
    assert len(set(names)) == len(names)
    assert all(name.startswith("home/vilamp/") for name in names)


@pytest.mark.parametrize("topic", ["home/vilamp/answer/x", "home/vilamp/answer/ha/7"])
def test_response_topics(topic: str) -> None:
    assert TOPICS.may_answer_on(topic)


@pytest.mark.parametrize(
    "topic",
    ["home/vilamp/answer/", "home/vilamp/answer", "home/vilamp/status", "home/vilamp/answer/+", "other/answer/x",
     "home/vilamp/answer/" + "x" * 300],
)  # fmt: skip
def test_invalid_response_topics(topic: str) -> None:
    assert not TOPICS.may_answer_on(topic)


def test_usable_ids() -> None:
    assert usable_id("q-1_A.b")
    assert not any(map(usable_id, ["", "a/b", "+", "x" * 65, 7, None]))
