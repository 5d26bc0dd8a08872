"""Split a question into words and punctuation marks."""

import unicodedata


def tokens_of(text: str) -> list[str]:
    """Return the words and punctuation marks of a text: "who's there?" -> ["who's", "there", "?"]."""
    found, word = [], ""
    for letter in f"{text} ":
        if (
            letter.isalnum()
            or (word and letter in "-'\N{RIGHT SINGLE QUOTATION MARK}_")
            or unicodedata.combining(letter)
        ):
            word += letter
            continue
        if word:
            found.append(word.rstrip("-'_"))
        word = ""
        if not letter.isspace():
            found.append(letter)
    return [each for each in found if each]
