"""The things that a question names: from its words to phrases to search by, and to things of the drawn world.

A phrase has no article and is singular: "red cars" becomes "red car", "the lady with an umbrella" "lady with an
umbrella". In another language than English it becomes English where every word of it means a kind or colour of the
drawn world ("gelben Lastwagen": "yellow truck"), and else stays as asked.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache

from agent.reading.network import MEANINGS, Network
from agent.reading.words import COLOURS, KINDS, words

MEANS = 0.6  # least probability at which a word counts as one of the drawn world's
CLOSE = 0.8  # similarity of letters from which a misspelt word counts as the listed one


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = _set(
    "a an the any some this that these those my your our his her their all every each der die das den dem des ein eine "
    "einen einem einer mein meine el la los las un una unos unas le les une des du il lo gli i uno o os as um uma het de een"
)
_WITH = _set(
    "with in on of at by from without wearing carrying holding who that mit ohne auf con en de avec sans com met z"
)
# Words of where something was seen, which never are the thing that was
OF_PICTURES = _set(
    "picture image frame view screen video footage recording bild bildschirm imagen pantalla vídeo vidéo écran"
)
BEFORE_AFTER = _set("before after vor nach antes después avant après prima dopo przed po voor na")
_OWNING = _set("with mit con avec com met z")
PEOPLE = _set(
    "somebody someone anybody anyone jemand irgendwer irgendjemand alguien quelqu'un qualcuno alguém iemand ktoś biri people "
    "persons whoever"
)
_PLURALS = {"people": "person", "children": "child", "mice": "mouse", "geese": "goose", "knives": "knife", "wolves": "wolf",
            "leaves": "leaf", "shelves": "shelf", "feet": "foot"}  # fmt: skip
_SINGULARS = frozenset({"gas", "lens", "series", "glasses", "scissors", "bus", "clothes", "stairs", "mattress"})


class Things:
    """Makes phrases of things. network: says what a word means that is not listed."""

    def __init__(self, network: Network) -> None:
        self._network = network

    @staticmethod
    def joined(spans: Sequence[tuple[int, int]], tokens: Sequence[str]) -> list[tuple[int, int]]:
        """Return the spans with "man" and "ladder" of "man with the ladder" as one, and none that ends with "with"."""
        found: list[tuple[int, int]] = []
        for begin, end in spans:
            if found:
                between = [token.lower() for token in tokens[found[-1][1] - 1 : begin]][1:]
                tail = tokens[found[-1][1] - 1].lower()
                if set(between) <= ARTICLES | _OWNING and (tail in _OWNING or set(between) & _OWNING):
                    found[-1] = (found[-1][0], end)
                    continue
            found.append((begin, end))
        return [(begin, _stripped(tokens, begin, end)) for begin, end in found]

    def phrases(self, spans: Sequence[Sequence[str]]) -> tuple[str, ...]:
        """Return the phrases of the things with these words, none twice."""
        return tuple(dict.fromkeys(phrase for span in spans if (phrase := self._phrase(span))))

    def compared(self, thing: str) -> str:
        """Return the thing for comparison: in lower case, without articles, in the drawn world's words if it has some."""
        words = [word for word in thing.lower().removesuffix("left behind").split() if word not in ARTICLES]
        plain = " ".join("person" if word in PEOPLE else word for word in words)
        return self.drawn(plain) or plain

    def drawn(self, phrase: str) -> str | None:
        """Return the thing of the drawn world that a phrase means, None if it means none.

        "red lorry" -> "red truck"; "lady with a suitcase" -> "person with a bag"; "cat" -> None.
        """
        head, part = _split(phrase.split())
        thing = self._thing(head)
        if thing is None or not part:
            return thing
        owned = self._thing(_bare(part[1:]))
        if part[0] in _OWNING and owned is not None:
            return f"{thing} with {'an' if owned[0] in 'aeio' else 'a'} {owned}"
        colour = self._colour(part[-1]) if len(part) < 4 else ""
        return f"{colour} {thing}" if colour and " " not in thing else thing

    def without_colour_behind(self, phrase: str) -> str:
        """Return an English phrase without the colours that follow its noun: "box red" -> "box"."""
        words = phrase.split()
        while len(words) > 1 and self._colour(words[-1]) and all(map(_is_english, words)):
            words.pop()
        return " ".join(words)

    def _phrase(self, span: Sequence[str]) -> str:
        """Return the phrase of one thing, "" if nothing but articles is left."""
        head, part = _split(_bare(span))
        if not head:
            return ""
        if len(head) == 1 and head[0].lower() in PEOPLE:
            head = ["person"]
        head = _singular(head)
        found = " ".join([*head, *part])
        if all(_is_english(word) for word in head) or (drawn := self.drawn(found)) is None:
            return found
        return drawn

    def _thing(self, head: Sequence[str]) -> str | None:
        """Return "red truck" for the words "red lorry"; None if their noun is none of the drawn world's."""
        named = [colour for word in head if (colour := self._colour(word))]
        rest = [word for word in head if not self._colour(word)]
        for noun in dict.fromkeys((" ".join(rest), *rest[-1:], *rest[:1])):
            kind = self._kind(noun)
            if kind in KINDS:
                return " ".join([*named[:1], kind])
            if noun.lower() in listed_meanings():
                return None
        return None

    def _colour(self, word: str) -> str:
        meaning = self._meaning(word)
        return meaning if meaning in COLOURS else ""

    def _kind(self, noun: str) -> str:
        meaning = self._meaning(noun)
        return meaning if meaning in KINDS else ""

    def _meaning(self, text: str) -> str:
        """Return what a word means: a kind or a colour of the drawn world, or ""."""
        if not text:
            return ""
        if (listed := listed_meanings().get(text.lower())) is not None:
            return listed
        chances = self._network.meanings(text)
        if chances.max() >= MEANS and chances.argmax() < len(MEANINGS) - 1:
            return MEANINGS[int(chances.argmax())]
        close = get_close_matches(text.lower(), listed_meanings(), 1, CLOSE) if len(text) >= 5 else []
        return listed_meanings()[close[0]] if close else ""


def _stripped(tokens: Sequence[str], begin: int, end: int) -> int:
    """Return the end of a span without prepositions and articles at its end."""
    while end > begin + 1 and tokens[end - 1].lower() in _WITH | ARTICLES:
        end -= 1
    return end


def _bare(span: Sequence[str]) -> list[str]:
    """Return the words without leading articles."""
    found = list(span)
    while len(found) > 1 and found[0].lower() in ARTICLES:
        del found[0]
    return [] if found and found[0].lower() in ARTICLES else found


def _split(span: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the noun with its adjectives, and the part that begins with "with", "in" or the like."""
    place = next((place for place, word in enumerate(span) if place and word.lower() in _WITH), len(span))
    return list(span[:place]), list(span[place:])


def _singular(head: Sequence[str]) -> list[str]:
    """Return the words in the singular: from the word list, else by the English rules for the last word."""
    known = [_singulars().get(word.lower()) for word in head]
    if any(known):
        return [word if one is None else one for word, one in zip(head, known, strict=True)]
    if any(word.lower() in listed_meanings() for word in head):
        return list(head)
    return [*head[:-1], singular(head[-1])]


def singular(word: str) -> str:
    """Return the singular of an English noun by the usual rules: "cars" -> "car", "people" -> "person"."""
    plain = word.lower()
    if plain in _PLURALS:
        return _PLURALS[plain]
    if plain in _SINGULARS or plain.endswith(("ss", "us", "is")):
        return word
    if plain.endswith("men"):
        return f"{word[:-3]}man"
    if plain.endswith(("sses", "xes", "zes", "ches", "shes")):
        return word[:-2]
    if plain.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    return word[:-1] if plain.endswith("s") and len(word) > 3 else word


def _is_english(word: str) -> bool:
    return word.lower() in _english()


@cache
def _english() -> frozenset[str]:
    """The listed English words, in singular and plural, in parts ("traffic cone": "traffic", "cone")."""
    nouns = [text for pair in words().nouns("en") for text in pair]
    colours = [text for by_language in words().colours.values() for text in by_language["en"]]
    return frozenset(word.lower() for text in (*nouns, *colours) for word in text.split())


@cache
def listed_meanings() -> dict[str, str]:
    """What the listed words of all languages mean: a kind or colour, or "". The first language that has a word wins."""
    found: dict[str, str] = {}
    for colour, by_language in words().colours.items():
        for text in (text for texts in by_language.values() for text in texts):
            found.setdefault(text.lower(), colour if colour in COLOURS else "")
    for by_kind in words().things.values():
        for kind, pairs in by_kind.items():
            for text in (text for pair in pairs for text in pair):
                found.setdefault(text.lower(), kind if kind in KINDS else "")
    return found


@cache
def _singulars() -> dict[str, str]:
    """The singular of each listed plural, and of each listed singular itself."""
    found: dict[str, str] = {}
    pairs = [pair for language in words().things for pair in words().nouns(language) if " " not in pair[0]]
    for one, _ in pairs:
        found.setdefault(one.lower(), one)
    for one, many in pairs:
        found.setdefault(many.lower(), one)
    return found
