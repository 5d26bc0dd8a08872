"""Define questions with their true answers as data, judge answers, and measure how far guessing without the video gets.

Words of an answer must match exactly; a clock time must fall into a span of time that proves the answer. This file
knows no scenes and no models.
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
    """What a text names: things of this kind and colour (None: any), and also the things that `second` names."""

    kind: str | None = None
    colour: str | None = None
    second: "Query | None" = None


@dataclass(frozen=True)
class Question:
    """A question with its true answer.

    family: its type, such as "count"; query: the things it names, None if none; spans: seconds of the scene that prove
    the answer; start_unix + utc_offset_s: local clock time at second 0 of the scene.
    """

    family: str
    text: str
    answer: str
    query: Query | None
    spans: tuple[tuple[float, float], ...] = ()
    start_unix: float = 0.0
    utc_offset_s: float = 0.0


def matches(query: Query, visible: Visible) -> bool:
    """Return whether a visible thing is one that the query names. A closed door never is, as nothing happens there."""
    if visible.action == "closed":
        return False
    here = query.kind in (None, visible.kind) and query.colour in (None, visible.colour)
    return here or (query.second is not None and matches(query.second, visible))


def clock_slot(first_s: float, last_s: float) -> str:
    """Return the placeholder of a clock time in an answer, "@12.0" for second 12; `true_answer` replaces it."""
    return f"@{(first_s + last_s) / 2:.1f}"


def clock_answer(question: Question, scene_s: float) -> str:
    """Return the local clock time at a second of the scene, such as "14:03:22"."""
    return clock_text(question.start_unix + question.utc_offset_s + scene_s)


def clock_text(seconds: float) -> str:
    """Return the clock time of a number of seconds, counted from any midnight, such as "14:03:22"."""
    s = int(seconds) % DAY_S
    return f"{s // 3600:02d}:{s // 60 % 60:02d}:{s % 60:02d}"


def true_answer(question: Question) -> str:
    """Return the question's answer in words, with a clock time in place of the placeholder of a second."""
    return clock_answer(question, float(question.answer[1:])) if question.family in TIME_FAMILIES else question.answer


def is_correct(question: Question, answer: str) -> bool:
    """Return whether an answer is right: the same words, or a clock time inside a proving span, give or take 2 seconds."""
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
        ) % DAY_S  # plus 1: until the end of the second that the clock shows
        if 0 < since < last - first + 2 * TIME_TOLERANCE_S + 1.001:
            return True
    return False


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def majority_accuracy(asked: Sequence[Question]) -> dict[str, float]:
    """Return the accuracy, by family and for "all", of always giving a family's most frequent answer."""
    groups: dict[str, list[Question]] = defaultdict(list)
    for question in asked:
        groups[question.family].append(question)
    right = {f: Counter(true_answer(q) for q in group).most_common(1)[0][1] for f, group in groups.items()}
    return {f: right[f] / len(groups[f]) for f in groups} | {"all": sum(right.values()) / max(len(asked), 1)}


def question_only_guess(known: Sequence[Question], asked: Sequence[Question]) -> dict[str, float]:
    """Return the accuracy, by family and for "all", of guessing from the question's words without the video.

    Three guessers learn the most frequent answer from `known`: by family; by family and kind of thing; by family, kind
    and colour. They answer `asked`; the best of the three counts.
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
