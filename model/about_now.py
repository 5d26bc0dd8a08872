"""Is a question about the present alone? Then its history has nothing to add, and the newest frames answer sooner and better.

In: a question in English. Out: yes or no. Told by its words, and meant to miss rather than to be wrong: "what is here now?", but
not "what has changed until now?" or "where is the red box now?", which is where it was seen last. Pure.
"""

import re

NUM_NEWEST = 4  # frames of each camera that such a question looks at

_NOW = re.compile(r"\b(?:now|at the moment|at this moment|at present|currently)\b")
# Words of a question that needs more than the present, though it says "now": other times, change, comparison, last places.
_MORE = re.compile(
    r"\b(?:ago|again|after|already|anymore|been|before|by|changed?|changes|compared|did(?:n't)?|different|difference|during|earlier|"
    r"ever|far|first|from|ha[ds](?:n't)?|have(?:n't)?|just|last|less|long(?:er)?|missing|more|new|next|recently|same|since|still|than|"
    r"then|till|today|tonight|until|up|was(?:n't)?|were(?:n't)?|when|where|while|yesterday|yet)\b"
)


def about_now(question: str) -> bool:
    """ "what can you see right now?" -> True; "did a dog come?", "is the car still there now?" -> False."""
    words = question.lower()
    return _NOW.search(words) is not None and _MORE.search(words) is None
