"""Is a question about the present alone? Then its history has nothing to add, and the newest frames answer sooner and better.

In: a question in English. Out: yes or no. Told by its words, and meant to miss rather than to be wrong: one short question in the
present tense that says "now" at its end or before a place. "What is here now?", but not "what has changed until now?", nor
"where is the red box now?", which is where it was seen last. Pure.
"""

import re

NUM_NEWEST = 4  # frames of each camera that such a question looks at

_ASKS = re.compile(
    r"(?:(?:please|can you|could you)\s+)*(?:(?:tell me|say|describe|show me)\s+)?"
    r"(?:what|who|which|whose|how many|is|are|can|do)\b"
)
_PRESENT = re.compile(r"\b(?:is|are|am|can|do you see|you see)\b|'s\b|'re\b")
_NOW = re.compile(r"\b(?:(?:right )?now|at (?:the|this)(?: very)? moment|at present|currently)\b")
# What may stand behind "now": nothing, or a place.
_PLACE = re.compile(r"\s*(?:(?:at|in|on|by|near|inside|outside|before|behind)(?:\s+[\w'-]+){1,4})?\s*[?.!]*")
# Words of questions that need more than the present, though they say "now": other times, change, comparison, last places.
_MORE = re.compile(
    r"\b(?:ago|again|after|afternoon|all|already|anymore|back|been|between|by now|changes?|days?|did(?:n'?t)?|difference|"
    r"different|during|earlier|ever|every\w*|evening|far|first|from|gone|ha[ds](?:n'?t)?|have(?:n'?t)?|history|hours?|just|"
    r"last|less|long|longer|minutes?|missing|more|morning|new|next|night|noon|often|recently|same|since|so|still|than|then|"
    r"till|times?|today|tonight|until|up to|usual|usually|was(?:n'?t)?|weeks?|were(?:n'?t)?|when|where|while|whole|"
    r"yesterday|yet)\b"
)
_PAST = re.compile(
    r"\b(?!(?:closed|crowded|locked|parked|seated)\b)\w{2,}ed\b|\b(?:came|fell|left|ran|said|stood|took|went)\b"
)
_INSIDE = re.compile(r"[.?!:;](?=\s*\w)")  # more than one sentence


def about_now(question: str) -> bool:
    """ "what can you see right now?" -> True; "did a dog come?", "is the car still there now?" -> False."""
    words = " ".join(question.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split())
    if _ASKS.match(words) is None or _PRESENT.search(words) is None or _INSIDE.search(words) is not None:
        return False
    if _MORE.search(words) is not None or _PAST.search(words) is not None:
        return False
    return any(found[0] == "currently" or _PLACE.fullmatch(words, found.end()) for found in _NOW.finditer(words))
