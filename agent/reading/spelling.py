"""Correct misspelt words before a question is read: "the frist person" -> "the first person".

Only words that no training example has are touched, and only where a known word is very close in letters. So a name or
a rare thing may be "corrected" by mistake; the phrases to search by keep the words as they were typed.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

CLOSE = 0.82  # least similarity of letters, from 0 to 1
SHORTEST = 4  # letters; shorter words have too many neighbours


class Spelling:
    """Corrects words by a list of known ones."""

    def __init__(self, known: Iterable[str]) -> None:
        """known: words in lower case."""
        self._known = frozenset(known)
        self._near: dict[tuple[str, int], list[str]] = defaultdict(list)  # by first letter and length
        for word in sorted(self._known):
            if word.isalpha() and len(word) >= SHORTEST:
                self._near[word[0], len(word)].append(word)

    def corrected(self, tokens: Sequence[str], *, only_swapped: bool = False) -> list[str]:
        """Return the words, each unknown one replaced by the known word that is closest to it, if one is close.

        only_swapped: correct only words in which letters changed places ("frist").
        """
        return [self._closest(token.lower(), only_swapped) or token for token in tokens]

    def _closest(self, word: str, only_swapped: bool) -> str | None:
        if word in self._known or len(word) < SHORTEST or not word.isalpha():
            return None
        near = self._near[word[0], len(word)]
        swapped = next((each for each in near if sorted(each) == sorted(word)), None)
        if swapped or only_swapped:
            return swapped
        matcher, best, found = SequenceMatcher(b=word, autojunk=False), CLOSE, None
        for each in (*near, *self._near[word[0], len(word) - 1], *self._near[word[0], len(word) + 1]):
            matcher.set_seq1(each)
            if matcher.real_quick_ratio() > best and matcher.quick_ratio() > best and (share := matcher.ratio()) > best:
                best, found = share, each
        return found
