"""Examples to train the readers on, drawn from the hand-written patterns in `reader_data/`.

A pattern is a line such as `when did (the|a) {thing} (come|arrive)?`. One of the alternatives in brackets is drawn;
slots are filled from the word list (`agent.reading.words`): `{thing}` and `{things}` are what is asked about, as is
what stands in `[square brackets]`. Typos, dropped words, lower case and missing punctuation are added. The same seed
draws the same examples.
"""

import random
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.reading.network import LABELS
from agent.reading.tokens import tokens_of
from agent.reading.words import COLOURS, Words, words

DATA = Path(__file__).parent / "reader_data"
_OPEN, _CLOSE, _PLAIN = "\x01", "\x02", "\x03"  # begin and end of a thing; begin of words that are never things
_DRAWN_SHARE, _COLOUR_SHARE, _WITH_SHARE = 0.45, 0.4, 0.2
TYPOS = 0.2
_BEFORE = frozenset({"en", "de", "nl", "pl", "tr"})  # adjectives stand before the noun
_UNMARKED = frozenset({"out of scope", "unclear", "follow-up"})


@dataclass(frozen=True, slots=True)
class Pattern:
    """A line of the data files. detail: relation, place or bound, "" where the kind has none."""

    text: str
    kind: str
    detail: str
    language: str
    is_condition: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """A question as words, with a tag for each: 0 outside of things, 1 first word of a thing, 2 further word."""

    pattern: Pattern
    words: tuple[str, ...]
    tags: tuple[int, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)


def patterns() -> list[Pattern]:
    """Return all patterns of the data files."""
    found = []
    for name in ("en", "de", "es", "fr", "others", "conditions"):
        kind = detail = ""
        language = name
        for line in (DATA / f"{name}.txt").read_text("utf-8").splitlines():
            if line.startswith("## "):
                heading = line[3:]
                if name in ("others", "conditions"):
                    heading, _, language = heading.rpartition(" ")
                kind = next(label for label in sorted(LABELS, key=len, reverse=True) if heading.startswith(label))
                detail = heading[len(kind) :].strip()
            elif line and not line.startswith("#"):
                found.append(Pattern(line, kind, detail, language, name == "conditions"))
    return found


_AROUND = {
    "en": ("tell me, {}", "please, {}", "hey, {}", "{} please", "{} thanks", "quick question: {}", "I want to know: {}",
           "can you tell me: {}", "I need to know, {}", "so {}", "ok, {}", "{}, would you know?", "sorry, {}", "{} thx"),
    "de": ("sag mal, {}", "bitte: {}", "{} bitte", "ich möchte wissen: {}", "kurze Frage: {}", "{} danke"),
    "es": ("dime, {}", "por favor, {}", "{} por favor", "quisiera saber: {}", "{} gracias"),
    "fr": ("dis-moi, {}", "s'il te plaît, {}", "{} s'il vous plaît", "je voudrais savoir : {}", "{} merci"),
}  # fmt: skip


def draw(
    pattern: Pattern, rng: random.Random, *, clean: bool = False, polite: bool = False, typos: float = TYPOS
) -> Example:
    """Return an example of the pattern. clean: without typos and other noise. polite: with words around the question.

    typos: the share of examples with a typo.
    """
    drawer = _Drawer(words(), pattern.language, rng)
    text = drawer.choose(pattern.text)
    if polite:
        text = rng.choice(_AROUND[pattern.language]).replace("{}", text)
    text = drawer.fill(text, mark=pattern.kind not in _UNMARKED)
    tokens = list(_tagged(text, words().marked.get(pattern.language, frozenset()), pattern.kind not in _UNMARKED))
    if pattern.language == "en":
        tokens = _with_articles(tokens)
    if not clean:
        tokens = _noisy(tokens, rng, typos)
    return Example(pattern, tuple(word for word, _ in tokens), tuple(tag for _, tag in tokens))


class _Drawer:
    """Draws one text of a pattern."""

    def __init__(self, known: Words, language: str, rng: random.Random) -> None:
        self._known, self._language, self._rng = known, language, rng

    def choose(self, text: str) -> str:
        """Return the text with one of each bracket's alternatives."""
        while (close := text.find(")")) >= 0:
            begin = text.rindex("(", 0, close)
            text = text[:begin] + self._rng.choice(text[begin + 1 : close].split("|")) + text[close + 1 :]
        return text

    def fill(self, text: str, *, mark: bool) -> str:
        """Return the text with its slots filled; things are marked."""
        text = text.replace("[", _OPEN).replace("]", _CLOSE)
        while (begin := text.find("{")) >= 0:
            end = text.index("}", begin)
            text = text[:begin] + self._slot(text[begin + 1 : end]) + text[end + 1 :]
        return text if mark else text.replace(_OPEN, "").replace(_CLOSE, "")

    def _slot(self, name: str) -> str:
        rng = self._rng
        if name in ("thing", "things", "noun", "nouns"):
            thing = self._thing(plural=name.endswith("s"), bare=name.startswith("noun"))
            return thing if name.startswith("noun") else f"{_OPEN}{thing}{_CLOSE}"
        if name in ("colour", "adjective"):
            return self._colour(any_adjective=name == "adjective")
        if name == "gibberish":
            return "".join(rng.choice("asdfghjklqwertzuiopyxcvbnm") for _ in range(rng.randint(2, 9)))
        if name == "emoji":
            return rng.choice("😀🚗🐶👍❤🎉🤖📦")
        filler = self._filler(name.strip())
        while "{" in filler:
            begin, end = filler.index("{"), filler.index("}")
            filler = filler[:begin] + self._slot(filler[begin + 1 : end]) + filler[end + 1 :]
        spaced = " " if name.startswith(" ") else ""
        return spaced + (f"{_PLAIN}{filler}{_PLAIN}" if name.strip() in ("at", "time") else filler)

    def _filler(self, name: str) -> str:
        known = self._known.fillers[name]
        return self._rng.choice(known.get(self._language) or known["en"])

    def _colour(self, *, any_adjective: bool) -> str:
        colour = "other colour" if any_adjective and self._rng.random() < 0.35 else self._rng.choice(COLOURS)
        known = self._known.colours[colour]
        return self._rng.choice(known.get(self._language) or known["en"])

    def _thing(self, *, plural: bool, bare: bool) -> str:
        rng, by_kind = self._rng, self._known.things[self._language]
        drawn = [kind for kind in by_kind if kind != "other"]
        pairs = by_kind[rng.choice(drawn) if rng.random() < _DRAWN_SHARE else "other"]
        thing = rng.choice(pairs)[plural]
        if bare:
            return thing
        if rng.random() < _COLOUR_SHARE:
            colour = self._colour(any_adjective=True)
            thing = f"{colour} {thing}" if self._language in _BEFORE else f"{thing} {colour}"
        if rng.random() < _WITH_SHARE and (part := self._slot("with")):
            thing = f"{thing} {part}"
        return thing


def _tagged(text: str, marked: frozenset[str], mark: bool) -> Iterator[tuple[str, int]]:
    """Yield the words of a marked text with their tags."""
    inside, plain, fresh = False, False, False
    for part in _split(text):
        if part == _OPEN:
            inside = fresh = True
        elif part == _CLOSE:
            inside = False
        elif part == _PLAIN:
            plain = not plain
        else:
            for word in tokens_of(part):
                is_thing = inside or (mark and not plain and word.lower() in marked)
                yield word, (0 if not is_thing else 1 if fresh or not inside else 2)
                fresh = False


def _split(text: str) -> Iterator[str]:
    part = ""
    for letter in text:
        if letter in (_OPEN, _CLOSE, _PLAIN):
            yield part
            yield letter
            part = ""
        else:
            part += letter
    yield part


def _with_articles(tokens: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Replace "a" by "an" before a vowel."""
    out = []
    for place, (word, tag) in enumerate(tokens):
        following = tokens[place + 1][0] if place + 1 < len(tokens) else ""
        out.append(("an" if word == "a" and following[:1].lower() in tuple("aeio") else word, tag))
    return out


def _noisy(tokens: list[tuple[str, int]], rng: random.Random, typos: float) -> list[tuple[str, int]]:
    """Return the words with typos, dropped words, other case, missing accents and punctuation."""
    style = rng.random()
    tokens = [(word.lower() if style < 0.55 else word, tag) for word, tag in tokens]
    if style > 0.7 and tokens:
        tokens[0] = (tokens[0][0][:1].upper() + tokens[0][0][1:], tokens[0][1])
    if rng.random() < 0.4:
        tokens = [(word, tag) for word, tag in tokens if word not in "?.!¿," or tag] or tokens
    if rng.random() < 0.1:
        tokens = [(_bare(word), tag) for word, tag in tokens]
    if rng.random() < 0.12 and len(tokens) > 4:
        places = [place for place, (_, tag) in enumerate(tokens) if not tag]
        short = [place for place in places if len(tokens[place][0]) <= 4]
        if short:
            del tokens[rng.choice(short)]
    if rng.random() < typos:
        place = rng.randrange(len(tokens))
        tokens[place] = (_typo(tokens[place][0], rng), tokens[place][1])
    return tokens


def _bare(word: str) -> str:
    """Return the word without accents."""
    return "".join(letter for letter in unicodedata.normalize("NFD", word) if not unicodedata.combining(letter))


def _typo(word: str, rng: random.Random) -> str:
    if len(word) < 4:
        return word
    place = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    if kind == 1:
        return word[:place] + word[place + 1 :]
    if kind == 2:
        return word[:place] + word[place] + word[place:]
    return word[:place] + rng.choice("aeiorstnl") + word[place + 1 :]
