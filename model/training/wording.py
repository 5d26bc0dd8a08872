"""Questions said a little otherwise, so that a model learns what a question is about and not its exact words.

Small words fall out, an opening is put before. The language model alone reads this; the encoders get the question as it was.
No phrasing that evaluation asks may come about so: a test tries thousands of each.
"""

import numpy as np

OPENINGS = ("say", "please say", "can you say", "i want to know", "do you know", "please")
SMALL_WORDS = frozenset(
    ("a", "an", "the", "did", "is", "was", "has", "have", "been", "you", "do", "ever", "any", "by", "there", "here", "of", "it",
     "me", "tell", "to", "that", "in", "at", "which", "what")
)  # fmt: skip
REWORDED, DROPPED = 0.75, 0.3  # share of questions that are changed; of their small words that fall out


def reworded(text: str, rng: np.random.Generator) -> str:
    """ "what colour was the bag?" -> itself, or for example "please say what colour was bag?"."""
    if rng.random() > REWORDED:
        return text
    words = text.split()
    kept = [word for word in words if word not in SMALL_WORDS or rng.random() > DROPPED]
    if rng.random() < 0.5:
        kept = [*OPENINGS[rng.integers(len(OPENINGS))].split(), *kept]
    return " ".join(kept)
