"""The word list of the readers: things in singular and plural, colours, numbers and pronouns in nine languages."""

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

LANGUAGES = ("en", "de", "es", "fr", "it", "pt", "nl", "pl", "tr")
KINDS = ("person", "car", "truck", "bicycle", "dog", "bag", "box", "ball", "cone", "door")  # of the drawn world
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")


@dataclass
class Words:
    """The list, read from `data/words.txt`.

    things: by language and kind ("other": none of the drawn world's), pairs of singular and plural. colours: by colour
    and language. fillers: texts for the other slots, by name and language. marked: words that are things by themselves.
    """

    things: dict[str, dict[str, list[tuple[str, str]]]] = field(default_factory=lambda: defaultdict(dict))
    colours: dict[str, dict[str, list[str]]] = field(default_factory=lambda: defaultdict(dict))
    fillers: dict[str, dict[str, list[str]]] = field(default_factory=lambda: defaultdict(dict))
    marked: dict[str, frozenset[str]] = field(default_factory=dict)

    def nouns(self, language: str) -> list[tuple[str, str]]:
        """Return all pairs of singular and plural of a language."""
        return [pair for pairs in self.things[language].values() for pair in pairs]

    @property
    def numbers(self) -> dict[str, int]:
        """The number that each number word of any language means."""
        return self._numbers

    def __post_init__(self) -> None:
        self._numbers: dict[str, int] = {}


@cache
def words() -> Words:
    """Return the word list."""
    found, heading = Words(), [""]
    for line in (files("agent.reading") / "data" / "words.txt").read_text("utf-8").splitlines():
        if line.startswith("## "):
            heading = line[3:].split()
        elif line and not line.startswith("#"):
            _add(found, heading, line)
    for texts in found.fillers["number"].values():
        spelled = list(dict.fromkeys(text for text in texts if not text.isdigit()))
        _number(found.numbers, spelled)
    found.numbers.update({"once": 1, "twice": 2})
    return found


def _add(found: Words, heading: list[str], line: str) -> None:
    if heading[-1] in LANGUAGES:
        kind, language = heading
        if kind == "marked":
            found.marked[language] = frozenset(word.lower() for word in line.split())
        else:
            pairs = [pair.replace("_", " ").split("/") for pair in line.split()]
            found.things[language][kind] = [(one, many) for one, many in pairs]
        return
    for part in line.split(" | "):
        language, _, texts = part.partition(":")
        if heading[0] in COLOURS or heading == ["other", "colour"]:
            found.colours[" ".join(heading)][language.strip()] = texts.split()
        else:
            found.fillers[heading[0]][language.strip()] = [text.strip() for text in texts.split(";")]


def _number(numbers: dict[str, int], spelled: list[str]) -> None:
    """Add the spelled numbers of one language, in order; German "ein" and "eine" both mean one."""
    value = 0
    for word in spelled:
        value += word != "eine"
        numbers.setdefault(word, value)
