"""Finds the names and aliases of cameras in the words of a question, also with one letter wrong.

A name is cut out of the question where it only says where to look: "at the gate", "gate camera", "yard: who came?". It
stays where it may be what is asked about: "is the gate open?", "the kitchen door".
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from agent.reading.scope_text import folded_words, is_one_letter_off
from agent.reading.time_words import FUNCTION_WORDS, LANGUAGES, TABLES
from agent.reading.types import CameraNames

Span = tuple[int, int]

MAX_WORDS = 6  # of a name
MIN_FUZZY = 5  # letters of a name from which on one may be wrong
MAX_LISTED = 6  # cameras in a problem

_TOKEN = re.compile(r"[^\W\d_]+|\d+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CAMERA = _words("cam cams camera cameras kamera kameras camara camaras webcam feed")
_PLACE = _words(
    "at on in near by from inside outside via behind beside am an im auf bei beim vom von vor vorm in en por desde "
    "junto frente a al del sur dans devant au aux par depuis pres chez the"
)
_ARTICLE = _words("the our my der die das dem den unser unserem el la los las le les l nuestro notre")
_INDEFINITE = _words("a an any some no another ein eine einen einem einer kein keine un una une otro autre")
_EXCEPT = _words("except excluding ausser außer excepto menos salvo sauf hormis besides")
_NOT = _words("not nicht no pas but")
_ALL = _words("all any every each alle allen jeder todas cada toutes chaque everywhere anywhere uberall partout")
_LINK = _words("of du de des del d")  # "the camera of the yard"
_AND = _words("and or und oder y o et ou")
_FUNCTION = frozenset().union(*FUNCTION_WORDS.values())


@dataclass(frozen=True, slots=True)
class Mentions:
    """The cameras that a text names; `spans` of the names in the text, and what can be cut out of it.

    problem: why the words do not tell which camera is meant; "": they do.
    """

    cameras: tuple[str, ...]
    spans: list[Span]
    cuts: list[Span]
    problem: str


@dataclass(slots=True)
class _Mention:
    first: int  # of its words in the text
    last: int
    names: tuple[str, ...]  # the cameras that are called so
    is_excluded: bool = False


class _Names:
    """The names and aliases of all cameras, prepared for finding them with one letter wrong."""

    def __init__(self, cameras: tuple[tuple[str, tuple[str, ...]], ...]) -> None:
        self.exact: dict[str, tuple[str, ...]] = {}
        self.weak: set[str] = set()  # names that are also everyday words
        own = {"".join(folded_words(name)) for name, _ in cameras}
        for name, aliases in cameras:
            for phrase in (name, *(each for each in aliases if "".join(folded_words(each)) not in own)):
                words = folded_words(phrase)
                joined = "".join(words)
                if not joined or len(words) > MAX_WORDS:
                    continue
                self.exact[joined] = tuple(dict.fromkeys((*self.exact.get(joined, ()), name)))
                if _is_common(words) or joined.isdigit() or len(joined) == 1:
                    self.weak.add(joined)
                bare = tuple(word for word in words if word not in _CAMERA)
                if bare and len(bare) < len(words):
                    self.exact.setdefault("".join(bare), (name,))
                    if _is_common(bare) or "".join(bare).isdigit():
                        self.weak.add("".join(bare))
        self.near: dict[str, list[str]] = {}
        for joined in self.exact.keys() - self.weak:
            if len(joined) >= MIN_FUZZY - 1:
                for each in _shortened(joined):
                    self.near.setdefault(each, []).append(joined)

    def called(self, joined: str, num_words: int) -> str | None:
        """Return the name that this text is, perhaps with one letter wrong."""
        if joined in self.exact:
            return joined
        if len(joined) < (MIN_FUZZY - 1 if num_words == 1 else MIN_FUZZY + 2) or joined in _FUNCTION:
            return None
        for each in _shortened(joined):
            for name in self.near.get(each, ()):
                if is_one_letter_off(joined, name) and (len(name) >= MIN_FUZZY or _is_slip(joined, name)):
                    return name
        return None


@lru_cache(maxsize=8)
def _names_of(cameras: tuple[tuple[str, tuple[str, ...]], ...]) -> _Names:
    return _Names(cameras)


def mentions_of(shown: str, plain: str, cameras: tuple[CameraNames, ...]) -> Mentions:
    """Return the cameras that a text names. plain: the text folded, of the same length as `shown`."""
    names = _names_of(tuple((camera.name, camera.aliases) for camera in cameras))
    words = list(_TOKEN.finditer(plain))
    texts = [word[0].lstrip("0") or "0" for word in words]
    found = list(_found(texts, names))
    cuts = [_cut_of_all(words, texts, place) for place in range(1, len(texts)) if _is_all(texts, place)]
    cuts += _cuts(plain, words, texts, found)
    spans = [(words[each.first].start(), words[each.last].end()) for each in found]
    order = [camera.name for camera in cameras]
    excluded = {each.names[0] for each in found if each.is_excluded}
    wanted = {each.names[0] for each in found if len(each.names) == 1 and not each.is_excluded}
    unclear = [each for each in found if len(each.names) > 1 and not wanted & set(each.names)]
    problem = ""
    if unclear:
        phrase = shown[words[unclear[0].first].start() : words[unclear[0].last].end()]
        called = unclear[0].names
        more = f" and {len(called) - MAX_LISTED} more" if len(called) > MAX_LISTED else ""
        problem = f"{len(called)} cameras are called '{phrase}': {', '.join(called[:MAX_LISTED])}{more}"
    if excluded and not wanted:
        wanted = set(order) - excluded
    return Mentions(tuple(name for name in order if name in wanted), spans, cuts, problem)


def _found(texts: list[str], names: _Names) -> Iterator[_Mention]:
    """Yield the mentions in the text, the longest name first where several would fit."""
    place = 0
    while place < len(texts):
        mention = _mention_at(texts, place, names)
        if mention is None:
            place += 1
            continue
        yield mention
        place = mention.last + 1


def _mention_at(texts: list[str], place: int, names: _Names) -> _Mention | None:
    for count in range(min(MAX_WORDS, len(texts) - place), 0, -1):
        joined = "".join(texts[place : place + count])
        called = names.called(joined, count)
        last = place + count - 1
        if called is None and count == 1:
            called = _compound(joined, names)
        if called is None:
            continue
        before = texts[place - 1] if place else ""
        after = texts[last + 1] if last + 1 < len(texts) else ""
        beside_camera = before in _CAMERA or after in _CAMERA
        if called in names.weak and not beside_camera:
            continue
        if before in _INDEFINITE and not beside_camera:
            continue
        mention = _Mention(place, last, names.exact[called])
        mention.is_excluded = _is_excluded(texts, place)
        return mention
    return None


def _compound(joined: str, names: _Names) -> str | None:
    """Return the name in a German compound such as "hofkamera"."""
    for word in ("kamera", "cam"):
        if joined.endswith(word) and joined.removesuffix(word) in names.exact:
            return joined.removesuffix(word)
    return None


def _is_excluded(texts: list[str], place: int) -> bool:
    while place and texts[place - 1] in _PLACE | _ARTICLE | _CAMERA:
        place -= 1
    before = texts[place - 1] if place else ""
    if before in _EXCEPT:
        return True
    return before in _NOT and any(each in _ALL for each in texts[max(0, place - 4) : place - 1])


def _is_all(texts: list[str], place: int) -> bool:
    """Return whether the word at `place` ends a phrase such as "all cameras"."""
    return texts[place] in _CAMERA and any(
        texts[first] in _ALL and all(each in _ARTICLE | {"of"} for each in texts[first + 1 : place])
        for first in range(max(0, place - 3), place)
    )


def _cut_of_all(words: list[re.Match[str]], texts: list[str], place: int) -> Span:
    first = place
    while texts[first] not in _ALL:
        first -= 1
    while first and texts[first - 1] in _PLACE:
        first -= 1
    return words[first].start(), words[place].end()


def _cuts(plain: str, words: list[re.Match[str]], texts: list[str], found: list[_Mention]) -> Iterator[Span]:
    """Yield what can be cut out of the text for each group of mentions, such as "at the gate and in the yard"."""
    for group in _groups(plain, words, texts, found):
        first, last = group[0].first, group[-1].last
        has_camera = any(texts[place] in _CAMERA for place in range(first, last + 1))
        has_camera = has_camera or any(word.endswith("kamera") for word in texts[first : last + 1])
        while last + 1 < len(texts) and texts[last + 1] in _CAMERA:
            last, has_camera = last + 1, True
        has_place = False
        words_before = _PLACE | _ARTICLE | _CAMERA | _EXCEPT | _LINK | (_NOT if group[0].is_excluded else frozenset())
        while first and texts[first - 1] in words_before:
            first -= 1
            has_camera = has_camera or texts[first] in _CAMERA
            has_place = has_place or texts[first] in _PLACE - _ARTICLE or group[0].is_excluded
        start, end = words[first].start(), words[last].end()
        if has_camera or (has_place and not _goes_on(plain, texts, words, last)) or _stands_alone(plain, start, end):
            yield start, end


def _groups(
    plain: str, words: list[re.Match[str]], texts: list[str], found: list[_Mention]
) -> Iterator[list[_Mention]]:
    group: list[_Mention] = []
    for each in found:
        if group:
            between = texts[group[-1].last + 1 : each.first]
            signs = re.sub(r"\w", "", plain[words[group[-1].last].end() : words[each.first].start()]).strip()
            joins = signs == "," or any(word in _AND for word in between)
            if not joins or not all(word in _AND | _PLACE | _ARTICLE for word in between) or signs not in ("", ","):
                yield group
                group = []
        group.append(each)
    if group:
        yield group


def _goes_on(plain: str, texts: list[str], words: list[re.Match[str]], last: int) -> bool:
    """Return whether the next word makes the name part of another thing, as in "the kitchen door"."""
    if last + 1 == len(texts) or plain[words[last].end() : words[last + 1].start()].strip():
        return False
    word = texts[last + 1]
    if word in _FUNCTION or word.isdigit() or word.endswith(("ing", "ed", "ly")):
        return False
    return not any((word,) in TABLES[name][0] for name in LANGUAGES)


def _stands_alone(plain: str, start: int, end: int) -> bool:
    """Return whether the name stands between commas, or before a colon: "yard: who came?"."""
    before, after = plain[:start].rstrip(), plain[end:].lstrip()
    return (not before or before[-1] in ",:;(-.") and (not after or after[0] in ",:;)-?!.") and bool(before or after)


def _is_slip(given: str, name: str) -> bool:
    """Return whether a short name has a letter twice or two letters exchanged; "date" is not "gate"."""
    if len(given) == len(name):
        return sorted(given) == sorted(name) and given[0] == name[0]
    return len(given) > len(name) and re.sub(r"(.)\1", r"\1", given) == re.sub(r"(.)\1", r"\1", name)


def _is_common(words: Iterable[str]) -> bool:
    return all(word in _FUNCTION or any((word,) in TABLES[name][0] for name in LANGUAGES) for word in words)


def _shortened(word: str) -> set[str]:
    return {word, *(word[:place] + word[place + 1 :] for place in range(len(word)))}
