"""Rules in a running agent, from the encoded frame to the committed event."""

import asyncio
import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from PIL import Image

from agent.alerts.judge import Judge
from agent.alerts.machine import Vote
from agent.alerts.store import ALERTS_FILE, AlertStore, Filter
from agent.alerts.watcher import LATE_S
from agent.ask.question import Question
from agent.errors import RuleConflict, UnknownRule
from agent.keep.erasing import Request
from agent.runtime.lanes import Priority
from agent.settings.rules import RuleSettings
from tests.support.agents import START, remember, running
from tests.support.remote import openai
from tests.support.rules import HIGH, LOW, RULE, WARM_UP, Says, Scene, scene
from tests.support.vlm_server import Spy
from tests.support.waiting import until

ROOT = Path(__file__).parents[3]


def rule(**changes: Any) -> RuleSettings:
    return RuleSettings.model_validate({**RULE, **changes})


async def fire(at: Scene) -> dict[str, Any]:
    await at.show(HIGH, 3)
    return at.events()[-1]


async def test_an_alert_from_the_frame_to_the_alert_store(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        first = at.now[0] + 1
        on = await fire(at)
        assert (on["event_type"], on["rule"], on["camera"], on["condition"]) == ("on", "car", "yard", "a red car")
        assert (on["start_time"], on["time"], on["end_time"]) == (first, first + 1, None)
        assert on["confirmations"] == [2, 2]
        assert on["score"] > 0
        assert [frame["time"] for frame in on["frames"]] == [first, first + 1]
        (alert,) = at.agent.alert_store.alerts(Filter())
        snapshot = at.agent.alert_store.snapshot(alert.id)
        assert snapshot == at.agent.store.jpeg(on["frames"][-1]["id"])
        assert Image.open(io.BytesIO(snapshot or b"")).size == (64, 48)
        assert on["clip_url"] == f"/v1/cameras/yard/export?after={first - 10:.3f}&before={first + 6:.3f}"
        at.judge.verdict = "no"
        await at.show(LOW, 6)
        off = at.events()[-1]
        assert (off["event_type"], off["id"]) == ("off", on["id"].replace("-on", "-off"))
        assert on["time"] < off["end_time"] < off["time"]
        rule = await at.rule()
        assert rule["state"]["yard"]["on"] is False
        assert rule["state"]["yard"]["judge_calls"] == len(at.judge.asked)


async def test_an_erasure_between_the_verdict_and_the_commit_leaves_nothing_of_the_alert(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        recorder = at.agent.alerts.watcher.recorder
        taken: list[bytes] = []

        def erase_first(path: str) -> str:
            """Erase while the event is built: its picture has been read, nothing is committed."""
            if not taken:
                taken.append(at.agent.store.jpeg(int(path.split("/")[-1].removesuffix(".jpg"))))
                at.agent.erasing.erase(Request("yard", None, at.now[0]))
            return path

        recorder.link = erase_first
        await at.show(HIGH, 3)
        assert taken
        assert at.events() == []
        assert at.agent.alert_store.alerts(Filter()) == []
        files = tmp_path.glob(f"{ALERTS_FILE}*")
        assert not any(taken[0][-60:-2] in path.read_bytes() for path in files)
        recorder.link = lambda path: path
        at.judge.verdict = "no"
        await at.show(LOW, 12)  # that alert ends without an event, as it began
        at.judge.verdict = "yes"
        await at.show(HIGH, 3)
        assert [event["event_type"] for event in at.events()] == ["on"]


async def test_a_closed_gate_costs_no_judge_call(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.show(LOW, 20)
        assert at.judge.asked == []
        assert (await at.rule())["state"]["yard"]["gate_open"] is False


async def test_only_named_cameras_are_watched_each_on_its_own(tmp_path: Path) -> None:
    async with scene(tmp_path, rules={"car": {**RULE, "cameras": ["yard", "gate"]}}) as at:
        for _ in range(WARM_UP):
            await at.show(LOW, camera="gate")
            await at.show(LOW, camera="roof")
        await at.show(HIGH, 3, camera="roof")
        await at.show(HIGH, 3, camera="gate")
        assert [event["camera"] for event in at.events()] == ["gate"]
        assert set((await at.rule())["state"]) == {"yard", "gate"}


async def test_a_failing_judge_is_reported_counted_and_tried_again(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        at.judge.verdict = None
        await at.show(HIGH, 2)
        assert at.reasons() == ["judge_unavailable"]
        at.judge.verdict = "yes"
        await at.show(HIGH, 4)
        assert [event["event_type"] for event in at.events()] == ["on"]
        metrics = at.agent.metrics.text().decode()
        assert 'vilamp_judgements_total{reason="failed",rule="car"} 1.0' in metrics
        assert 'vilamp_judgements_total{reason="yes",rule="car"} 2.0' in metrics
        assert 'vilamp_alerts_total{camera="yard",rule="car"} 1.0' in metrics
        assert 'vilamp_alerts_suppressed_total{reason="judge_unavailable",rule="car"} 1.0' in metrics


async def test_late_frames_train_the_gate_and_fire_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        at.now[0] += 1000
        await at.show(HIGH, 3, late_s=LATE_S + 30)
        assert at.judge.asked == []
        assert at.reasons() == ["late"]
        assert (await at.rule())["state"]["yard"]["gate_open"] is True
        at.now[0] += 100
        await at.show(HIGH, 2)
        assert [event["event_type"] for event in at.events()] == ["on"]


async def test_frames_seen_before_are_not_seen_again(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        state = (await at.rule())["state"]
        at.agent.alerts.frame("yard", 1, START + 5, at.embedding(HIGH))
        await at.agent.alerts.settled()
        assert (await at.rule())["state"] == state


async def test_a_new_rule_learns_the_background_from_stored_frames(tmp_path: Path) -> None:
    async with scene(tmp_path, rules={}) as at:
        await at.agent.alerts.put("car", rule())
        await at.show(HIGH, 2)
        assert [event["rule"] for event in at.events()] == ["car"]


async def test_judge_calls_are_limited_per_rule_and_by_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.alerts.engine.MAX_WAITING", 1)
    slow = {**RULE, "judge": {"recheck_s": 2, "per_minute": 1}, "confirm": {"n": 1, "m": 1}}
    async with scene(tmp_path, rules={"car": slow}) as at:
        at.judge.verdict = "no"
        await at.show(HIGH, 6)
        assert at.reasons() == ["rate_limited"]
        assert len(at.judge.asked) == 1
    two = {"car": RULE, "copy": RULE}
    async with scene(tmp_path / "two", rules=two) as at:
        await at.show(HIGH)
        assert sorted(at.reasons()) == ["judge_busy"]
        assert len(at.judge.asked) == 1


async def test_disabling_ends_an_alert_and_snoozing_prevents_the_next(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        watcher = at.agent.alerts.watcher
        await fire(at)
        watcher.set_enabled("car", "yard", False)
        (_, off) = at.events()
        assert (off["event_type"], off["confirmations"]) == ("off", [0, 0])
        jsonschema.validate(off, json.loads((ROOT / "docs" / "schemas" / "event.json").read_text()))
        assert [(view.enabled, view.on) for view in watcher.views()] == [(False, False)]
        await at.show(HIGH, 3)
        assert len(at.events()) == 2
        watcher.set_enabled("car", None, True)
        watcher.snooze("car", None, at.now[0] + 10)
        await at.show(HIGH, 9)
        assert len(at.events()) == 2
        await at.show(HIGH, 4)
        assert at.events()[-1]["event_type"] == "on"


async def test_switches_and_alerts_survive_a_restart(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        on = await fire(at)
        at.agent.alerts.watcher.snooze("car", "yard", at.now[0] + 1000)
        later = at.now[0]
    async with scene(tmp_path, warm_up=0, start=later) as at:
        (view,) = at.agent.alerts.watcher.views()
        assert (view.on, view.enabled, view.snoozed_until) == (True, True, later + 1000)
        at.judge.verdict = "no"
        await at.show(LOW, 6)
        assert at.events()[-1]["id"] == on["id"].replace("-on", "-off")


async def test_an_alert_of_a_removed_rule_ends_at_the_next_start(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await fire(at)
        later = at.now[0]
    webhooks = {"pager": {"url": "http://127.0.0.1:9/"}}  # nothing listens there
    async with scene(tmp_path, rules={}, warm_up=0, start=later, webhooks=webhooks) as at:
        await until(lambda: at.agent.alert_store.states() == {})
        off = at.events()[-1]
        assert (off["event_type"], off["condition"]) == ("off", "a red car")
        with at.agent.alert_store.lock:
            assert [each.event_id for each in at.agent.alert_store.outbox.pending("webhook:pager")] == [off["id"]]


async def test_an_alert_ends_at_the_next_start_when_the_removal_of_its_rule_was_interrupted(tmp_path: Path) -> None:
    async with scene(tmp_path, rules={}) as at:
        await at.agent.alerts.put("car", rule())
        on = await fire(at)
        at.agent.alerts.flush()
        at.agent.alert_store.remove_rule("car")  # the process was killed here
        later = at.now[0]
    async with scene(tmp_path, rules={}, warm_up=0, start=later) as at:
        await until(lambda: at.agent.alert_store.states() == {})
        assert at.events()[-1]["id"] == on["id"].replace("-on", "-off")


async def test_rules_are_kept_changed_and_removed(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        engine = at.agent.alerts
        await engine.put("bag", rule(), new=True)
        with pytest.raises(RuleConflict, match="already"):
            await engine.put("bag", rule(), new=True)
        with pytest.raises(RuleConflict, match="configuration file"):
            await engine.put("car", rule())
        with pytest.raises(RuleConflict, match="configuration file"):
            engine.watcher.remove("car")
        with pytest.raises(UnknownRule):
            engine.watcher.remove("cat")
        await at.show(HIGH, 3)
        assert {event["rule"] for event in at.events()} == {"car", "bag"}
        score = (await at.rule("bag"))["state"]["yard"]["gate_score"]
        await engine.put("bag", rule(cooldown_s=1))
        assert (await at.rule("bag"))["state"]["yard"]["gate_score"] == score
        await engine.put("bag", rule(condition="a blue bag"))
        assert (await at.rule("bag"))["state"] == {}
        assert at.events()[-1]["event_type"] == "off"
        later = at.now[0]
    async with scene(tmp_path, warm_up=0, start=later) as at:
        assert (await at.rule("bag"))["condition"] == "a blue bag"
        at.agent.alerts.watcher.remove("bag")
    alert_store = AlertStore(tmp_path / ALERTS_FILE)
    assert alert_store.rules() == {}
    alert_store.close()


async def test_an_alert_that_cannot_be_stored_does_not_fire_and_is_tried_again(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        alert_store = at.agent.alert_store
        alert_store.sinks = ("mqtt",)
        alert_store.connection.execute(
            "CREATE TRIGGER broken BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        await at.show(HIGH, 4)
        assert alert_store.alerts(Filter()) == []
        assert (await at.rule())["state"]["yard"]["on"] is False
        alert_store.connection.execute("DROP TRIGGER broken")
        await at.show(HIGH, 2)
        (alert,) = alert_store.alerts(Filter())
        assert [entry.payload for entry in alert_store.outbox.pending("mqtt")] == [alert.on_event]


class Slow(Says):
    """A judge that counts how many verdicts it works on."""

    def __init__(self) -> None:
        super().__init__()
        self.num_now = self.most = 0

    async def vote(
        self, rule: RuleSettings, camera: str, frame_id: int, time: float, priority: Priority = Priority.JUDGE
    ) -> Vote:
        self.num_now += 1
        self.most = max(self.most, self.num_now)
        await asyncio.sleep(0.05)
        self.num_now -= 1
        return await super().vote(rule, camera, frame_id, time, priority)


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_server_judges_as_many_rules_at_once_as_it_takes(tmp_path: Path, spy: Spy, concurrency: int) -> None:
    rules = dict.fromkeys(("bus", "car", "van"), RULE)
    answerer = openai(spy, concurrency=concurrency)
    async with scene(tmp_path, rules=rules, answerer=answerer) as at:
        judge = at.agent.alerts.judge = at.judge = Slow()
        await at.show(HIGH, 3)
        assert judge.most == concurrency
        assert len(judge.asked) >= 3
        assert len(at.events()) == 3  # every rule raised its alert


# --- the real judge ---


async def test_the_real_judge_runs_after_waiting_questions_and_sees_the_last_seconds(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        answering = at.agent.answering
        at.agent.alerts.judge = Judge(answering)
        order = []

        async def ask() -> None:
            answer = await answering.answer(Question("Who came?", ("yard",)))
            order.append(("question", answer.seen.num_frames))

        async def judge() -> None:
            vote = await at.agent.alerts.judge.vote(rule(), "yard", 1, at.now[0])
            order.append(("judge", len(vote.frames)))

        async with answering.queue.turns.turn(Priority.QUESTION):
            tasks = [asyncio.create_task(judge()), asyncio.create_task(judge())]
            await until(lambda: len(answering.queue.turns._waiting) == 2)
            tasks.append(asyncio.create_task(ask()))
            await until(lambda: len(answering.queue.turns._waiting) == 3)
        await asyncio.gather(*tasks)
        assert [who for who, _ in order] == ["question", "judge", "judge"]
        assert order[0][1] == WARM_UP
        assert 1 <= order[1][1] <= 4
        await at.show(HIGH, 3)
        metrics = at.agent.metrics.text().decode()
        assert 'vilamp_judgements_total{reason="' in metrics
        assert 'reason="failed"' not in metrics
        assert 'vilamp_questions_total{reason="answered"} 1.0' in metrics  # the judge's questions are not counted


async def test_frames_of_a_camera_reach_the_rules_through_the_encoder(tmp_path: Path) -> None:
    async with running(tmp_path, rules={"car": RULE}, clock=lambda: START + 40) as agent:
        await remember(agent, "yard", 30)
        await agent.alerts.settled()
        state = (await agent.alerts.describe("car"))["state"]["yard"]
        assert state["time"] == START + 29


# --- kill -9 ---

CHILD = """
import asyncio, os, sys
from pathlib import Path
from tests.support.rules import HIGH, scene

async def main():
    async with scene(Path(sys.argv[1])) as at:
        await at.show(HIGH, 3)
        os.write(1, (at.events()[-1]["id"] + "\\n").encode())
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_an_active_alert_survives_kill_9_and_ends_under_its_own_id(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    fired = (await asyncio.to_thread(child.stdout.readline)).strip()
    child.send_signal(signal.SIGKILL)
    child.stdout.close()
    child.wait()
    assert fired.endswith("-on")
    async with scene(tmp_path, warm_up=0, start=START + 200) as at:
        assert [event["id"] for event in at.events()] == [fired]
        (view,) = at.agent.alerts.watcher.views()
        assert view.on
        at.judge.verdict = "no"
        await at.show(LOW, 6)
        assert [event["id"] for event in at.events()] == [fired, fired.replace("-on", "-off")]
