"""Dry runs: the same alerts as live, the number of judge calls, and the HTTP API."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.alerts.dryrun import Outcome, Trial, describe
from agent.alerts.judge import Judge
from agent.alerts.machine import Ask, Refusal, Sighting, Vote
from agent.alerts.replay import Replay, openings, with_gate
from agent.errors import DryRunBusy, NoFrames
from agent.runtime.lanes import Priority
from agent.settings.rules import RuleSettings
from tests.support.agents import START, remember, served
from tests.support.rules import HIGH, LOW, RULE, WARM_UP, Scene, scene

DAY = ((LOW, 5), (HIGH, 8), (LOW, 20), (0.4, 6), (LOW, 10), (HIGH, 2), (LOW, 20))  # similarity, seconds


def rule(**changes: Any) -> RuleSettings:
    return RuleSettings.model_validate({**RULE, **changes})


def frames(*stretches: tuple[float, int], camera: str = "yard") -> list[tuple[str, Sighting]]:
    similarities = [similarity for similarity, count in stretches for _ in range(count)]
    return [(camera, Sighting(n, START + n, similarity)) for n, similarity in enumerate(similarities)]


class Sees(Judge):
    """A judge that says yes for frames stored with the similarity HIGH."""

    def __init__(self) -> None:
        self.high: set[float] = set()
        self.asked: list[float] = []

    async def vote(
        self, rule: RuleSettings, camera: str, frame_id: int, time: float, priority: Priority = Priority.JUDGE
    ) -> Vote:
        self.asked.append(time)
        return Vote(frame_id, time, "yes" if time in self.high else "no")


async def live(at: Scene, judge: Sees) -> None:
    at.agent.alerts.judge = judge
    for similarity, count in DAY:
        for _ in range(count):
            if similarity == HIGH:
                judge.high.add(at.now[0] + 1)
            await at.show(similarity)


def quiet(done: float, num_asked: int) -> None:
    pass


async def test_a_dry_run_over_the_past_repeats_what_the_rule_did_live(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        judge = Sees()
        await live(at, judge)
        asked, judge.asked = judge.asked, []
        events = at.events()
        assert [event["event_type"] for event in events] == ["on", "off"] * 2
        outcome = await at.agent.alerts.try_rule(Trial(rule(), ("yard",), after=START + WARM_UP), quiet)
        found = [(a.on.start_time, a.on.time, a.off and a.off.end_time) for a in outcome.result.alerts]
        assert found == [
            (on["start_time"], on["time"], off["end_time"]) for on, off in zip(events[::2], events[1::2], strict=True)
        ]
        assert judge.asked == asked
        assert outcome.complete
        assert outcome.result.num_judged == outcome.num_asked == len(asked)
        assert [held.reason for _, held in outcome.result.held] == at.reasons() == ["unconfirmed"]
        assert outcome.num_openings == 3
        assert outcome.result.num_frames == sum(count for _, count in DAY) + 1  # `after` itself is included
        assert len(at.events()) == 4  # a dry run stores no alerts


async def test_a_sweep_opens_the_gate_less_often_as_it_rises_and_judges_each_frame_once(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        judge = Sees()
        await live(at, judge)
        judge.asked = []
        outcome = await at.agent.alerts.try_rule(Trial(rule(), ("yard",), sweep=True), quiet)
        assert [each.on for each in outcome.sweep] == sorted(each.on for each in outcome.sweep)
        numbers = [each.num_openings for each in outcome.sweep]
        assert numbers == sorted(numbers, reverse=True)
        assert len(judge.asked) == len(set(judge.asked)) == outcome.num_asked
        (middle,) = [each for each in outcome.sweep if each.on == rule().gate.on]
        assert (middle.num_alerts, middle.num_judged) == (2, outcome.result.num_judged)


async def test_a_dry_run_beyond_max_judgements_is_incomplete(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await live(at, Sees())
        outcome = await at.agent.alerts.try_rule(Trial(rule(), ("yard",), sweep=True, max_judgements=3), quiet)
        assert not outcome.complete
        assert outcome.num_asked == 3
        assert outcome.result.time < outcome.before
        assert all(each.num_openings for each in outcome.sweep)
        assert outcome.sweep[0].num_alerts is None


async def test_second_dry_run_is_refused_while_one_runs(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.show(HIGH)
        at.agent.alerts.judge = Judge(at.agent.answering)
        trial = Trial(rule(), ("yard",))
        async with at.agent.answering.queue.turns.turn():  # the first dry run waits for its judge
            first = asyncio.create_task(at.agent.alerts.try_rule(trial, quiet))
            await asyncio.sleep(0)
            with pytest.raises(DryRunBusy):
                await at.agent.alerts.try_rule(trial, quiet)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)


async def test_dry_run_without_frames_is_refused(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        with pytest.raises(NoFrames):
            await at.agent.alerts.try_rule(Trial(rule(), ("yard",), after=at.now[0] + 10), quiet)


# --- the replay ---


async def test_a_slow_judge_only_delays_alerts() -> None:
    async def yes(camera: str, ask: Ask) -> Vote | Refusal:
        return Vote(ask.frame_id, ask.time, "yes")

    past = frames((LOW, WARM_UP), (HIGH, 20))
    found = []
    for latency_s in (0.0, 2.5):
        replay = Replay(rule(), yes, zone_of=lambda camera: "UTC", latency_s=latency_s)
        (alert,) = (await replay.run(past)).alerts
        found.append(alert.on)
    prompt, slow = found
    assert prompt.start_time == slow.start_time == START + WARM_UP
    assert prompt.time == START + WARM_UP + 1
    assert slow.time == START + WARM_UP + 3  # the first frame after the first verdict


async def test_cameras_have_their_own_gates_and_share_the_rate() -> None:
    async def no(camera: str, ask: Ask) -> Vote | Refusal:
        return Vote(ask.frame_id, ask.time, "no")

    both = frames((LOW, WARM_UP), (HIGH, 1), (LOW, 5)) + frames((LOW, WARM_UP), (HIGH, 1), (LOW, 5), camera="gate")
    both.sort(key=lambda frame: frame[1].time)
    limited = rule(judge={"per_minute": 1})
    result = await Replay(limited, no, zone_of=lambda camera: "UTC").run(both)
    assert result.verdicts == {"no": 1, "rate_limited": 1}
    assert {camera for camera, _ in result.held} == {"yard", "gate"}
    assert openings(limited, both) == 2
    assert openings(limited, both, armed_from=START + WARM_UP + 1) == 0


def test_a_gate_threshold_is_capped_at_its_maximum() -> None:
    assert with_gate(rule(gate={"on": 60, "off": 30}), 2.0).gate.on == 100
    assert with_gate(rule(gate={"on": 6, "off": 3}), 2.0).gate.off == 6


# --- over HTTP ---


async def test_a_dry_run_over_http_whole_and_streamed(tmp_path: Path) -> None:
    async with (
        served(tmp_path, rules={"car": RULE}) as server,
        httpx.AsyncClient(base_url=server.url, headers=server.headers("owner"), timeout=60) as http,
    ):
        await remember(server.agent, "yard", 40)
        body = {"rule": {"condition": "a bag", "gate": {"on": 1, "off": 0.5}}, "cameras": ["yard"], "sweep": True}
        whole = await http.post("/v1/rules/dry-run", json=body)
        assert whole.status_code == 200
        found = whole.json()
        assert (found["object"], found["frames"], found["complete"]) == ("dry_run", 40, True)
        assert (found["after"], found["before"]) == (START, START + 39)
        assert found["rule"]["condition"] == "a bag"
        assert len(found["sweep"]) == 6
        assert sum(found["verdicts"].values()) == found["judge_calls"]
        named = {"rule": "car", "after": START + 20, "stream": True}
        lines = (await http.post("/v1/rules/dry-run", json=named)).text.split("\n\n")
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
        assert events[-1]["result"]["frames"] == 20
        assert events[-1]["result"]["cameras"] == ["yard"]
        assert "data: [DONE]" in lines


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "invalid_request"),
        ({"rule": "nobody"}, 404, "rule_not_found"),
        ({"rule": {"condition": ""}}, 400, "invalid_request"),
        ({"rule": "car", "cameras": ["roof"]}, 404, "camera_not_found"),
        ({"rule": "car", "after": START, "before": START - 1}, 400, "invalid_request"),
        ({"rule": "car", "after": "noon"}, 400, "invalid_request"),
        ({"rule": "car", "after": START + 1e6, "stream": True}, 422, "no_frames"),
        ({"rule": "car", "max_judgements": -1}, 400, "invalid_request"),
    ],
)
async def test_invalid_dry_runs_are_refused_with_a_reason(
    tmp_path: Path, body: dict[str, Any], status: int, code: str
) -> None:
    async with (
        served(tmp_path, rules={"car": RULE}) as server,
        httpx.AsyncClient(base_url=server.url, headers=server.headers("owner")) as http,
    ):
        await remember(server.agent, "yard", 3)
        answer = await http.post("/v1/rules/dry-run", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_alerts_of_a_dry_run_carry_their_evidence() -> None:
    async def yes(camera: str, ask: Ask) -> Vote | Refusal:
        return Vote(ask.frame_id, ask.time, "yes", ((ask.frame_id - 1, ask.time - 1),))

    result = await Replay(rule(), yes, zone_of=lambda camera: "UTC").run(frames((LOW, WARM_UP), (HIGH, 4)))
    outcome = Outcome(Trial(rule(), ("yard",)), START, START + 63, 0, result, True, 1)
    (alert,) = describe(outcome, lambda frame_id: f"/{frame_id}.jpg")["alerts"]
    assert alert["end_time"] is None
    assert [frame["url"] for frame in alert["frames"]] == ["/59.jpg", "/60.jpg", "/61.jpg"]
