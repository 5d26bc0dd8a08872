"""Put a question that was read into the words that the built-in model was trained on.

That model answers reliably only in these words, about the things and colours of the drawn world. So its answers do not
depend on how a question was phrased.
"""

from collections.abc import Callable
from dataclasses import replace

from agent.reading.own import LEFT_BEHIND
from agent.reading.types import Reading

Drawn = Callable[[str], str | None]


def in_plain_words(reading: Reading, drawn: Drawn) -> tuple[Reading, str]:
    """Return the reading about things of the drawn world, and the question in the model's words; "": it has none.

    drawn: returns the thing of the drawn world that a phrase means, None if it means none; such a phrase stays.
    """
    if any(thing.endswith(LEFT_BEHIND) for thing in reading.things):
        return replace(reading, things=()), "what was left behind?"
    reading = replace(reading, things=tuple(drawn(thing) or thing for thing in reading.things))
    if reading.kind in ("present", "state"):
        # what is there now: of one thing, whether the newest picture shows it
        return (replace(reading, kind="state"), _now(reading.things[0])) if reading.things else _all_now(reading)
    if reading.kind == "order":
        return reading, _order(reading)
    return reading, _of_one(reading, reading.things[0]) if reading.things else ""


def _all_now(reading: Reading) -> tuple[Reading, str]:
    return reading, "what is here now?" if reading.kind == "present" else ""


def _now(thing: str) -> str:
    return f"did any {thing} {come(thing)}?"


def _order(reading: Reading) -> str:
    if len(reading.things) < 2:
        return ""
    first, second = reading.things
    return f"did the {first} come before or after the {second}?"


def _of_one(reading: Reading, thing: str) -> str:
    """Return the question about one thing, "" where the model knows none of the kind."""
    a = with_article(thing)
    match reading.kind:
        case "existence" | "find":
            return f"did any {thing} {come(thing)}?"
        case "when" | "list" | "duration" | "first":
            return f"when did the {thing} {come(thing)}?"
        case "last":
            return f"when was {a} last seen?"
        case "count" | "compare":
            return f"how many times did {a} {come(thing)}?"
        case "where":
            return f"in which room was the {thing}?" if reading.place == "room" else f"where was the {thing}?"
        case "describe":
            return f"what colour was the {thing.split(' with ')[0].split()[-1]}?"
        case _:
            return ""


def come(thing: str) -> str:
    """Return what the thing does when it comes: a door opens."""
    return "open" if thing.split()[-1] in ("door", "gate", "window") else "come"


def with_article(thing: str) -> str:
    """Return the thing with "a" or "an"."""
    return f"{'an' if thing[:1] in tuple('aeio') else 'a'} {thing}"
