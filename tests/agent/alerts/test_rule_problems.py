"""A rule that cannot be judged, or that watches nothing, reports a problem until it works again."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from agent.alerts import engine
from agent.alerts.machine import Hindrance, Vote
from agent.alerts.rules import Rule
from agent.app import Agent
from agent.keep.memory import open_memory
from agent.runtime.lanes import Priority
from agent.settings.rules import RuleSettings
from tests.support.agents import settings_in, tiny_model
from tests.support.rules import HIGH, RULE, Says, scene
from tests.support.waiting import until


class Mumbles(Says):
    """A judge whose answers are unreadable while `mumbles` is True."""

    mumbles = True

    async def vote(
        self, rule: RuleSettings, camera: str, frame_id: int, time: float, priority: Priority = Priority.JUDGE
    ) -> Vote:
        given = await super().vote(rule, camera, frame_id, time, priority)
        return Vote(frame_id, time, "unclear", was_read=False) if self.mumbles else given


async def test_a_judge_that_fails_again_and_again_is_a_problem_of_the_rule(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        at.judge.verdict = None
        await at.show(HIGH, 2)
        assert (await at.rule())["problem"] is None  # once is not enough
        await at.show(HIGH, 12)
        problem = str((await at.rule())["problem"])
        assert "could not be judged" in problem
        assert "yard: out of memory" in problem
        assert at.agent.alerts.watcher.rule_problems() == {"car": problem}
        at.judge.verdict = "no"
        await at.show(HIGH, 6)
        assert (await at.rule())["problem"] is None


async def test_a_judge_with_unreadable_answers_is_a_problem_of_the_rule(tmp_path: Path) -> None:
    async with scene(tmp_path, rules={"car": {**RULE, "judge": {**RULE["judge"], "every_s": 1, "recheck_s": 1}}}) as at:
        judge = at.agent.alerts.judge = at.judge = Mumbles()
        await at.show(HIGH, 2)
        assert (await at.rule())["problem"] is None
        await at.show(HIGH, 6)
        assert "none of yes, no and unclear" in str((await at.rule())["problem"])
        judge.mumbles, judge.verdict = False, "unclear"  # a valid verdict
        await at.show(HIGH, 3)
        assert (await at.rule())["problem"] is None


async def test_a_condition_that_fails_to_embed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FLUSH_S", 0.05)
    model, fails = tiny_model(), [True]
    whole = model.embed_text

    def embed(text: str) -> Any:
        if fails[0]:
            raise RuntimeError("CUDA out of memory")
        return whole(text)

    monkeypatch.setattr(model, "embed_text", embed)
    settings = settings_in(tmp_path, rules={"car": RULE})
    async with Agent(settings, open_memory(settings, model), model).running() as agent:
        watcher = agent.alerts.watcher
        await until(lambda: "CUDA out of memory" in str(watcher.problem("car")))
        fails[0] = False
        await until(lambda: watcher.problem("car") is None and not watcher.unarmed())


async def test_a_rule_changed_during_embedding_uses_the_new_condition(tmp_path: Path) -> None:
    async with scene(tmp_path, rules={}) as at:
        watcher = at.agent.alerts.watcher
        await at.agent.alerts.put("bus", RuleSettings(condition="a red car"))
        unit = watcher._units.pop("bus")
        (rule,) = watcher.unarmed()
        await at.agent.alerts.put("bus", RuleSettings(condition="a bus"))
        changed = watcher._units["bus"]
        watcher.arm(rule, unit)
        assert watcher._units["bus"] is changed
        watcher.remove("bus")
        watcher.arm(rule, unit)
        assert watcher._units == {}


async def test_arming_a_rule_does_not_block_the_event_loop(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        watcher = at.agent.alerts.watcher
        held, go = threading.Event(), threading.Event()

        def hold() -> bool:  # as an erasure does while it rewrites the alert store
            with watcher._lock:
                held.set()
                return go.wait(10)

        rule = watcher.named("car")
        watcher.unarmed = lambda: [rule] if "car" not in watcher._units else []  # type: ignore[method-assign]
        del watcher._units["car"]
        holding = asyncio.create_task(asyncio.to_thread(hold))
        await until(held.is_set)
        arming = asyncio.create_task(at.agent.alerts._arm())
        await asyncio.sleep(0.1)  # the event loop is not blocked
        go.set()
        assert await holding
        await arming
        assert "car" in watcher._units


async def test_a_failing_rule_does_not_affect_other_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(tmp_path, rules={"bus": RULE, "car": RULE}) as at:
        watcher = at.agent.alerts.watcher
        real = watcher._hindrance

        def hindrance(rule: Rule, camera: str, time: float) -> Hindrance | None:
            if rule.name == "bus":
                raise ValueError("no such zone")
            return real(rule, camera, time)

        with monkeypatch.context() as patched:
            patched.setattr(watcher, "_hindrance", hindrance)
            await at.show(HIGH, 2)
            assert watcher.rule_problems() == {"bus": "it cannot look at frames: ValueError: no such zone"}
            assert watcher._watches["car", "yard"].state.time == at.now[0]
            assert at.agent.alerts.num_dropped == 0
        await at.show(HIGH, 1)
        assert watcher.rule_problems() == {}
