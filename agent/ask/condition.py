"""Turn a rule's condition into a question for models that were trained only on questions about what was seen.

Our own reader (`agent.reading.own`) says what the condition is about. The question about something that comes asks for
its number, because "none" is as natural an answer as any other number, while a model may answer "yes" out of habit:

    "any red lorry comes", "a red truck"  -> "how many times did a red truck come?"  "zero": no; "one", "two": yes
    "more than two dogs"                  -> "how many times did a dog come?"        "three": yes
    "no car in the yard"                  -> "how many times did a car come?"        "zero": yes
    "a bag is left behind"                -> "was a bag left behind?"                "no", "nothing": no; "a red bag": yes
    "two people fight"                    -> "two people fight?"                     such a model cannot judge it

A checkpoint's config.json says which form of question its model needs (`judge` in the section `vilamp_live`). Models
that follow instructions get the condition verbatim (`agent/alerts/judge.py`).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from agent.reading.own import LEFT_BEHIND, own_reader
from agent.reading.plain import come, with_article
from agent.reading.tokens import tokens_of
from agent.reading.words import words

Verdict = Literal["yes", "no", "unclear"]
_NO = frozenset({"no", "zero", "0", "none", "nothing", "nobody", "never"})
_LITTLE = frozenset({"a", "an", "the", "of", "and"})
_ANYTHING = frozenset({"object", "thing", "item", "something"})
NONSENSE_CERTAINTY = 0.8  # from which a condition counts as none; below, the rule's maker is only warned


@dataclass(frozen=True, slots=True)
class Asked:
    """The question about a condition, and how its answer is read.

    thing: what is looked for. at_least: how many there must be. absent: the condition is true if there is none.
    is_plain: whether a model that knows only questions can judge it.
    """

    question: str
    thing: str = ""
    at_least: int = 1
    absent: bool = False
    is_plain: bool = True


@lru_cache(256)
def asked(condition: str) -> Asked:
    """Return the question about a condition. Blocks for about 40 ms the first time."""
    condition = " ".join(condition.split())
    reader = own_reader()
    reading = reader.read_now(condition)
    named = next(iter(reading.things), "")
    thing = named.removesuffix(LEFT_BEHIND).strip()
    thing = reader.things.drawn(thing) or thing
    if named.endswith(LEFT_BEHIND):
        what = "something" if thing in _ANYTHING else with_article(thing)
        return Asked(f"was {what} {LEFT_BEHIND}?", thing)
    if reading.kind in ("existence", "count") and thing and not condition.endswith("?"):
        question = f"how many times did {with_article(thing)} {come(thing)}?"
        return Asked(question, thing, reading.at_least or 1, reading.absent)
    return Asked(f"{condition.rstrip(' .!?')}?", thing, is_plain=False)


def problem_of(condition: str, asks_questions: bool) -> tuple[str, bool]:
    """Return what is wrong with a condition, and whether it must be refused; ("", False): nothing is.

    asks_questions: the model that judges knows only questions about what was seen. Blocks.
    """
    reading = own_reader().read_now(condition)
    if reading.kind in ("unclear", "out of scope"):
        said = "says nothing that a camera can see" if reading.kind == "out of scope" else "is not understood"
        example = 'write what must be seen, such as "a person at the gate" or "a bag is left behind"'
        return f'the condition "{condition}" {said}: {example}', reading.certainty >= NONSENSE_CERTAINTY
    if asks_questions and not asked(condition).is_plain:
        can = "whether something comes, how often, and whether it is left behind"
        return f'the model that judges can only tell {can}; "{condition}" is put to it as it is', False
    return "", False


def read_answer(answer: str, about: Asked) -> Verdict:
    """Return the verdict that a short answer means. The answer may be yes or no, a number, or what was seen.

    "yes", "two" -> yes; "no", "zero", "nothing" -> no; "a red bag" -> yes for "a bag is left behind", no for "a box is
    left behind"; everything else is unclear.
    """
    said = [word.lower() for word in tokens_of(answer) if word.isalnum()]
    verdict: Verdict = "unclear"
    if len(said) == 1 and (said[0] in _NO or said[0] == "yes"):
        verdict = "no" if said[0] in _NO else "yes" if about.at_least == 1 else "unclear"
    elif len(said) == 1 and (said[0].isdecimal() or said[0] in words().numbers):
        number = int(said[0]) if said[0].isdecimal() else words().numbers[said[0]]
        verdict = "yes" if number >= about.at_least else "no"
    elif said[:1] in (["a"], ["an"]) and about.thing:
        spoken_of = set(about.thing.split()) - _LITTLE
        verdict = "yes" if spoken_of <= set(said) or spoken_of <= _ANYTHING else "no"
    if about.absent and verdict != "unclear":
        return "no" if verdict == "yes" else "yes"
    return verdict
