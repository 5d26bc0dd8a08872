"""The judge: a condition, and the last seconds of one camera, to a verdict.

The question goes through the same path as a person's (window, keyframes, merging, language model), greedy, a few tokens.
What the model writes becomes one of three words or nothing: a text that a camera sees can at most make it the wrong one.
A server's model whose words cannot be read, and which used up its tokens, may have been thinking: it gets room to, next time.

Does not know when to ask, nor what a verdict leads to.
"""

import re

from agent.alerts.condition import as_question, read_answer
from agent.alerts.machine import Verdict, Vote
from agent.ask.answer import Answering
from agent.ask.question import Evidence, Question
from agent.runtime.lanes import Priority
from agent.settings.rules import RuleSettings

QUESTION = (
    "Judge only what the newest pictures show; the others show how it came about. "
    'Is this statement true of them: "{condition}"? '
    'Answer with exactly one word: "yes", "no", or "unclear" if the pictures do not show it well enough.'
)
MAX_NEW_TOKENS = 8
NUM_EVIDENCE = 4  # frames named with a verdict, beside the one asked about
_ANSWER = re.compile(r'[\s"\'*_`.:]*(yes|no|unclear)\b["\'*_`]*(?=\s*$|\s*[.,;:!\n])', re.IGNORECASE)
_UNCLEAR = re.compile(r'[\s"\'*_`.:]*unclear\b', re.IGNORECASE)
_ANY = re.compile(r"\b(yes|no|unclear)\b", re.IGNORECASE)


def question_for(condition: str, wording: str = QUESTION) -> str:
    """What the model is asked."""
    return wording.replace("{condition}", condition.strip().rstrip("."))


def verdict_of(text: str) -> Verdict:
    """The verdict in the model's words: its first word, alone or before a punctuation mark; everything else is unclear.

    "Yes." -> yes; "No, the door is shut" -> no; "Yes and no", "Yes. No.", "I think yes", "" -> unclear.
    """
    found = _ANSWER.match(text)
    if found is None:
        return "unclear"
    word = found[1].lower()
    if any(other.lower() != word for other in _ANY.findall(text)):
        return "unclear"
    match word:
        case "yes" | "no":
            return word
    return "unclear"


class Judge:
    """Asks the model that answers questions."""

    def __init__(self, answering: Answering, wording: str = QUESTION) -> None:
        self._answering = answering
        self._wording = wording
        self._may_think = False

    async def vote(
        self, rule: RuleSettings, camera: str, frame_id: int, time: float, priority: Priority = Priority.JUDGE
    ) -> Vote:
        """The verdict on the seconds of `camera` that end with this frame. Raises Problem when the model cannot say."""
        plain = self._answering.making.judge_manner == "question"
        answer = await self._answering.judge(
            Question(
                as_question(rule.condition) if plain else question_for(rule.condition, self._wording),
                (camera,),
                after=time - rule.judge.window_s,
                before=time,
                max_new_tokens=MAX_NEW_TOKENS,
                num_keyframes=rule.judge.num_keyframes,
                recent=min(rule.judge.recent, rule.judge.num_keyframes),
                priority=priority,
                may_think=self._may_think,
            )
        )
        verdict = read_answer(answer.text, rule.condition) if plain else verdict_of(answer.text)
        was_read = verdict != "unclear" or _UNCLEAR.match(answer.text) is not None
        # not twice running: what is no verdict with room to think is prose, which costs tokens for nothing
        was_cut = answer.finished.finish_reason == "length"
        self._may_think = was_cut and not was_read and not self._may_think
        return Vote(frame_id, time, verdict, _evidence(answer.seen.evidence), was_read)


def _evidence(frames: tuple[Evidence, ...]) -> tuple[tuple[int, float], ...]:
    """The best of the keyframes, as (id, time), by rising time."""
    ranked = sorted(frames, key=lambda each: (each.kind == "filling", -each.score))[:NUM_EVIDENCE]
    return tuple(sorted(((each.frame_id, each.time) for each in ranked), key=lambda frame: frame[1]))
