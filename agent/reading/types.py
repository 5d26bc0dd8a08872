"""The types with which a question is understood: what it asks, about which things, cameras and times.

Two readers implement `Reader`: `agent.reading.own` (small trained heads on a sentence encoder) and
`agent.reading.server` (a request to the language model of an OpenAI-compatible server). Times and cameras are found
in the words by `agent.reading.scope`, for both.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

Kind = Literal[
    "present",  # what is there now
    "existence",  # was there a ..., did a ... come
    "when",  # at what time did a ... come
    "first",  # when was a ... seen first
    "last",  # when was a ... seen last
    "count",  # how many, how often
    "list",  # at which times, which ones
    "duration",  # how long was a ... there
    "where",  # on which side, in which room, on which camera
    "order",  # did A come before or after B; which came first
    "compare",  # more in this stretch of time than in that one; what has changed
    "state",  # is the gate open, is the car still there
    "describe",  # what colour, what did it look like, what did somebody do
    "find",  # show me ...
    "overview",  # what happened, anything unusual, summarise
    "follow-up",  # "and then?": means nothing without the question before
    "unclear",  # no question, or not enough to tell which
    "out of scope",  # a question that no camera can answer
]
KINDS: tuple[Kind, ...] = get_args(Kind)
Relation = Literal["before", "after", "before or after", "first", "last", ""]
Place = Literal["", "side", "room", "camera"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a question asks.

    things: the phrases to search by, without article, in the singular: "red car", "person with a box". Two of them for
    `order`. () where the question is about everything that was seen, as "what happened?" is.

    relation: for `order`, how the first thing is compared with the second. place: for `where`, what kind of place the
    words name; "": any. at_least: for `count`, the number of "were there more than two dogs?", which is 3; None: the
    number itself is asked for.

    absent: whether an alert's condition is that the thing is not there.

    certainty: from 0 to 1, how likely kind and things are right. reader: who read it. offers: questions in words that
    would be understood, for `unclear` and `out of scope`.
    """

    kind: Kind
    things: tuple[str, ...] = ()
    relation: Relation = ""
    place: Place = ""
    at_least: int | None = None
    absent: bool = False
    certainty: float = 1.0
    reader: Literal["encoder", "ngrams", "server"] = "encoder"
    offers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CameraNames:
    """A camera, the other names that the configuration gives it, its time zone, and what memory has of it.

    oldest, newest: unix seconds; None: memory has no frame of it.
    """

    name: str
    aliases: tuple[str, ...] = ()
    zone: str = "UTC"
    oldest: float | None = None
    newest: float | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What a reader is told besides the question. now: unix seconds. earlier: the conversation, oldest first.

    earlier: (role, text) of the messages before, where role is "user" or "assistant".
    """

    now: float
    cameras: tuple[CameraNames, ...]
    earlier: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ScopeWords:
    """The cameras and times that the words of a question name.

    cameras: names of cameras, in the order of `Known.cameras`; (): the words name none. after, before: unix seconds;
    None: no bound. words: the phrases that said so, as written: ("last night", "at the gate"). rest: the question
    without these phrases, to be read for its kind and things. problem: why the words cannot be followed, such as "three
    cameras are called 'door': gate, yard, shed"; "": they can.

    time_words: those of the words that name times. others: further stretches of time, where the question compares two:
    "yesterday and today".
    """

    rest: str
    cameras: tuple[str, ...] = ()
    after: float | None = None
    before: float | None = None
    words: tuple[str, ...] = ()
    problem: str = ""
    time_words: tuple[str, ...] = ()
    others: tuple[tuple[float, float], ...] = ()


class Reader(Protocol):
    """Reads questions. Two implementations: `agent.reading.own` and `agent.reading.server`."""

    @property
    def degraded(self) -> str:
        """Why this reader reads worse than it should; "": it does not."""

    async def read(self, text: str, known: Known) -> Reading:
        """Return what the question asks. text: the question, or what `ScopeWords.rest` leaves of it.

        Never fails on odd text. Raises ReadingFailed where a server does not answer in time or not in the schema.
        """


class ReadingFailed(Exception):
    """A reader could not read; another one should."""
