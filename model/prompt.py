"""The words around the pictures, and the order of everything the language model reads.

In: a question, token ids, keyframe tokens, merged tokens. Out: prompt strings, and a sequence of embeddings.
This file does not know how keyframes were chosen or tokens merged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from model.tokens import IMAGE_MARK

Role = Literal["keyframe", "merged", "newline", "timestamp"]


def prompt_text(question: str, system_prompt: str) -> str:
    """The published chat form, with "<image>" where the pictures go; the answer follows it."""
    return (
        f"<|im_start|>system\n{system_prompt}<|im_end|>\n"
        f"<|im_start|>user\n{IMAGE_MARK}\n{question}<|im_end|>\n<|im_start|>assistant\n"
    )


def timestamp_text(clock: str, mark: str = "") -> str:
    """What stands before a keyframe's tokens: "12:34:56" -> "12:34:56 "; with a relevance mark "h12:34:56 "."""
    return f"{mark}{clock} "


MARKS = "abcdefghij"
MARK_STEP = 0.05  # cosine per letter


def relevance_mark(score: float) -> str:
    """A letter for a keyframe's cosine with the question: "a" up to 0.05, then one letter every 0.05, "j" from 0.45.

    The language model is told what the selection already knows. 0.02 -> "a", 0.31 -> "g", 0.6 -> "j".
    """
    return MARKS[min(max(int(score / MARK_STEP), 0), len(MARKS) - 1)]


@dataclass(frozen=True, slots=True)
class Slot:
    """One piece of the visual block: `index` of a keyframe or of a run of merged frames; `num_tokens` long."""

    role: Role
    index: int
    num_tokens: int


def layout(
    keyframe_rows: np.ndarray,
    merged_rows: np.ndarray,
    runs: np.ndarray,
    keyframe_tokens: int,
    timestamp_tokens: Sequence[int] | None = None,
    *,
    final_newline: bool = True,
) -> list[Slot]:
    """The visual block in time order, then at most one newline.

    keyframe_rows (K,) and merged_rows (F,) rising and disjoint; runs (F,) rising from 0: frames with one number share a
    token. Keyframes [1], others [0, 2, 3] with runs [0, 1, 1], M' = 4 -> merged 0 (1), keyframe 0 (4), merged 1 (1).
    """
    first_of_run = np.flatnonzero(np.diff(runs, prepend=-1)) if len(runs) else np.empty(0, np.int64)
    pieces = [(int(merged_rows[place]), Slot("merged", int(runs[place]), 1)) for place in first_of_run]
    pieces += [(int(row), Slot("keyframe", number, keyframe_tokens)) for number, row in enumerate(keyframe_rows)]
    slots: list[Slot] = []
    for _, slot in sorted(pieces, key=lambda piece: piece[0]):
        if slot.role == "keyframe" and timestamp_tokens is not None:
            slots.append(Slot("timestamp", slot.index, timestamp_tokens[slot.index]))
        slots.append(slot)
    return [*slots, Slot("newline", 0, 1)] if final_newline else slots


def share_tokens(change: np.ndarray, may_join: np.ndarray, budget: int) -> np.ndarray:
    """Number the runs of frames that share a token, so that at most `budget` runs remain where that is possible.

    change (F,) float: how much each frame differs from the one before it; may_join (F,) bool: whether it may share a
    token with it (False behind a keyframe, and at the start of a camera). The least changed are joined first; among
    equals they are spread evenly over time, so that a picture without any change does not become one single run.
    Returns runs (F,) int64 rising from 0. change [9, 1, 5, 2], all but the first may join, budget 2 -> [0, 0, 1, 1].
    """
    num_frames = len(change)
    num_joins = min(num_frames - budget, int(may_join.sum()))
    if num_joins <= 0:
        return np.arange(num_frames)
    places = np.flatnonzero(may_join)
    # A cut at the places with the lowest bit-reversed index falls first in the middle, then at the quarters, and so on.
    order = np.lexsort((bit_reversed(len(places)), -change[places]))
    cuts = np.ones(num_frames, bool)
    cuts[places] = False
    cuts[places[order[: len(places) - num_joins]]] = True
    runs: np.ndarray = np.cumsum(cuts) - 1 if cuts[0] else np.cumsum(cuts)
    return runs


def bit_reversed(count: int) -> np.ndarray:
    """(count,) the index read with its bits backwards: 4 -> [0, 2, 1, 3]; low numbers are spread evenly."""
    bits = max(1, (count - 1).bit_length())
    index = np.arange(count)
    reverse = np.zeros(count, np.int64)
    for bit in range(bits):
        reverse |= ((index >> bit) & 1) << (bits - 1 - bit)
    return reverse
