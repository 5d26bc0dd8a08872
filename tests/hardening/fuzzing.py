"""Helpers of the fuzzers: damaged texts, odd JSON, a check for growing memory, and the outcome."""

import gc
import json
import logging
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.hardening.command import Counts

ODD_NUMBERS = ("0", "-1", "1", "65535", "65536", "4294967296", "-2147483649", "1e309", "9" * 40, "9" * 5000, "0x1", "")
ODD_TEXTS = (
    "",
    " ",
    "\x00",
    "\u202e",
    "\ud800",
    "\U0001f600",
    "a" * 300,
    "%s%n",
    "../..",
    "'\"<>",
    "\r",
    "\u2028",
    "\t",
)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def mangled(rng: random.Random, text: str, others: Sequence[str], most: int = 4) -> str:
    """Make one to `most` changes to the lines and characters of `text`; inserted lines come from `others`."""
    lines = text.split("\r\n")
    for _ in range(rng.randint(1, most)):
        place = rng.randrange(len(lines))
        line = lines[place]
        match rng.randrange(10):
            case 0:
                del lines[place]
            case 1:
                lines.insert(rng.randrange(len(lines) + 1), line)
            case 2:
                lines[place] = line[: rng.randint(0, len(line))]
            case 3:
                lines.insert(place, rng.choice(rng.choice(others).split("\r\n")))
            case 4:
                other = rng.randrange(len(lines))
                lines[place], lines[other] = lines[other], line
            case 5:
                at = rng.randint(0, len(line))
                lines[place] = line[:at] + rng.choice(ODD_TEXTS) + line[at:]
            case 6:
                words = line.split(" ")
                words[rng.randrange(len(words))] = rng.choice(ODD_NUMBERS)
                lines[place] = " ".join(words)
            case 7:
                at = rng.randrange(len(line)) if line else 0
                lines[place] = line[:at] + chr(rng.randrange(1, 0x250)) + line[at + 1 :]
            case 8:
                head, colon, tail = line.partition(":")
                lines[place] = head + colon + rng.choice((*ODD_NUMBERS, *ODD_TEXTS)) if colon else tail
            case _:
                lines[place:place] = [line] * rng.choice((2, 10, 100))
        lines = lines or [""]
    return "\r\n".join(lines)


def odd_json(rng: random.Random, depth: int = 3) -> str:
    """Draw a text that is almost JSON, or JSON with odd values."""
    kind = rng.randrange(10 if depth else 7)
    if kind == 0:
        return rng.choice(("NaN", "Infinity", "-Infinity", "null", "true", "false", "undefined", ""))
    if kind in (1, 2):
        return rng.choice(ODD_NUMBERS)
    if kind in (3, 4):
        return json.dumps(rng.choice(ODD_TEXTS))
    if kind in (5, 6):
        return str(rng.uniform(-1e6, 1e6))
    values = [odd_json(rng, depth - 1) for _ in range(rng.randint(0, 4))]
    if kind == 7:
        return "[" + ",".join(values) + "]"
    if kind == 8:
        return "{" + ",".join(f"{json.dumps(rng.choice(ODD_TEXTS))}:{value}" for value in values) + "}"
    return rng.choice(("[", '{"a":')) * rng.choice((20, 3000))


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


class Errors(logging.Handler):
    """Collects log records that show a defect: errors with a traceback."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.texts.append(self.format(record))


@dataclass
class Outcome:
    """The outcome of a fuzzer. `failures`: inputs that were not answered correctly, with what happened."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    grown_bytes: int = 0

    def told(self, most_grown_bytes: int) -> Counts:
        """Return the counts for `command.main`. Memory that grew by more than `most_grown_bytes` is a failure."""
        grown = [f"memory grew by {self.grown_bytes} bytes"] if self.grown_bytes > most_grown_bytes else []
        return {**self.counts, "grown_bytes": self.grown_bytes, "failures": [*self.failures[:20], *grown]}


class Growth:
    """Growth of resident memory after the first fifth of the inputs."""

    def __init__(self, count: int) -> None:
        self._settled_at, self._settled, self._before = count // 5, False, resident_bytes()

    def note(self, number: int) -> None:
        """Note that input `number` is done."""
        if not self._settled and number >= self._settled_at:
            self._settled = True
            gc.collect()
            self._before = resident_bytes()

    def bytes(self) -> int:
        """Return the growth so far."""
        gc.collect()
        return resident_bytes() - self._before
