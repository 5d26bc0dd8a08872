"""Rules over HTTP, against a real server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.agents import Served, remember, served
from tests.support.rules import RULE

BAG = {"name": "bag", "condition": "a bag is left by the door", "gate": {"on": 6.0}}


@asynccontextmanager
async def client(folder: Path, token: str = "owner", **changes: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Served]]:
    async with (
        served(folder, **{"rules": {"car": RULE}, **changes}) as server,
        httpx.AsyncClient(base_url=server.url, headers=server.headers(token)) as http,
    ):
        yield http, server


async def test_a_rule_is_created_read_changed_and_deleted(tmp_path: Path) -> None:
    async with client(tmp_path) as (http, _):
        made = await http.post("/v1/rules", json=BAG)
        assert (made.status_code, made.headers["Location"]) == (201, "/v1/rules/bag")
        rule = (await http.get("/v1/rules/bag")).json()
        assert rule == made.json()
        assert (rule["source"], rule["gate"]["on"], rule["confirm"]) == ("api", 6.0, {"n": 2, "m": 3})
        assert (rule["enabled"], rule["snoozed_until"], rule["state"], rule["problem"]) == (True, 0.0, {}, None)
        again = await http.put("/v1/rules/bag", json={**rule, "cooldown_s": 5})
        assert (again.status_code, again.json()["cooldown_s"]) == (200, 5.0)
        patched = (await http.patch("/v1/rules/bag", json={"gate": {"off": 1.5}, "clear": 4})).json()
        assert (patched["gate"]["on"], patched["gate"]["off"], patched["clear"], patched["cooldown_s"]) == (
            6,
            1.5,
            4,
            5,
        )
        listed = (await http.get("/v1/rules")).json()
        assert [(each["name"], each["source"]) for each in listed["data"]] == [("bag", "api"), ("car", "config")]
        assert (await http.delete("/v1/rules/bag")).status_code == 204
        gone = await http.get("/v1/rules/bag")
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "rule_not_found")


async def test_a_rule_of_the_file_can_be_switched_and_snoozed_but_not_changed(tmp_path: Path) -> None:
    async with client(tmp_path) as (http, server):
        for refused in (
            await http.put("/v1/rules/car", json={"condition": "a car"}),
            await http.patch("/v1/rules/car", json={"clear": 3}),
            await http.delete("/v1/rules/car"),
            await http.post("/v1/rules", json={"name": "car", "condition": "a car"}),
        ):
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "rule_conflict")
            assert "configuration file" in refused.json()["error"]["message"]
        assert (await http.patch("/v1/rules/car", json={"enabled": False})).json()["enabled"] is False
        assert (await http.patch("/v1/rules/car", json={"enabled": True})).json()["enabled"] is True
        now = server.agent.clock()
        until = (await http.post("/v1/rules/car/snooze", json={"minutes": 30})).json()["snoozed_until"]
        assert now + 1799 < until < now + 1900
        assert (await http.post("/v1/rules/car/snooze", json={"minutes": 0})).json()["snoozed_until"] == 0
        assert (await http.post("/v1/rules/car/snooze", json={"until": 1e9})).json()["snoozed_until"] == 1e9


async def test_a_rule_can_be_snoozed_at_one_camera(tmp_path: Path) -> None:
    async with client(tmp_path) as (http, server):
        for camera in ("yard", "gate"):
            await remember(server.agent, camera, 2)
        await server.agent.alerts.settled()
        answer = await http.post("/v1/rules/car/snooze", json={"minutes": 10, "camera": "yard"})
        rule = answer.json()
        assert rule["snoozed_until"] == 0
        assert rule["state"]["yard"]["snoozed_until"] > 0
        assert rule["state"]["gate"]["snoozed_until"] == 0
        nowhere = await http.post("/v1/rules/car/snooze", json={"minutes": 10, "camera": "roof"})
        assert nowhere.json()["error"]["code"] == "camera_not_found"
        never = await http.post("/v1/rules/car/snooze", json={"until": 1e300})
        assert (never.status_code, never.json()["error"]["param"]) == (400, "until")
        await http.post("/v1/rules", json={"name": "door", "condition": "a door opens", "cameras": ["gate"]})
        elsewhere = await http.post("/v1/rules/door/snooze", json={"minutes": 10, "camera": "yard"})
        assert (elsewhere.status_code, elsewhere.json()["error"]["param"]) == (400, "camera")


async def test_changing_a_rule_keeps_what_was_switched_by_hand_unless_it_says_enabled(tmp_path: Path) -> None:
    async with client(tmp_path) as (http, server):
        await http.post("/v1/rules", json=BAG)
        server.agent.alerts.watcher.set_enabled("bag", None, False)
        assert (await http.patch("/v1/rules/bag", json={"clear": 3})).json()["enabled"] is False
        assert (await http.patch("/v1/rules/bag", json={"clear": 2, "enabled": True})).json()["enabled"] is True


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"condition": "a car"}, "name", "needs a name"),
        ({"name": "Bag", "condition": "a car"}, "name", "cannot be a name"),
        ({"name": "status", "condition": "a car"}, "name", "MQTT"),
        ({"name": "bag"}, "condition", "required"),
        ({"name": "bag", "condition": "a car", "gate": {"on": -1}}, "gate.on", "greater than 0"),
        ({"name": "bag", "condition": "a car", "gate": {"on": 1, "off": 2}}, "gate", "off must not be above on"),
        ({"name": "bag", "condition": "a car", "schedule": [{"start": "8"}]}, "schedule.0.start", "time of day"),
        ({"name": "bag", "condition": "a car", "colour": "red"}, "colour", "no such field"),
        ({"name": "bag", "condition": "a car", "snooze": 1e300}, "snooze", "less than or equal"),  # no date at all
    ],
)
async def test_mistakes_name_their_field(tmp_path: Path, body: dict[str, Any], param: str, words: str) -> None:
    async with client(tmp_path) as (http, _):
        answer = await http.post("/v1/rules", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert words in answer.json()["error"]["message"]


async def test_a_body_that_is_not_a_json_object_is_refused(tmp_path: Path) -> None:
    async with client(tmp_path) as (http, _):
        for raw in (b"{", b"[]", b'{"name": "x", "condition": "y", "snooze": Infinity}', b"\xff", b"[" * 50_000):
            assert (await http.post("/v1/rules", content=raw)).status_code == 400
        assert (await http.post("/v1/rules", content=b" " * 70_000)).status_code == 413
        for snooze in ({}, {"minutes": 1, "until": 2}, {"minutes": -1}, {"minutes": 1e9}):
            assert (await http.post("/v1/rules/car/snooze", json=snooze)).status_code == 400
        renamed = await http.put("/v1/rules/bag", json={"name": "sack", "condition": "a car"})
        assert "cannot change its name" in renamed.json()["error"]["message"]


async def test_rules_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.alerts.rules.MAX_RULES", 1)
    async with client(tmp_path) as (http, _):
        assert (await http.post("/v1/rules", json=BAG)).status_code == 201
        more = await http.post("/v1/rules", json={**BAG, "name": "sack"})
        assert more.status_code == 409
        assert "as many as are allowed" in more.json()["error"]["message"]


async def test_reading_needs_ask_and_writing_admin(tmp_path: Path) -> None:
    async with client(tmp_path, "asker") as (http, _):
        assert (await http.get("/v1/rules")).status_code == 200
        assert (await http.head("/v1/rules/car")).status_code == 200
        for answer in (
            await http.post("/v1/rules", json=BAG),
            await http.put("/v1/rules/bag", json=BAG),
            await http.patch("/v1/rules/car", json={"enabled": False}),
            await http.delete("/v1/rules/car"),
            await http.post("/v1/rules/car/snooze", json={"minutes": 1}),
        ):
            assert answer.status_code == 403
        assert (await http.get("/v1/rules", headers={"Authorization": ""})).status_code == 401
