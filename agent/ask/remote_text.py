"""Extract the answer from a server's text: drop what its model thought, and the control marks of its chat template.

Models that think first write their thoughts between marks (`<think>...</think>`), and some write the closing mark alone, as
their template has written the other one. A template that does not fit the model lets its control tokens through
(`<|im_end|>`). Pure: pieces of text in, pieces of the answer out.
"""

import re

from agent.untrusted.wire import whole_text

HELD_CHARS = 1000  # held back of a server's first answer, which may turn out to be a thought
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
# Any character but spaces, control characters and invisible ones: joiners, directions, fillers, variation selectors, tags
_VISIBLE = re.compile(
    "[^\\s\x00-\x1f\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202f\u205f-\u206f"
    "\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
_BEGINS = re.compile(f"{_VISIBLE.pattern}|[\x1b\x80-\x9f]")  # escape sequences are kept whole: they are removed later


class ThoughtsShown(ValueError):
    """The text passed on so far was a thought, not the answer: the mark that ends thoughts came after it."""


class Speech:
    """Reads the text of one answer.

    thought: the model has thought. aloud: it marked only the end of its thoughts, so the beginning looked like an answer.
    """

    def __init__(self, *, held_chars: float = 0, aloud: bool = False) -> None:
        """held_chars: hold back so many characters, as they may be a thought. aloud: hold back everything."""
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
        """Whether there is any text that may be an answer."""
        return bool(self._held)

    def hear(self, text: str) -> str:
        """Add a piece of text and return what can be passed on now. Raises ThoughtsShown."""
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
        """End the answer and return its last piece. was_cut: the server reached its token limit, maybe within a thought."""
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
        """The text without half characters (lone surrogates). A half at the end waits for its other half."""
        text, self._half = self._half + text, ""
        if not _HALVES.search(text):
            return text
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return whole_text(text)


def is_visible(text: str) -> bool:
    """Whether a reader would see anything: spaces, line breaks and zero-width characters do not count."""
    return _VISIBLE.search(text) is not None
