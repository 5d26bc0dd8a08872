"""Questions with their true answers as data; right or wrong; and how far one gets without looking.

Exact match of words, clock times within a span of proof, the guesses that need no video. It knows no scenes, no models.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from model.world.things import Visible

TIME_FAMILIES = ("when", "last_seen")
TIME_TOLERANCE_S = 2.0
DAY_S = 86400


@dataclass(frozen=True)
class Query:
    """What a text names: any thing of this kind and colour (None: any), or any that `second` names."""

    kind: str | None = None
    colour: str | None = None
    second: "Query | None" = None


@dataclass(frozen=True)
class Question:
    """`spans`: seconds of the scene that prove it; `start_unix` + `utc_offset_s`: the local clock at second 0."""

    family: str
    text: str
    answer: str
    query: Query | None
    spans: tuple[tuple[float, float], ...] = ()
    start_unix: float = 0.0
    utc_offset_s: float = 0.0


def matches(query: Query, visible: Visible) -> bool:
    """Is this what the text names? A closed door is never meant."""
    if visible.action == "closed":
        return False
    here = query.kind in (None, visible.kind) and query.colour in (None, visible.colour)
    return here or (query.second is not None and matches(query.second, visible))


def clock_slot(first_s: float, last_s: float) -> str:
    """Placeholder answer of the time families, seconds of the scene: "@12.0"; see `clock_answer`."""
    return f"@{(first_s + last_s) / 2:.1f}"


def clock_answer(question: Question, scene_s: float) -> str:
    """The local clock at a second of the scene: "14:03:22"."""
    return clock_text(question.start_unix + question.utc_offset_s + scene_s)


def clock_text(seconds: float) -> str:
    """Seconds of any day -> "14:03:22"."""
    s = int(seconds) % DAY_S
    return f"{s // 3600:02d}:{s // 60 % 60:02d}:{s % 60:02d}"


def true_answer(question: Question) -> str:
    """The answer as a person would give it."""
    return clock_answer(question, float(question.answer[1:])) if question.family in TIME_FAMILIES else question.answer


def is_correct(question: Question, answer: str) -> bool:
    """Exact match of the words; a clock time is right inside a span that proves it, 2 s more on both sides."""
    if question.family not in TIME_FAMILIES:
        return _words(answer) == _words(question.answer)
    found = re.fullmatch(r"\D*(\d{1,2}):(\d\d):(\d\d)\D*", answer.strip())
    if found is None:
        return False
    hours, minutes, seconds = (int(group) for group in found.groups())
    for first, last in question.spans:
        begin = question.start_unix + question.utc_offset_s + first - TIME_TOLERANCE_S
        since = (
            hours * 3600 + minutes * 60 + seconds + 1 - begin
        ) % DAY_S  # until the end of the second that the clock shows
        if 0 < since < last - first + 2 * TIME_TOLERANCE_S + 1.001:
            return True
    return False


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def majority_accuracy(asked: Sequence[Question]) -> dict[str, float]:
    """By family, and "all": how often the most frequent answer of the family is right, on the questions themselves."""
    groups: dict[str, list[Question]] = defaultdict(list)
    for question in asked:
        groups[question.family].append(question)
    right = {f: Counter(true_answer(q) for q in group).most_common(1)[0][1] for f, group in groups.items()}
    return {f: right[f] / len(groups[f]) for f in groups} | {"all": sum(right.values()) / max(len(asked), 1)}


def question_only_guess(known: Sequence[Question], asked: Sequence[Question]) -> dict[str, float]:
    """By family, and "all": accuracy of the best guess from the question's words alone, learnt from `known`.

    Three guessers learn the most frequent answer by family, then by kind too, then by colour too; the best counts.
    """
    best: dict[str, float] = {}
    counts = Counter(question.family for question in asked)
    for depth in (1, 2, 3):
        learnt: dict[tuple[str | None, ...], Counter[str]] = defaultdict(Counter)
        for question in known:
            learnt[_about(question)[:depth]][true_answer(question)] += 1
        right: Counter[str] = Counter()
        for question in asked:
            answers = learnt.get(_about(question)[:depth])
            right[question.family] += bool(answers and is_correct(question, answers.most_common(1)[0][0]))
        best = {f: max(best.get(f, 0.0), right[f] / counts[f]) for f in counts}
    total = sum(best[f] * counts[f] for f in counts)
    return best | {"all": total / max(len(asked), 1)}


def _about(question: Question) -> tuple[str | None, ...]:
    query = question.query or Query()
    return question.family, query.kind, query.colour
