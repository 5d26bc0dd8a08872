"""Check a model's own words before they are shown: their type against the question's kind, their times against pictures.

A kind of question that has a short answer of one type (a number, a time, yes or no) is held back until it is whole. An
answer of another type is refused. Words of other kinds are passed on as they come. Pure text work, in English, German,
Spanish and French; what is not understood passes.
"""

import re
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing

from agent.ask.question import Question, Seen, Step
from agent.errors import NoAnswer
from agent.reading.types import Kind, Reading
from agent.times import load_zone, local_moment

NEAR_S = 60.0  # a time without seconds may be so far from a picture's
NEAR_HOUR_S = 1800.0  # a time on the hour or half hour is a round one
ALMOST_S = 1.0  # a time with seconds
MAX_MARKED = 5
DOES_NOT_FIT = "The model's answer does not fit the question"
SURE = 0.5  # an answer is not refused for a question that may have been misread

_CLOCK = re.compile(
    r"(?<![\d:.])(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?(?![\d:])"
    r"(?:\s*(?P<half>[ap])\.?m\b\.?)?",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"\d|\b(?:zero|one|once|two|twice|thrice|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozens?|several|many|few|"
    r"both|a|an|single|some|"
    r"null|ein\w*|zwei\w*|drei\w*|vier\w*|fünf\w*|sechs\w*|sieben\w*|acht\w*|neun\w*|zehn\w*|mehrere|viele|wenige|beide|"
    r"cero|un[oa]?s?|dos|tres|cuatro|cinco|seis|siete|ocho|nueve|diez|varios|varias|much[oa]s|poc[oa]s|"
    r"zéro|une|deux|trois|quatre|cinq|sept|huit|neuf|dix|plusieurs|beaucoup|quelques)\b",
    re.IGNORECASE,
)
_NONE = re.compile(
    r"\b(?:no|none|not|never|nobody|nothing|neither|unclear|unknown|cannot|can't|couldn't|unable|don't|doesn't|didn't|isn't|"
    r"kein\w*|nicht\w*|nie\w*|unklar|nein|ningun[oa]?|ningún|nada|nadie|nunca|aucun\w*|pas|jamais|personne|rien|non)\b",
    re.IGNORECASE,
)
_TIME = re.compile(
    r"\d|\b(?:ago|now|today|yesterday|tonight|morning|noon|midday|afternoon|evening|night|midnight|dawn|dusk|hours?|minutes?|"
    r"seconds?|o'clock|monday|tuesday|wednesday|thursday|friday|saturday|sunday|"
    r"jetzt|heute|gestern|mittag\w*|morgen\w*|abend\w*|nacht\w*|uhr|vor\w*|stunden?|minuten?|sekunden?|"
    r"ahora|hoy|ayer|mañana|tarde|noche|mediodía|horas?|minutos?|segundos?|hace|"
    r"maintenant|aujourd'hui|hier|matin|midi|après-midi|soir|nuit|heures?|secondes?)\b",
    re.IGNORECASE,
)
_SPAN = re.compile(
    rf"{_NUMBER.pattern}|\b(?:always|all|whole|entire|throughout|brief\w*|long|moments?|half|immer|ganz\w*|kurz|lange?|"
    r"siempre|tod[oa]|breve|toujours|tout|toute|bref)\b",
    re.IGNORECASE,
)
_SIDE = re.compile(
    r"(?:on|at|in|to|auf|a|à|en)?\s*(?:the|der|la|le)?\s*(?:left|right|middle|cent(?:er|re)|links?|rechts?|mitte|izquierda|"
    r"derecha|centro|gauche|droite|milieu)(?:\s+(?:side|seite|of the picture))?",
    re.IGNORECASE,
)
_YES_NO = re.compile(r"(?:yes|no|ja|nein|sí|si|oui|non)", re.IGNORECASE)
_BARE_NUMBER = re.compile(r"\d{1,6}|(?:zero|one|two|three|four|five|six|seven|eight|nine|ten)", re.IGNORECASE)
_BARE_CLOCK = re.compile(rf"(?:at |um |a las |à )?{_CLOCK.pattern}", re.IGNORECASE)
_EDGES = " \t\n\"'*_`.!…"

# What an answer to a question of a kind must hold (or say that it does not know), and what it may not be all of.
_MUST: dict[Kind, re.Pattern[str]] = {"count": _NUMBER, "when": _TIME, "first": _TIME, "last": _TIME, "duration": _SPAN}
_ONE_WORD: dict[str, re.Pattern[str]] = {
    "a side": _SIDE,
    "yes or no": _YES_NO,
    "a number": _BARE_NUMBER,
    "a time": _BARE_CLOCK,
}
_MAY_NOT: dict[Kind, tuple[str, ...]] = {
    "count": ("a side", "a time"),
    "existence": ("a side", "a number", "a time"),
    "state": ("a side", "a number", "a time"),
    "when": ("a side", "yes or no"),
    "first": ("a side", "yes or no"),
    "last": ("a side", "yes or no"),
    "duration": ("a side", "yes or no"),
    "where": ("yes or no", "a number", "a time"),
    "order": ("a side", "a number", "a time"),
}
_WANTED: dict[Kind, str] = {
    "count": "a number",
    "existence": "yes or no",
    "state": "yes or no",
    "when": "a time",
    "first": "a time",
    "last": "a time",
    "duration": "how long",
    "where": "a place",
    "order": "which came first",
}
CHECKED = frozenset(_MAY_NOT)
"""Kinds whose answers are held back until they are whole."""


class DoesNotFit(NoAnswer):
    """The model's answer is of another type than the question asks for; the message says which."""


def type_problem(kind: Kind, text: str) -> str | None:
    """Return why an answer is of the wrong type for a question's kind; None: it fits, or cannot be judged.

    "left" for a count -> "it should say a number, and is a side". "I cannot tell" fits every kind.
    """
    words = text.strip(_EDGES)
    for name in _MAY_NOT.get(kind, ()):
        if _ONE_WORD[name].fullmatch(words):
            return f"it should say {_WANTED[kind]}, and is {name}"
    must = _MUST.get(kind)
    if must is not None and not must.search(words) and not _NONE.search(words):
        return f"it should say {_WANTED[kind]}, and does not"
    return None


async def checked(
    pieces: AsyncGenerator[str | Step | Seen, None],
    reading: Reading,
    question: Question,
    seen: Seen | None,
    zone_of: Callable[[str], str],
) -> AsyncGenerator[str | Step | Seen, None]:
    """Yield what `pieces` yields, and a last piece that marks times at which no picture was looked at.

    The text of a kind in CHECKED comes at the end, whole. seen: the evidence, unless `pieces` yields it. Raises
    DoesNotFit if the answer is of another type than the question asks for.
    """
    kind: Kind = reading.kind if reading.certainty >= SURE else "unclear"
    held: list[str] = []
    spoken: list[str] = []
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, Seen):
                seen = piece
            if not isinstance(piece, str):
                yield piece
                continue
            spoken.append(piece)
            if kind in CHECKED:
                held.append(piece)
            else:
                yield piece
    text = "".join(spoken)
    if text.strip() and (why := type_problem(kind, text)) is not None:
        raise DoesNotFit(f"{DOES_NOT_FIT}: {why}. Ask again, or in other words.")
    for piece in held:
        yield piece
    if seen is not None:
        times = [(each.time, each.camera) for each in seen.evidence]
        times += [(time, each.camera) for each in seen.visits for time in (each.start, each.peak, each.end)]
        said = [question.text, *(each.text for each in question.earlier)]
        if marked := mark(unseen_times(text, times, said, zone_of)):
            yield f"\n\n({marked}.)"


def unseen_times(
    text: str, times: Iterable[tuple[float, str]], known: Sequence[str], zone_of: Callable[[str], str]
) -> list[str]:
    """Return the clock times in an answer at which no picture was looked at, as written, each once.

    times: unix seconds and camera of what was seen. known: texts whose times the answer may repeat, such as the
    question. A time without seconds may differ by a minute; a full or half hour is taken for a round time.
    """
    seconds = [_second_of_day(time, zone_of(camera)) for time, camera in times]
    repeated = {_seconds(found) for each in known for found in _CLOCK.finditer(each)}
    unseen: dict[str, None] = {}
    for found in _CLOCK.finditer(text):
        at = _seconds(found)
        near_s = ALMOST_S if found["second"] else NEAR_HOUR_S if found["minute"] in ("00", "30") else NEAR_S
        if at not in repeated and not any(_apart(at, each) <= near_s for each in seconds):
            unseen[found[0].strip(" .")] = None
    return list(unseen)[:MAX_MARKED]


def mark(unseen: Sequence[str]) -> str:
    """Return the sentence that marks times at which no picture was looked at; "" if there is none."""
    if not unseen:
        return ""
    return f"no picture that was looked at is from {' or '.join(unseen)}"


def _second_of_day(time: float, zone: str) -> int:
    moment = local_moment(time, load_zone(zone))
    return (moment.hour * 60 + moment.minute) * 60 + moment.second


def _seconds(found: re.Match[str]) -> int:
    hour, minute, second = int(found["hour"]), int(found["minute"]), int(found["second"] or 0)
    if half := (found["half"] or "").lower():
        hour = hour % 12 + (12 if half == "p" else 0)
    return (hour * 60 + minute) * 60 + second


def _apart(one: int, other: int) -> int:
    """Return the seconds between two times of day, across midnight where that is shorter."""
    apart = abs(one - other)
    return min(apart, 86_400 - apart)
