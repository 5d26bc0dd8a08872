"""Extract the answer from the text that a server streams: remove the model's reasoning and its control tokens.

A reasoning model writes its reasoning, here called thoughts, before the answer, between marks (`<think>...</think>`).
Some models write the closing mark alone, because their chat template has already written the opening one. If the server
uses a chat template that does not fit the model, control tokens such as `<|im_end|>` appear in the text. This module
does no input or output.
"""

import re

from agent.untrusted.wire import whole_text

HELD_CHARS = 1000  # so much of a server's first answer is held back, as it may turn out to be a thought
_MAX_MARK_CHARS = 48
_THOUGHT = "(?:think|thinking|thought|reasoning)"
_MARK = re.compile(
    rf"(?P<open><{_THOUGHT}>|\[think\]|◁think▷)"
    rf"|(?P<close></{_THOUGHT}>|\[/think\]|◁/think▷)"
    r"|(?P<end><\|(?:im_end|endoftext|eot_id|eom_id|end|end_of_text|end_of_turn|return)\|>|</s>|<eos>|<end_of_turn>"
    r"|<｜end▁of▁sentence｜>)"
    r"|(?P<control><\|[\w-]{1,40}\|>|<s>|<bos>|<pad>|<start_of_turn>|<｜[\w▁]{1,40}｜>)",
    re.IGNORECASE,
)
_MAYBE_MARK = re.compile(r"[<\[◁][/|｜\w▁-]{0,44}\Z")
_HALVES = re.compile("[\ud800-\udfff]")
# Any character but spaces, control characters and invisible ones (joiners, directions, fillers, variation selectors...)
_VISIBLE = re.compile(
    "[^\\s\x00-\x1f\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202f\u205f-\u206f"
    "\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
_BEGINS = re.compile(f"{_VISIBLE.pattern}|[\x1b\x80-\x9f]")  # escape sequences are kept whole: they are removed later


class ThoughtsShown(ValueError):
    """The mark that ends a model's reasoning came, so the text passed on before it was reasoning, not the answer."""


class Speech:
    """Extracts the answer from the text of one reply, piece by piece.

    thought: the reply contains thoughts. aloud: it marked only the end of its thoughts, so that they looked like an
    answer at first.
    """

    def __init__(self, *, held_chars: float = 0, aloud: bool = False) -> None:
        """held_chars: hold back so many characters at first, as they may be a thought.

        aloud: the model is known to mark only the end of its thoughts, so hold back everything until that mark.
        """
        self.thought = False
        self.aloud = False
        self._held_chars = float("inf") if aloud else held_chars
        self._expects_thoughts = aloud
        self._half = ""  # half of a character; the other half comes with the next piece
        self._rest = ""  # text that may be the beginning of a mark
        self._held: list[str] = []
        self._num_held = 0
        self._is_speaking = False  # something has been passed on
        self._in_thought = self._has_ended = False

    @property
    def has_begun(self) -> bool:
        """Whether any text has come that may belong to the answer and not to the model's reasoning."""
        return bool(self._held)

    def hear(self, text: str) -> str:
        """Add a piece of the reply and return the part of the answer that can be passed on now, "" if none can.

        Raises ThoughtsShown if what was passed on before was a thought.
        """
        self._rest += self._whole(text)
        shown: list[str] = []
        while not self._has_ended and (mark := _MARK.search(self._rest)):
            if not self._in_thought:
                shown.append(self._rest[: mark.start()])
            self._rest = self._rest[mark.end() :]
            self._pass_mark(mark.lastgroup, shown)
        if self._has_ended:
            self._rest = ""
        elif self._in_thought:
            self._rest = self._rest[-_MAX_MARK_CHARS:]
        else:
            begins = found.start() if (found := _MAYBE_MARK.search(self._rest)) else len(self._rest)
            shown.append(self._rest[:begins])
            self._rest = self._rest[begins:]
        return self._release("".join(shown))

    def end(self, *, was_cut: bool = False) -> str:
        """End the reply and return the last piece of the answer.

        was_cut: the reply ended at the token limit, maybe in the middle of a thought.
        """
        if was_cut and self._expects_thoughts and not self.thought:
            self.thought = True
            return ""
        rest = (
            ""
            if self._in_thought or self._has_ended
            else self._rest + ("\N{REPLACEMENT CHARACTER}" if self._half else "")
        )
        self._held_chars = 0
        return self._release(rest)

    def _pass_mark(self, kind: str | None, shown: list[str]) -> None:
        if kind == "open":
            self._in_thought = self.thought = True
        elif kind == "close" and self._in_thought:
            self._in_thought = False
        elif kind == "close":
            self.thought = self.aloud = True
            if self._is_speaking:
                raise ThoughtsShown
            shown.clear()
            self._held.clear()
            self._num_held = 0
            self._held_chars = 0
        elif kind == "end":
            self._has_ended = not self._in_thought

    def _release(self, text: str) -> str:
        if self._is_speaking:
            return text
        if not self._held:
            begins = _BEGINS.search(text)
            text = text[begins.start() :] if begins else ""
        if text:
            self._held.append(text)
            self._num_held += len(text)
        if not self._held or self._num_held < self._held_chars:
            return ""
        self._is_speaking = True
        return "".join(self._held)

    def _whole(self, text: str) -> str:
        """Return the text without lone surrogates (half characters). One at the end is kept for the next piece."""
        text, self._half = self._half + text, ""
        if not _HALVES.search(text):
            return text
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return whole_text(text)


def is_visible(text: str) -> bool:
    """Return whether the text has a visible character: any but spaces, line breaks and zero-width characters."""
    return _VISIBLE.search(text) is not None
