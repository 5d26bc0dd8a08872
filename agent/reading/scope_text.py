"""Text of a question in a form in which words for cameras and times are found, whatever its accents and case."""

import re
import unicodedata
from functools import lru_cache

WORD = re.compile(r"[^\W\d_]+")


def cleaned(text: str) -> str:
    """Return the text without characters that nobody sees, and with a space for each control character.

    Accents are joined with their letters. The result is never longer.
    """
    shown = "".join(
        " " if unicodedata.category(each) in ("Cc", "Zl", "Zp", "Zs") else each
        for each in text
        if unicodedata.category(each) not in ("Cf", "Cs")
    )
    joined = unicodedata.normalize("NFC", shown)
    return joined if len(joined) <= len(shown) else shown


def folded(text: str) -> str:
    """Return the text of the same length in lower case, without accents, and with ASCII digits and apostrophes."""
    return "".join(map(_fold, text))


@lru_cache(maxsize=4096)
def _fold(character: str) -> str:
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    if character in "’‘ʼ`´":
        return "'"
    base = unicodedata.normalize("NFD", character)[0].lower()
    return base if len(base) == 1 else character


def folded_words(text: str) -> tuple[str, ...]:
    """Return the words and numbers of a text, folded; "cam_01" has the two "cam" and "1"."""
    return tuple(each.lstrip("0") or each for each in re.findall(r"[^\W\d_]+|\d+", folded(text)))


def is_one_letter_off(given: str, name: str) -> bool:
    """Return whether `given` is `name` with one letter missing, added, wrong (not the first), or two exchanged."""
    if abs(len(given) - len(name)) > 1 or given == name:
        return given == name
    start = 0
    while start < min(len(given), len(name)) and given[start] == name[start]:
        start += 1
    tail, other = given[start:], name[start:]
    if len(given) == len(name):
        wrong = start > 0 and tail[1:] == other[1:]
        return wrong or (len(tail) > 1 and tail[0] == other[1] and tail[1] == other[0] and tail[2:] == other[2:])
    return tail[1:] == other if len(given) > len(name) else tail == other[1:]
