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
