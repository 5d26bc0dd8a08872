"""Build the prompt: the text around the visual tokens, and the order of everything that the language model reads.

Input: a question, token ids, keyframe tokens, merged tokens. Output: prompt strings, and the order of the visual
tokens. The visual tokens of one question, together, are its visual block: in time order, a keyframe contributes all its
tokens, and the other frames one merged token each, or one for a run of similar neighbours. This file does not know how
keyframes were chosen or tokens merged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from model.tokens import IMAGE_MARK

Role = Literal["keyframe", "merged", "newline", "timestamp"]


def prompt_text(question: str, system_prompt: str) -> str:
    """Return the prompt in the published chat format, with "<image>" for the visual tokens. The answer follows it."""
    return (
        f"<|im_start|>system\n{system_prompt}<|im_end|>\n"
        f"<|im_start|>user\n{IMAGE_MARK}\n{question}<|im_end|>\n<|im_start|>assistant\n"
    )


def timestamp_text(clock: str, mark: str = "") -> str:
    """Return the text before a keyframe's tokens, its clock time after an optional letter for its relevance.

    "12:34:56" -> "12:34:56 ", with mark "h" -> "h12:34:56 ".
    """
    return f"{mark}{clock} "


MARKS = "abcdefghij"
MARK_STEP = 0.05  # width of one letter's range of cosines


def relevance_mark(score: float) -> str:
    """Return a letter for a keyframe's cosine with the question: "a" up to 0.05, then one letter every 0.05, "j" from
    0.45.

    It lets the language model know how relevant the selection found the keyframe. 0.02 -> "a", 0.31 -> "g", 0.6 -> "j".
    """
    return MARKS[min(max(int(score / MARK_STEP), 0), len(MARKS) - 1)]


@dataclass(frozen=True, slots=True)
class Slot:
    """One piece of the visual tokens of a prompt: a keyframe or its clock time, a run of merged frames, or a newline.

    num_tokens: its length. index: number of the keyframe or of the run.
    """

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
    """Return the pieces of a prompt's visual tokens in time order, with a newline at the end if `final_newline`.

    keyframe_rows (K,) and merged_rows (F,): the rows of K keyframes and of F merged frames, rising, without a common
    row. runs (F,): number of each merged frame's run, rising from 0; frames of one run share a token. keyframe_tokens:
    tokens of a keyframe. timestamp_tokens: tokens of the text before each keyframe. Keyframes [1], others [0, 2, 3]
    with runs [0, 1, 1], 4 tokens per keyframe -> merged 0 (1 token), keyframe 0 (4), merged 1 (1).
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
    """Join F merged frames to runs that share one token each. Return the number of each frame's run, (F,), rising from
    0.

    There are at most `budget` runs, or more if may_join does not allow so few. change (F,): how much each frame differs
    from the one before it. may_join (F,) bool: whether it may share a token with that one; False after a keyframe and
    at the start of a camera. The least changed frames are joined first. Equal ones are joined evenly over time, so that
    a picture without any change does not become one single run. change [9, 1, 5, 2], all but the first may join, budget
    2 -> [0, 0, 1, 1].
    """
    num_frames = len(change)
    num_joins = min(num_frames - budget, int(may_join.sum()))
    if num_joins <= 0:
        return np.arange(num_frames)
    places = np.flatnonzero(may_join)
    # Among equal changes, the lowest bit-reversed indices are cut: first in the middle, then at the quarters, and so on.
    order = np.lexsort((bit_reversed(len(places)), -change[places]))
    cuts = np.ones(num_frames, bool)
    cuts[places] = False
    cuts[places[order[: len(places) - num_joins]]] = True
    runs: np.ndarray = np.cumsum(cuts) - 1 if cuts[0] else np.cumsum(cuts)
    return runs


def bit_reversed(count: int) -> np.ndarray:
    """Return each index with its bits in reverse order, (count,): 4 -> [0, 2, 1, 3]. Used to spread cuts evenly."""
    bits = max(1, (count - 1).bit_length())
    index = np.arange(count)
    reverse = np.zeros(count, np.int64)
    for bit in range(bits):
        reverse |= ((index >> bit) & 1) << (bits - 1 - bit)
    return reverse
