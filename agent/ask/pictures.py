"""What a frame's metadata says of where it was taken, in a few words for a language model.

In: the JSON object that a publisher sent with the frame. Out: one short line, "" where it says nothing. Whatever else the
object holds stays out of the prompt. Pure.
"""

from collections.abc import Mapping
from typing import Any

MAX_ZONE_CHARS = 60
MAX_NUMBER = 1e9


def whereabouts(metadata: Mapping[str, Any]) -> str:
    """{"zone": "hall", "x": 12.5, "y": 3, "heading": 90} -> "hall, x 12.5 m, y 3 m, heading 90 degrees".

    x and y in metres and only together, as for `within`; a zone is cut at 60 characters and put on one line.
    """
    found = [zone] if (zone := _zone(metadata.get("zone"))) else []
    x, y, heading = (_number(metadata.get(name)) for name in ("x", "y", "heading"))
    if x and y:
        found.append(f"x {x} m, y {y} m")
    if heading:
        found.append(f"heading {heading} degrees")
    return ", ".join(found)


def _zone(value: object) -> str:
    if not isinstance(value, str):
        return ""
    printable = "".join(c if c.isprintable() else " " for c in value)
    return " ".join(printable.split())[:MAX_ZONE_CHARS].rstrip()


def _number(value: object) -> str:
    """At most two decimals: "12.5", "3"; "" for what is no number or no sensible one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MAX_NUMBER:
        return ""
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")  # + 0.0: no minus before a zero
