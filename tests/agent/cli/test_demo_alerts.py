"""The demo's alert rules and its MQTT subscriber."""

import asyncio
import itertools
import json
from pathlib import Path

import pytest

from agent.cli.demo.alerts import (
    WARM_S,
    Received,
    Subscriber,
    alert_line,
    alerts_config,
    free_port,
    listen,
    pick_rules,
    rules_line,
    truth_of,
)
from agent.cli.demo.world import pick_world
from agent.evaluation.alert_truth import Armed
from agent.settings.settings import Settings
from model.world.scene import Scene
from tests.support.agents import running
from tests.support.bridges import RULE, commit, event, jpeg
from tests.support.waiting import until


@pytest.fixture(scope="module")
def scene() -> Scene:
    return pick_world(7, fast_s=300.0, after_s=60.0, enough=6)[0]


@pytest.fixture(scope="module")
def rules(scene: Scene) -> dict[str, Armed]:
    return pick_rules(scene, 300.0)


def test_rules_are_about_what_will_come_by(scene: Scene, rules: dict[str, Armed]) -> None:
    assert 1 <= len(rules) <= 2
    for armed in rules.values():
        assert any(WARM_S < each.start_s < 300 for each in armed.truth.events)
        named = [event for event in scene.events if event.kind in armed.condition and event.colour in armed.condition]
        assert named, armed.condition


def test_configuration_is_valid(rules: dict[str, Armed]) -> None:
    for speed in (1.0, 6.0, 24.0):
        settings = Settings.model_validate(alerts_config(rules, speed, 1884))
        for name, armed in rules.items():
            assert settings.rules[name].condition == armed.condition
            assert settings.rules[name].hold_s == pytest.approx(10.0 / speed)
        assert (settings.mqtt.url, settings.mqtt.embedded_port) == ("embedded", 1884)
    assert "none" in rules_line({}, 1884)


def test_alerts_are_judged_by_the_truth(rules: dict[str, Armed]) -> None:
    armed = next(iter(rules.values()))
    first = armed.truth.events[0]
    assert truth_of(armed, first.start_s + 1)[0]
    assert truth_of(armed, 1.0) == (False, "not in view")
    received = Received("truck", "world: a truck comes", 0.0, 0.5, Path("alert-1.jpg"))
    assert "not in view -> wrong" in alert_line(received, truth_of(armed, 1.0), 1.0)
    assert "truth" not in alert_line(received, None, 1e6)


async def test_alerts_are_received_from_the_embedded_broker(tmp_path: Path) -> None:
    port, heard = free_port(), list[Received]()
    subscriber = Subscriber(tmp_path)
    listening = asyncio.create_task(listen(port, subscriber, heard.append))  # before there is a broker
    changes = {"mqtt": {"url": "embedded", "embedded_port": port}, "rules": {"bag": {"condition": "a bag"}}}
    async with running(tmp_path / "data", cameras={"yard": {}}, **changes) as agent:
        await until(lambda: agent.bridge.status.connected)
        for number in itertools.count():  # the first ones find no subscriber: it tries again after a pause
            commit(agent.alert_store, event(number), jpeg())
            await asyncio.sleep(0.1)
            if heard:
                break
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    received = heard[0]
    assert (received.rule, received.latency_s, received.picture) == ("bag", 0.5, tmp_path / "alert-1.jpg")
    assert (tmp_path / "alert-1.jpg").read_bytes() == jpeg()
    assert subscriber.summary().startswith(f"alerts received over MQTT: {len(heard)}, with their picture: {len(heard)}")


def test_alerts_without_a_picture_are_received(tmp_path: Path) -> None:
    subscriber = Subscriber(tmp_path)
    assert subscriber.summary() == "no alert was received over MQTT"
    received = subscriber.receive(f"{RULE}/event", event(1).payload())
    assert received is not None
    assert received.picture is None
    assert subscriber.receive(f"{RULE}/event", event(1, "off").payload()) is None
    assert json.loads(event(1).payload())["message"] == received.message
