"""Convert text to token ids and back, for the language model and for CLIP, using `tokenizer.json`.

Input: strings. Output: lists of ids. This file knows no prompts, pictures or torch.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer

IMAGE_TOKEN_ID = -200  # placeholder where the visual tokens go; no tokenizer produces this id
IMAGE_MARK = "<image>"
TURN_END = "<|im_end|>"


class TokenizerMissingError(FileNotFoundError):
    """Raised if a checkpoint folder has no readable tokenizer."""


class LanguageTokenizer:
    """Qwen2's byte-level BPE tokenizer. stop_ids: the token ids that end an answer."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: Iterable[int] = ()) -> None:
        self.backend = tokenizer
        turn_end = tokenizer.token_to_id(TURN_END)
        self.stop_ids = frozenset(stop_ids) or frozenset([] if turn_end is None else [turn_end])

    def __len__(self) -> int:
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Return the ids of the text. A chat marker in it becomes its single special id."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def encode_prompt(self, prompt: str) -> list[int]:
        """Return the ids of a prompt, IMAGE_TOKEN_ID for "<image>": "a<image>b" -> [*ids("a"), -200, *ids("b")]."""
        ids: list[int] = []
        for index, part in enumerate(prompt.split(IMAGE_MARK)):
            ids += ([IMAGE_TOKEN_ID] if index else []) + self.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids, without chat markers. Bytes that are not valid UTF-8 become U+FFFD."""
        return str(self.backend.decode(list(ids), skip_special_tokens=True))

    def without_markers(self, text: str) -> str:
        """Return the text with its chat markers broken up, so that a user's question cannot end its own chat turn."""
        for mark in (IMAGE_MARK, *(token.content for token in self.backend.get_added_tokens_decoder().values())):
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
        return text


class ClipTokenizer:
    """CLIP's lower-cased BPE tokenizer. Adds the begin and end tokens, and cuts at max_tokens, keeping the end token."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        self.backend = tokenizer
        self.max_tokens = max_tokens
        self.backend.no_padding()
        self.backend.enable_truncation(max_tokens)

    def encode(self, text: str) -> tuple[list[int], bool]:
        """Return (ids with the begin and end tokens, whether the text was cut)."""
        encoding = self.backend.encode(text)
        return list(encoding.ids), bool(encoding.overflowing)


class TextTokenizer(Protocol):
    """Converts a question to the token ids of a dual encoder's text tower."""

    def encode(self, text: str) -> tuple[list[int], bool]:
        """Return (token ids, whether the text was cut)."""


class PaddedTokenizer:
    """SigLIP's way: lower case, cut to max_tokens, and padded to that length with the pad token."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        """tokenizer: transformers' tokenizer of the checkpoint."""
        self._tokenizer, self._max_tokens = tokenizer, max_tokens

    def encode(self, text: str) -> tuple[list[int], bool]:
        """Return (token ids, whether the text was cut)."""
        whole = self._tokenizer(text.lower())["input_ids"]
        padded = self._tokenizer(text.lower(), padding="max_length", truncation=True, max_length=self._max_tokens)
        return list(padded["input_ids"]), len(whole) > self._max_tokens


def read_text_tokenizer(folder: Path, max_tokens: int, *, padded: bool) -> TextTokenizer:
    """Return the tokenizer of a dual encoder. padded: it belongs to SigLIP. Raises TokenizerMissingError."""
    if not padded:
        return ClipTokenizer(read_tokenizer(folder), max_tokens)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model", "tokenizer.model")):
        raise TokenizerMissingError(f"{folder} holds neither tokenizer.json nor spiece.model")
    from transformers import AutoTokenizer

    return PaddedTokenizer(AutoTokenizer.from_pretrained(str(folder), local_files_only=True), max_tokens)


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read tokenizer.json. If only vocab.json and merges.txt exist, let transformers convert them.

    Raises TokenizerMissingError if neither can be read.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        return Tokenizer.from_file(str(path))
    if not (folder / "vocab.json").is_file():
        raise TokenizerMissingError(f"{folder} holds neither tokenizer.json nor vocab.json with merges.txt")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True).backend_tokenizer
