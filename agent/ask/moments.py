"""Times that people type as options: numbers, ISO 8601, and the words that the questions understand, too."""

from agent.reading.scope import read_moment
from agent.times import PartsOfDay, parse_time


def moment_of(text: str, *, now: float, zone: str, parts: PartsOfDay, latest: bool = False) -> float:
    """Return the unix seconds that a text means in `zone`: "half an hour ago", "2pm", "this morning", "-24h".

    A stretch of time means its beginning. latest: of a local time that occurs twice, the second one. Raises TimeError.
    """

    def in_words(words: str) -> float | None:
        return read_moment(words, now=now, zone=zone, parts=parts, latest=latest)

    return parse_time(text, now=now, zone=zone, latest=latest, in_words=in_words)
