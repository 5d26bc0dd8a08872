"""Vary the wording of questions, so that a model learns what a question is about and not its exact words.

Some small words are dropped, and an opening such as "please say" may be put before. Only the language model reads the
result; the encoders get the original question. A test with thousands of variants checks that no evaluation phrasing is
among them.
"""

import numpy as np

OPENINGS = ("say", "please say", "can you say", "i want to know", "do you know", "please")
SMALL_WORDS = frozenset(
    ("a", "an", "the", "did", "is", "was", "has", "have", "been", "you", "do", "ever", "any", "by", "there", "here", "of", "it",
     "me", "tell", "to", "that", "in", "at", "which", "what")
)  # fmt: skip
REWORDED, DROPPED = 0.75, 0.3  # share of questions changed; share of their small words dropped


def reworded(text: str, rng: np.random.Generator) -> str:
    """Return a random variant, "what colour was the bag?" -> "please say what colour was bag?", or the text itself."""
    if rng.random() > REWORDED:
        return text
    words = text.split()
    kept = [word for word in words if word not in SMALL_WORDS or rng.random() > DROPPED]
    if rng.random() < 0.5:
        kept = [*OPENINGS[rng.integers(len(OPENINGS))].split(), *kept]
    return " ".join(kept)
