"""The judge: decides whether a rule's condition is true of the last seconds of one camera.

The question takes the same path as a user's (window, keyframes, merging, language model), with greedy decoding and few
tokens. A server that takes a JSON schema must answer by one. Of the answer only the verdict is kept: yes, no or
unclear. So text in a camera's picture can at most cause a wrong verdict. A remote model that used up its tokens without
a readable answer may have been thinking: its next question allows more tokens for that.

Does not decide when to ask, nor what follows from a verdict.
"""

import json
import re
from typing import Any

from agent.alerts.machine import Verdict, Vote
from agent.ask.answer import Answering
from agent.ask.condition import Asked, asked, read_answer
from agent.ask.question import Evidence, Question
from agent.runtime import pools
from agent.runtime.lanes import Priority
from agent.settings.rules import RuleSettings

QUESTION = (
    "Judge only what the newest pictures show; the others show how it came about. "
    'Is this statement true of them: "{condition}"? '
    'Answer with exactly one word: "yes", "no", or "unclear" if the pictures do not show it well enough.'
)
MAX_NEW_TOKENS = 8  # of a model on this machine; a server gets more
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"verdict": {"type": "string", "enum": ["yes", "no", "unclear"]}},
    "required": ["verdict"],
    "additionalProperties": False,
}
NUM_EVIDENCE = 4  # frames returned with a verdict, besides the judged one
_ANSWER = re.compile(r'[\s"\'*_`.:]*(yes|no|unclear)\b["\'*_`]*(?=\s*$|\s*[.,;:!\n])', re.IGNORECASE)
_UNCLEAR = re.compile(r'[\s"\'*_`.:]*unclear\b', re.IGNORECASE)
_JSON = re.compile(r"\s*(?:```(?:json)?)?\s*(\{[^{}]*\})\s*(?:```)?\s*")
_ANY = re.compile(r"\b(yes|no|unclear)\b", re.IGNORECASE)


def question_for(condition: str, wording: str = QUESTION) -> str:
    """Return the question about a condition, for models that follow instructions.

    wording: a sentence with the placeholder "{condition}".
    """
    return wording.replace("{condition}", condition.strip().rstrip("."))


def verdict_of(text: str) -> Verdict:
    """Return the verdict in the model's answer: its first word if alone or followed by punctuation, otherwise unclear.

    "Yes." -> yes; "No, the door is shut" -> no; "Yes and no", "Yes. No.", "I think yes", "" -> unclear. JSON by SCHEMA
    counts by its field.
    """
    if (said := _json_verdict(text)) is not None:
        return said
    found = _ANSWER.match(text)
    if found is None:
        return "unclear"
    word = found[1].lower()
    if any(other.lower() != word for other in _ANY.findall(text)):
        return "unclear"
    return "yes" if word == "yes" else "no" if word == "no" else "unclear"


def _json_verdict(text: str) -> Verdict | None:
    """Return the verdict of an answer in JSON; None: it is none."""
    found = _JSON.fullmatch(text)
    try:
        said = json.loads(found[1]).get("verdict") if found else None
    except ValueError:
        return None
    return said if said in ("yes", "no", "unclear") else None


class Judge:
    """Judges conditions with the model that also answers users' questions."""

    def __init__(self, answering: Answering, wording: str = QUESTION) -> None:
        self._answering = answering
        self._wording = wording
        self._may_think = False

    async def vote(
        self, rule: RuleSettings, camera: str, frame_id: int, time: float, priority: Priority = Priority.JUDGE
    ) -> Vote:
        """Return the verdict on the last seconds of `camera` up to this frame (`judge.window_s` of the rule).

        time: of the frame, in unix seconds. Raises Problem when the model fails.
        """
        about: Asked | None = None
        if self._answering.answerer.judge_manner == "question":
            about = await pools.questions(asked, rule.condition)
        answer = await self._answering.judge(
            Question(
                question_for(rule.condition, self._wording) if about is None else about.question,
                (camera,),
                after=time - rule.judge.window_s,
                before=time,
                max_new_tokens=MAX_NEW_TOKENS,
                num_keyframes=rule.judge.num_keyframes,
                recent=min(rule.judge.recent, rule.judge.num_keyframes),
                priority=priority,
                may_think=self._may_think,
                schema=SCHEMA if about is None else None,
            )
        )
        verdict = verdict_of(answer.text) if about is None else read_answer(answer.text, about)
        said_unclear = _UNCLEAR.match(answer.text) is not None or _json_verdict(answer.text) is not None
        was_read = verdict != "unclear" or said_unclear
        # not twice in a row: an answer that is unreadable even with more tokens is prose, not a verdict
        was_cut = answer.finished.finish_reason == "length"
        self._may_think = was_cut and not was_read and not self._may_think
        return Vote(frame_id, time, verdict, _evidence(answer.seen.evidence), was_read)


def _evidence(frames: tuple[Evidence, ...]) -> tuple[tuple[int, float], ...]:
    """Return the NUM_EVIDENCE keyframes with the highest scores as (frame id, time), in time order."""
    ranked = sorted(frames, key=lambda each: (each.kind == "filling", -each.score))[:NUM_EVIDENCE]
    return tuple(sorted(((each.frame_id, each.time) for each in ranked), key=lambda frame: frame[1]))
