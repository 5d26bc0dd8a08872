"""Count right answers and found events, with confidence intervals, and summarise them in a report.

Questions of the same type ("how often did it come?") form a family. A needle is a short event in a long history that a
question is about; it is found if a keyframe shows it. DKS is the paper's differential keyframe selection. Results come
from several seeds, that is, several independently drawn sets of worlds. This module does no input or output.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import fmean
from typing import Any

import numpy as np

from model.world.questions import Question, majority_accuracy, question_only_guess, true_answer

Z_95 = 1.959964
NUM_BINS = 10
HARD_GUESS = 0.25  # a family is hard if the best guess from the question alone is right at most so often


@dataclass(frozen=True)
class Asked:
    """A question, the product's answer, and whether it is right.

    For comparison, it also holds whether the model answers right from the newest frames alone, and if it is asked
    directly about all frames.
    """

    question: Question
    answer: str
    right: bool
    right_from_latest: bool
    right_from_all: bool


@dataclass(frozen=True)
class Needle:
    """A short event that keyframes should show. depth: the share of the history that lies before it.

    found: whether one of the keyframes chosen for the question (by differential keyframe selection, DKS) shows it.
    uniform, random: the probability that one of as many frames at equal distances, or chosen at random, would show it.
    """

    depth: float
    found: bool
    uniform: float
    random: float


@dataclass
class Tally:
    """All results of one seed. present: the questions about the present, asked at moments within the history."""

    asked: list[Asked] = field(default_factory=list)
    present: list[Asked] = field(default_factory=list)
    needles: list[Needle] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share: 9 of 10 -> (0.60, 0.98); 0 of 0 -> (0, 1)."""
    if not count:
        return 0.0, 1.0
    share, z2 = right / count, Z_95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    reach = Z_95 * sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def share(values: Iterable[bool]) -> dict[str, Any]:
    """Return {"mean", "interval", "count"}: the share of True among the values, its 95 % interval, and their number."""
    values = list(values)
    low, high = wilson(sum(values), len(values))
    return {"mean": mean(values), "interval": [round(low, 4), round(high, 4)], "count": len(values)}


def mean(values: Sequence[float]) -> float:
    """Return the mean; 0 of an empty list."""
    return float(np.mean(values)) if len(values) else 0.0


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return {"mean", "spread"}: the mean of the seeds' values, and half the difference between highest and lowest."""
    if not values:
        return {"mean": 0.0, "spread": 0.0}
    return {"mean": fmean(values), "spread": (max(values) - min(values)) / 2}


def over_seeds(groups: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """Return {"mean", "spread", "interval"} of the accuracies (shares of right answers) of several seeds.

    mean: of the accuracies. spread: half the difference between highest and lowest. interval: the 95 % interval of the
    accuracy of all answers together. groups: for each seed, whether each answer was right; seeds without any are left
    out.
    """
    together = [value for group in groups for value in group]
    return spread([mean(group) for group in groups if group]) | {"interval": share(together)["interval"]}


def by_depth(needles: Iterable[Needle]) -> list[dict[str, Any]]:
    """Return, for each of ten equal parts of the history, the share of its short events ("needles") that were found.

    Each share is a dict as `share` returns it.
    """
    bins: list[list[bool]] = [[] for _ in range(NUM_BINS)]
    for needle in needles:
        bins[min(int(needle.depth * NUM_BINS), NUM_BINS - 1)].append(needle.found)
    return [share(values) for values in bins]


def bins_below(bins: Sequence[dict[str, Any]]) -> list[int]:
    """Return the indices of those `bins` whose 95 % interval lies wholly below the mean of all bins.

    bins: results of equal parts of the history, as `by_depth` returns them.
    """
    count = sum(each["count"] for each in bins)
    overall = sum(each["mean"] * each["count"] for each in bins) / max(count, 1)
    return [place for place, each in enumerate(bins) if each["interval"][1] < overall]


def summarise(tallies: Sequence[Tally], trained_on: Sequence[Question]) -> dict[str, Any]:
    """Return the report: mean and spread over seeds of all results, with two baselines beside them.

    The baselines are guesses from the question alone, learned from `trained_on`, and answers from the newest frames
    alone.
    """
    every = [[each.right for each in tally.asked] for tally in tallies]
    asked = [each for tally in tallies for each in tally.asked]
    guess = question_only_guess(trained_on, [each.question for each in asked])
    majority = majority_accuracy([each.question for each in asked])
    rows = {
        family: _row(tallies, family, guess, majority) for family in sorted({each.question.family for each in asked})
    }
    hard = [family for family in rows if rows[family]["question_only_guess"] <= HARD_GUESS]
    few = [[each.right for each in tally.asked if each.question.family in hard] for tally in tallies]
    needles = [needle for tally in tallies for needle in tally.needles]
    return {
        "families": rows,
        "all_families": over_seeds(every)
        | {
            "questions": len(asked),
            "question_only_guess": guess["all"],
            "majority_answer": majority["all"],
            "last_4_frames": mean([each.right_from_latest for each in asked]),
        },
        "hard_families": over_seeds(few) | {"families": hard, "questions": sum(map(len, few))},
        "present": present(tallies),
        "dks_recall": over_seeds([[n.found for n in tally.needles] for tally in tallies]) | {"needles": len(needles)},
        "dks_recall_by_depth": by_depth(needles),
        "uniform_recall": spread([mean([n.uniform for n in tally.needles]) for tally in tallies if tally.needles]),
        "random_recall": spread([mean([n.random for n in tally.needles]) for tally in tallies if tally.needles]),
        "wrong": [_wrong(each) for tally in tallies for each in (*tally.asked, *tally.present) if not each.right],
    }


def _wrong(each: Asked) -> dict[str, str]:
    question = each.question
    return {"family": question.family, "question": question.text, "truth": true_answer(question), "said": each.answer}


def _row(tallies: Sequence[Tally], family: str, guess: dict[str, float], majority: dict[str, float]) -> dict[str, Any]:
    groups = [[each for each in tally.asked if each.question.family == family] for tally in tallies]
    return over_seeds([[each.right for each in group] for group in groups]) | {
        "questions": sum(map(len, groups)),
        "question_only_guess": guess.get(family, 0.0),
        "majority_answer": majority.get(family, 0.0),
        "last_4_frames": mean([each.right_from_latest for group in groups for each in group]),
    }


def present(tallies: Sequence[Tally]) -> dict[str, Any]:
    """Return the results of questions about the present: overall, and by the number of things in view.

    Beside them are the results of asking the same questions about all frames.
    """
    asked = [each for tally in tallies for each in tally.present]
    return over_seeds([[each.right for each in tally.present] for tally in tallies]) | {
        "questions": len(asked),
        "majority_answer": majority_accuracy([each.question for each in asked])["all"],
        "last_4_frames": mean([each.right_from_latest for each in asked]),
        "by_number": _by_number((each.question.answer, each.right) for each in asked),
        "whole_history": over_seeds([[each.right_from_all for each in tally.present] for tally in tallies])
        | {"by_number": _by_number((each.question.answer, each.right_from_all) for each in asked)},
    }


def _by_number(answered: Iterable[tuple[str, bool]]) -> dict[str, Any]:
    things: dict[str, list[bool]] = defaultdict(list)
    for truth, right in answered:
        things["nothing" if truth == "nothing" else "two things" if " and " in truth else "one thing"].append(right)
    return {name: share(values) for name, values in sorted(things.items())}
