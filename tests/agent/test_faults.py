"""A failure inside any task of a whole agent: that part says so and works again; frames, rules and answers of others go on."""

import asyncio
import copy
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.app import Agent
from agent.ask.question import Question
from agent.errors import Problem
from streaming.frame import Frame
from tests.support.agents import START, ListSource, frames, remember, running, served
from tests.support.failing import Failing, failures
from tests.support.robots import robot
from tests.support.rules import HIGH, LOW, RULE, scene
from tests.support.waiting import until


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries that a test can wait for."""
    monkeypatch.setattr("agent.runtime.supervisor.LAST_PAUSE_S", 0.01)
    monkeypatch.setattr("agent.ingest.encoder._FIRST_RETRY_S", 0.001)
    monkeypatch.setattr("agent.ingest.encoder._LAST_RETRY_S", 0.01)
    monkeypatch.setattr("agent.keep.housekeeping.PERIOD_S", 0.01)
    monkeypatch.setattr("agent.alerts.engine.FLUSH_S", 0.01)


async def works(agent: Agent, camera: str = "other") -> None:
    """A frame of another camera is remembered and encoded, and a question about it answered."""
    newest = agent.store.stats(camera).newest
    await remember(agent, camera, 2, start=START if newest is None else newest + 1)
    answer = await agent.answering.answer(Question("What is there?", (camera,)))
    assert answer.seen.num_frames >= 2


@pytest.mark.usefixtures("quick")
async def test_housekeeping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as agent:
        expire, maintain = Failing(agent.store.expire), Failing(agent.store.maintain)
        monkeypatch.setattr(agent.store, "expire", expire)
        monkeypatch.setattr(agent.store, "maintain", maintain)
        await until(lambda: not expire.left and not maintain.left)
        await until(lambda: agent.housekeeping.problem is None)
        await works(agent)


@pytest.mark.usefixtures("quick")
async def test_what_is_wrong_with_housekeeping_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as agent:
        monkeypatch.setattr(agent.store, "maintain", Failing(lambda: None, [OSError(errno.EIO, "odd")] * 1000))
        await until(lambda: agent.health.run().degraded)
        health = agent.health.run()
        assert health.ready
        assert "odd" in health.public()["checks"]["memory"]


@pytest.mark.usefixtures("quick")
async def test_the_probe_of_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.runtime.stopwatch.LAG_PROBE_S", 0.001)
    async with running(tmp_path) as agent:
        failing = Failing(agent.metrics.event_loop_lag.observe)
        monkeypatch.setattr(agent.metrics.event_loop_lag, "observe", failing)
        await until(lambda: not failing.left)
        await works(agent)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("part", ["store.pending", "model.encode", "store.attach"])
async def test_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    async with running(tmp_path) as agent:
        await works(agent)
        whole, name = part.split(".")
        thing = getattr(agent, whole)
        for failure in failures():
            failing = Failing(getattr(thing, name), [failure])
            with monkeypatch.context() as patch:
                patch.setattr(thing, name, failing)
                agent.backlog.look_again()
                await remember(agent, "door", 1, start=START + 10 * agent.store.stats("door").frames)
                await until(lambda: not failing.left)  # noqa: B023
                await agent.encoded()
        stats = agent.store.stats("door")
        refused = 1 if part == "store.attach" else 0  # a ValueError there says that the numbers cannot be kept
        assert (stats.frames, stats.encoded) == (len(failures()), len(failures()) - refused)
        await works(agent)


@pytest.mark.usefixtures("quick")
async def test_a_source_that_fails_ends_its_session_alone(tmp_path: Path) -> None:
    class Broken(ListSource):
        def __init__(self, failure: BaseException) -> None:
            super().__init__("door", frames(1))
            self._failure = failure

        async def frames(self) -> AsyncIterator[Frame]:
            self.stats.state = "failed"
            if True:
                raise self._failure
            yield

    async with running(tmp_path) as agent:
        await remember(agent, "door", 1)
        for failure in failures():
            agent.cameras.publish("door", Broken(failure))
            await until(lambda: agent.cameras.intake_of("door").problem is not None)
            words = agent.cameras.problem("door") or ""
            assert type(failure).__name__ in words
            await works(agent)
            await remember(agent, "door", 1, start=START + 10 * agent.store.stats("door").frames)
            assert agent.cameras.problem("door") is None


@pytest.mark.usefixtures("quick")
async def test_a_frame_that_cannot_be_kept_ends_no_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as agent:
        fatal = [each for each in failures() if isinstance(each, ValueError | AttributeError | KeyError)]
        failing = Failing(agent.store.append, list(fatal))
        monkeypatch.setattr(agent.store, "append", failing)
        await remember(agent, "door", len(fatal) + 2)
        assert agent.store.stats("door").frames == 2
        assert agent.cameras.intakes["door"].counters.lost == len(fatal)
        assert agent.cameras.problem("door") is None


@pytest.mark.usefixtures("quick")
async def test_rules_and_their_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(tmp_path) as at:
        engine = at.agent.alerts
        for thing, name in ((engine.watcher, "frames"), (engine.judge, "vote"), (engine.watcher, "flush")):
            for failure in failures():
                failing = Failing(getattr(thing, name), [failure])
                with monkeypatch.context() as patch:
                    patch.setattr(thing, name, failing)
                    while failing.left:
                        await at.show(HIGH, 1)
                        await asyncio.sleep(0.01)
            await works(at.agent)
        assert [event["event_type"] for event in at.events()] == ["on"]
        at.judge.verdict = "no"
        await at.show(LOW, 30)
        assert [event["event_type"] for event in at.events()] == ["on", "off"]


@pytest.mark.usefixtures("quick")
async def test_a_rule_whose_condition_cannot_be_read_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.ask.answer import Answering

    inner = Answering.embed
    failing = iter(failures())

    async def embed(self: Answering, text: str) -> Any:
        for failure in failing:
            raise failure
        return await inner(self, text)

    monkeypatch.setattr(Answering, "embed", embed)
    async with running(tmp_path, rules={"car": RULE}) as agent:
        await until(lambda: agent.alerts.problems())
        assert agent.health.run().public()["checks"]["rules"] == "1 rule does not work"
        await until(lambda: not agent.alerts.problems())
        assert not agent.alerts.watcher.unarmed()


@pytest.mark.usefixtures("quick")
async def test_a_webhook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = {"a": {"url": "http://127.0.0.1:9/a"}, "b": {"url": "http://127.0.0.1:9/b"}}
    async with running(tmp_path, webhooks=hooks) as agent:
        first = agent.webhooks[0]
        outbox = copy.copy(first._outbox)  # the other webhook keeps a sound one
        failing = Failing(outbox.next)
        monkeypatch.setattr(outbox, "next", failing)
        monkeypatch.setattr(first, "_outbox", outbox)
        await until(lambda: not failing.left)
        await until(lambda: agent.supervisor.num_failures.get(first.sink, 0) >= len(failures()) - 1)
        assert set(agent.supervisor.num_failures) == {first.sink}
        await works(agent)


@pytest.mark.usefixtures("quick")
async def test_a_question_whatever_fails_gets_an_error_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as agent:
        await remember(agent, "door", 3)
        asked = Question("What is there?", ("door",))
        for failure in failures():
            with monkeypatch.context() as patch:
                patch.setattr(agent.answering, "window", Failing(agent.answering.window, [failure]))
                with pytest.raises(Problem, match=r"failed|cannot be read"):
                    await agent.answering.answer(asked)
        assert agent.answering.queue.turns.num_inside == 0
        assert (await agent.answering.answer(asked)).seen.num_frames == 3


async def test_a_message_of_a_robot_that_meets_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(tmp_path, cameras={"bot": {"rate_hz": 10}}) as site:
        tokens = site.auth.issue("admin", site.agent.clock(), 600)
        async with robot(f"{site.url}/whip/bot", tokens.secret) as bot:
            await bot.hear("ready")
            intake = site.agent.cameras.intake_of("bot")
            for name in ("metadata", "ask"):
                for failure in failures():
                    with monkeypatch.context() as patch:
                        if name == "metadata":
                            patch.setattr(intake, "add_metadata", Failing(intake.add_metadata, [failure]))
                            bot.say(type="metadata", id="1", data={"x": 1})
                        else:
                            patch.setattr("agent.web.robot.question_of", Failing(lambda: None, [failure]))
                            bot.say(type="ask", id="1", question="What is there?")
                        assert (await bot.hear("error"))["code"] == "error"
            bot.say(type="cancel", id="2")
            assert (await bot.hear())["code"] == "not_found"
