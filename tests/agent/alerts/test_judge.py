"""The judge: answers become verdicts, and the window it sees, with the local checkpoint and a remote server."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.alerts.judge import SCHEMA, Judge, question_for, verdict_of
from agent.ask.remote import RemoteAnswerer
from agent.errors import NoFrames, PicturesStayHere
from agent.settings.rules import RuleSettings
from tests.support.agents import START, remember, running
from tests.support.remote import PUBLIC, Names, asking, openai, parts_of
from tests.support.rules import HIGH, RULE, scene
from tests.support.vlm_server import Spy


def rule(**judge: Any) -> RuleSettings:
    return RuleSettings.model_validate({"condition": "A bag is left by the door.", "judge": judge})


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("yes", "yes"),
        ("Yes.", "yes"),
        (" **Yes**, a bag stands there", "yes"),
        ('"no"', "no"),
        ("No, the door is shut.", "no"),
        ("unclear", "unclear"),
        ("Unclear: too dark", "unclear"),
        ("", "unclear"),
        ("Yes and no", "unclear"),
        ("Yes. No.", "unclear"),
        ("No idea", "unclear"),
        ("I think yes", "unclear"),
        ("yesterday", "unclear"),
        ("nothing", "unclear"),
        ("The sign says: answer yes", "unclear"),
        ("はい", "unclear"),
        ('{"verdict": "yes"}', "yes"),
        ('```json\n{"verdict": "no"}\n```', "no"),
        ('{"verdict": "unclear"}', "unclear"),
        ('{"verdict": "yes", "verdict": "no"}', "no"),
        ('{"verdict": ["yes"]}', "unclear"),
        ('{"verdict": "maybe"}', "unclear"),
        ('{"answer": "yes"}', "unclear"),
        ('{"verdict": "yes"', "unclear"),
    ],
)
def test_words_become_one_of_three_verdicts(text: str, verdict: str) -> None:
    assert verdict_of(text) == verdict


@given(st.text() | st.tuples(st.text(max_size=3), st.sampled_from(["yes", "Yes.", "no"]), st.text()).map("".join))
def test_only_an_answer_that_begins_with_yes_is_yes(text: str) -> None:
    verdict = verdict_of(text)
    assert verdict in ("yes", "no", "unclear")
    if verdict == "yes" and "{" not in text:
        first = re.findall(r"[^\W_]+", text.lower())[0]
        assert first == "yes"


def test_the_question_quotes_the_condition_verbatim() -> None:
    assert '"A bag is left by the {door}"' in question_for("A bag is left by the {door}. ")


async def test_the_judge_sees_the_seconds_that_end_with_the_frame(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        await remember(agent, "door", 30)
        vote = await Judge(agent.answering).vote(rule(window_s=10, num_keyframes=5, recent=2), "door", 21, START + 20)
        assert (vote.frame_id, vote.time) == (21, START + 20)
        assert vote.verdict in ("yes", "no", "unclear")
        times = [time for _, time in vote.frames]
        assert 1 <= len(times) <= 4
        assert times == sorted(times)
        assert times[0] >= START + 10
        assert times[-1] <= START + 20
        with pytest.raises(NoFrames):
            await Judge(agent.answering).vote(rule(), "door", 1, START - 100)


async def test_a_remote_answerer_judges_too(tmp_path: Path, spy: Spy) -> None:
    async with asking(tmp_path, openai(spy, "yes")) as agent:
        vote = await Judge(agent.answering).vote(rule(window_s=40), "door", 12, START + 110)
        assert vote.verdict == "yes"
        (sent,) = spy.seen()
        texts, pictures = parts_of(sent)
        assert "Answer with exactly one word" in texts[-1]
        assert '"A bag is left by the door"' in texts[-1]
        assert len(pictures) == 5
        assert sent["body"]["temperature"] == 0


async def test_pictures_that_must_stay_local_are_not_sent_to_a_remote_judge(tmp_path: Path, spy: Spy) -> None:
    async with asking(tmp_path, openai(spy, "yes", "vlm.example"), resolve=Names([PUBLIC])) as agent:
        with pytest.raises(PicturesStayHere):
            await Judge(agent.answering).vote(rule(window_s=40), "door", 12, START + 110)
    assert spy.seen() == []


async def test_a_server_that_takes_a_schema_judges_by_one(tmp_path: Path, spy: Spy) -> None:
    async with asking(tmp_path, openai(spy, "sees")) as agent:
        remote = agent.answerer
        assert isinstance(remote, RemoteAnswerer)
        remote.client.traits.json_schema = True
        vote = await Judge(agent.answering).vote(rule(window_s=40), "door", 12, START + 110)
        assert (vote.verdict, vote.was_read) == ("yes", True)
    (sent,) = spy.seen()
    assert sent["body"]["response_format"]["json_schema"]["schema"] == SCHEMA
    assert sent["body"]["max_tokens"] == 64


@pytest.mark.parametrize(
    ("model", "words"),
    [("mumbles", "none of yes, no and unclear"), ("only-thinks", "for thinking and gave no answer"),
     ("empty-content", "no text that can be read")],
)  # fmt: skip
async def test_a_judge_that_never_gives_a_verdict_is_a_problem_of_the_rule_everywhere(
    tmp_path: Path, spy: Spy, model: str, words: str
) -> None:
    judged = {"window_s": 20, "num_keyframes": 4, "recent": 2, "every_s": 1, "recheck_s": 1}
    async with scene(tmp_path, rules={"car": {**RULE, "judge": judged}}, answerer=openai(spy, model)) as at:
        at.agent.alerts.judge = Judge(at.agent.answering)  # type: ignore[assignment]
        await at.show(HIGH, 8)
        assert words in str((await at.rule())["problem"])
        health = at.agent.health.run()  # what readyz and MQTT publish
        assert health.public()["checks"]["rules"] == "1 rule does not work"
        assert [each["part"] for each in health.private()["problems"] if words in str(each["problem"])] == ["rule car"]
