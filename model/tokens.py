"""Text to token ids and back, for the language model and for CLIP, straight from `tokenizer.json`.

In: strings. Out: lists of ids. This file does not know prompts, pictures or torch.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

IMAGE_TOKEN_ID = -200  # where the pictures go; no tokenizer ever makes it
IMAGE_MARK = "<image>"
TURN_END = "<|im_end|>"


class TokenizerMissingError(FileNotFoundError):
    """A checkpoint folder holds no tokenizer that can be read."""


class LanguageTokenizer:
    """Qwen2's byte-level BPE. `stop_ids` end an answer."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: Iterable[int] = ()) -> None:
        self.backend = tokenizer
        turn_end = tokenizer.token_to_id(TURN_END)
        self.stop_ids = frozenset(stop_ids) or frozenset([] if turn_end is None else [turn_end])

    def __len__(self) -> int:
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Ids of the text; chat markers inside it become their single ids."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def encode_prompt(self, prompt: str) -> list[int]:
        """Ids of a prompt, IMAGE_TOKEN_ID at each "<image>": "a<image>b" -> [*ids("a"), -200, *ids("b")]."""
        ids: list[int] = []
        for index, part in enumerate(prompt.split(IMAGE_MARK)):
            ids += ([IMAGE_TOKEN_ID] if index else []) + self.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids without chat markers; bytes that are no UTF-8 come out as U+FFFD."""
        return str(self.backend.decode(list(ids), skip_special_tokens=True))

    def without_markers(self, text: str) -> str:
        """The text with every chat marker in it broken up, so that a question cannot end its own turn."""
        for mark in (IMAGE_MARK, *(token.content for token in self.backend.get_added_tokens_decoder().values())):
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
        return text


class ClipTokenizer:
    """CLIP's lower-cased BPE with begin and end, cut at `max_tokens` (the end token stays)."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        self.backend = tokenizer
        self.max_tokens = max_tokens
        self.backend.no_padding()
        self.backend.enable_truncation(max_tokens)

    def encode(self, text: str) -> tuple[list[int], bool]:
        """(ids with begin and end, whether the text had to be cut)."""
        encoding = self.backend.encode(text)
        return list(encoding.ids), bool(encoding.overflowing)


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read tokenizer.json; where only vocab.json and merges.txt exist, let transformers convert them.

    Raises TokenizerMissingError.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        return Tokenizer.from_file(str(path))
    if not (folder / "vocab.json").is_file():
        raise TokenizerMissingError(f"{folder} holds neither tokenizer.json nor vocab.json with merges.txt")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True).backend_tokenizer
