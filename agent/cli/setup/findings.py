"""What a check of a set-up found: one line each, with what to do about it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    check: kind of the part, named as in `/readyz`. part: its name, such as "camera gate". words: what was found.
    advice: what to do; "" if nothing is to be done.
    """

    check: str
    part: str
    level: Level
    words: str
    advice: str = ""


def as_json(findings: Iterable[Finding]) -> dict[str, Any]:
    """Return the findings as JSON types. "ok": no finding is an error."""
    listed = list(findings)
    ok = all(each.level != "error" for each in listed)
    return {"object": "doctor", "ok": ok, "findings": [asdict(each) for each in listed]}
