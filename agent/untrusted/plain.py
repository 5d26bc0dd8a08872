"""Clean untrusted text (a model's answer, a server's error, metadata), so that it cannot control a terminal.

Removed are whole escape sequences (which set colours, titles or the clipboard), other control characters, characters
that change the writing direction, and invisible characters. Kept are line ends, tabs, visible characters of every
language, and the joiners (invisible characters that connect two others) where emoji and some scripts need them. A lone
surrogate (half of a UTF-16 pair) becomes U+FFFD.
"""

import json
import re
import unicodedata
from collections.abc import Callable
from typing import Any, Literal

MAX_STRING = 1024  # longest escape sequence that is removed: one that never ends must not swallow the whole answer
_JOINERS = "\u200c\u200d"
_VARIATION = "\ufe0e\ufe0f"  # variation selectors: show the character before as text, or as emoji
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")  # blank characters outside the category "format"
_PREPENDED = frozenset(
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2"
)  # visible characters, though in the category "format"
_TRANSPARENT = re.compile(r"[\n\t\x20-\x7e]*")
# Control characters that begin a string -> the character after ESC that does the same
_STRINGS = {"\x90": "P", "\x98": "X", "\x9d": "]", "\x9e": "^", "\x9f": "_"}

_State = Literal["text", "escape", "control", "string", "string_escape"]


class PlainText:
    """Cleans text that arrives in pieces. An escape sequence may be split over several pieces.

    Example: feed("a\\x1b[3") gives "a", feed("1mb") then gives "b".
    """

    def __init__(self) -> None:
        self._state: _State = "text"
        self._num_dropped = 0
        self._last = ""  # the last character that was returned
        self._joiner = ""  # a joiner, held back until the next character shows whether it is needed

    def feed(self, piece: str) -> str:
        """Clean the next piece. Return the text that can be shown so far."""
        if self._state == "text" and not self._joiner and _TRANSPARENT.fullmatch(piece):
            self._last = piece[-1:] or self._last
            return piece
        return "".join(map(self._take, piece.replace("\r\n", "\n")))

    def _take(self, char: str) -> str:
        match self._state:
            case "text":
                return self._in_text(char)
            case "escape":
                return self._after_escape(char)
            case "control":
                if "\x20" <= char <= "\x3f":
                    return self._drop(char)
                self._state = "text"
                return "" if "\x40" <= char <= "\x7e" else self._in_text(char)
            case "string":
                return self._in_string(char)
            case "string_escape":
                self._state = "text"
                return "" if char == "\\" else self._after_escape(char)

    def _in_text(self, char: str) -> str:
        if char == "\x1b":
            self._state, self._num_dropped = "escape", 0
        elif char == "\x9b":
            self._state, self._num_dropped = "control", 0
        elif char in _STRINGS:
            self._state, self._num_dropped = "string", 0
        elif char in _JOINERS:
            self._joiner = char if _joins(self._last) else ""
        else:
            kept = _visible(char, self._last)
            if kept:
                held, self._joiner = self._joiner if _joins(kept) else "", ""
                self._last = kept
                return held + kept
        return ""

    def _after_escape(self, char: str) -> str:
        if char == "[":
            self._state = "control"
        elif char in "PX]^_":
            self._state = "string"
        elif "\x20" <= char <= "\x2f":
            self._state = "escape"  # the sequence goes on
            return self._drop(char)
        else:
            self._state = "text"
            return "" if "\x30" <= char <= "\x7e" else self._in_text(char)
        return ""

    def _in_string(self, char: str) -> str:
        if char == "\x1b":
            self._state = "string_escape"
        elif char in "\x07\x9c":
            self._state = "text"
        elif char == "\n":
            self._state = "text"
            return self._in_text(char)
        else:
            return self._drop(char)
        return ""

    def _drop(self, char: str) -> str:
        self._num_dropped += 1
        if self._num_dropped > MAX_STRING:
            self._state = "text"
        return ""


def plain(text: str) -> str:
    """Return `text` without what could control a terminal: escape sequences, control and invisible characters."""
    return PlainText().feed(text)


def plain_line(text: object) -> str:
    """Return `text`, cleaned and on one line, so that it cannot forge a further line of output."""
    return " ".join(plain(str(text)).split())


def plain_json(value: Any, *, default: Callable[[Any], Any] | None = None) -> str:
    """Return `value` as JSON on one line. Characters that `plain` would remove are written as escapes.

    default: as in `json.dumps`.
    """
    text = json.dumps(value, ensure_ascii=False, default=default)
    return text if _TRANSPARENT.fullmatch(text) else "".join(map(_escaped, text))


def plain_value(value: Any) -> Any:
    """Return a copy of a JSON value in which every string is cleaned, including keys."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {plain(str(name)): plain_value(inner) for name, inner in value.items()}
    return [plain_value(inner) for inner in value] if isinstance(value, list) else value


def _escaped(char: str) -> str:
    safe = "\x20" <= char <= "\x7e" or (char not in _JOINERS + _VARIATION and _visible(char, "") == char)
    if safe:
        return char
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[n]:02x}{units[n + 1]:02x}" for n in range(0, len(units), 2))


def _visible(char: str, last: str) -> str:
    """Return the visible form of `char`: itself, a replacement, or "" if it must be removed.

    last: the character before it.
    """
    if "\x20" <= char <= "\x7e" or char in "\n\t":
        return char
    match unicodedata.category(char):
        case "Cc":
            return "\n" if char in "\r\x85" else ""
        case "Cs":
            return "\ufffd"
        case "Cf":
            return char if char in _PREPENDED else ""
    if char in _UNSEEN or "\U000e0000" <= char <= "\U000e0fff":
        return ""
    if "\ufe00" <= char <= "\ufe0f":
        return char if char in _VARIATION and last and last not in "\n\t " else ""
    return char


def _joins(char: str) -> bool:
    """Return whether a joiner beside `char` can change how it looks.

    It can in emoji and in scripts such as Arabic. In Latin, Greek and Cyrillic it cannot, so it would only be
    invisible.
    """
    if not char:
        return False
    marked = char in _VARIATION or unicodedata.category(char) in ("Mn", "Mc", "So", "Sk")
    return marked or "\u0590" <= char <= "\u1fff" or char > "\U00010000"
