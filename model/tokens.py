"""Text to token ids and back, for the language model and for CLIP, straight from `tokenizer.json`.

In: strings. Out: lists of ids. This file does not know prompts, pictures or torch.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

IMAGE_TOKEN_ID = -200  # where the pictures go; no tokenizer ever makes it
IMAGE_MARK = "<image>"
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"

_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class TokenizerMissing(FileNotFoundError):
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

    Raises TokenizerMissing.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        return Tokenizer.from_file(str(path))
    if not (folder / "vocab.json").is_file():
        raise TokenizerMissing(f"{folder} holds neither tokenizer.json nor vocab.json with merges.txt")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True).backend_tokenizer


def train_language_tokenizer(corpus: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of Qwen2's form; the three chat markers are the last ids, as in the published one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_QWEN_WORDS), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    markers = [AddedToken(text, special=True, normalized=False) for text in (END_OF_TEXT, TURN_START, TURN_END)]
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=vocab_size - len(markers), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    ))
    tokenizer.add_special_tokens(markers)
    return tokenizer


def train_clip_tokenizer(corpus: Iterable[str], vocab_size: int) -> Tokenizer:
    """A BPE of CLIP's form; begin and end are the last two ids (the end token is the largest id)."""
    tokenizer = Tokenizer(models.BPE(unk_token=CLIP_END, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase(),
    ])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Every letter must also exist as the end of a word, or a rare word would lose its last letter.
    alphabet = {token: index for index, token in enumerate([*letters, *(letter + "</w>" for letter in letters)])}
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return _with_markers(tokenizer, alphabet)


def _with_markers(tokenizer: Tokenizer, alphabet: dict[str, int]) -> Tokenizer:
    """Rebuild the trained BPE over the complete alphabet and add CLIP's begin and end tokens."""
    trained = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in trained["merges"]]
    vocab = dict(alphabet)
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    tokenizer.model = models.BPE(
        vocab=vocab, merges=merges, unk_token=CLIP_END, end_of_word_suffix="</w>"
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (CLIP_START, CLIP_END)])
    tokenizer.post_processor = processors.RobertaProcessing(
        (CLIP_END, tokenizer.token_to_id(CLIP_END)), (CLIP_START, tokenizer.token_to_id(CLIP_START)),
        trim_offsets=False, add_prefix_space=False,
    )
    return tokenizer
