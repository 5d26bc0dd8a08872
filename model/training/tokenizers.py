"""Train the two small tokenizers of the built-in model, in the published checkpoint's file formats.

Input: texts of the drawn world. Output: a folder that `Qwen2Tokenizer` loads (for the language model) and one that
`CLIPTokenizer` loads (for the text encoder). Both are byte-level BPE, so that they can encode any text. Digits are
single tokens, so that clock times can be copied digit by digit.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

# The pre-tokenizers of Qwen2 and of CLIP, as the formats require.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CLIP_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CLIP_SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def train_language_tokenizer(texts: Iterable[str], folder: Path, vocab_size: int, context_tokens: int) -> int:
    """Train the language model's tokenizer on the texts and write its files to the folder. Return the number of ids.

    They are tokenizer.json, vocab.json, merges.txt and tokenizer_config.json.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    _train(tokenizer, texts, vocab_size - len(QWEN_SPECIAL), end_of_word=None)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in QWEN_SPECIAL])
    config = {
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": context_tokens,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    return _write(tokenizer, folder, config)


def train_clip_tokenizer(texts: Iterable[str], folder: Path, vocab_size: int, context_tokens: int) -> int:
    """Train the text encoder's tokenizer on the texts and write its files to the folder. Return the number of ids.

    It lower-cases texts, `</w>` ends a word, and it adds start and end tokens.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, texts, vocab_size - len(CLIP_SPECIAL), end_of_word="</w>")
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=True) for token in CLIP_SPECIAL])
    start, end = (int(tokenizer.token_to_id(token) or 0) for token in CLIP_SPECIAL)
    tokenizer.post_processor = processors.RobertaProcessing(
        (CLIP_SPECIAL[1], end), (CLIP_SPECIAL[0], start), False, False
    )
    config = {
        "bos_token": CLIP_SPECIAL[0],
        "clean_up_tokenization_spaces": False,
        "eos_token": CLIP_SPECIAL[1],
        "errors": "replace",
        "model_max_length": context_tokens,
        "pad_token": CLIP_SPECIAL[1],
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": CLIP_SPECIAL[1],
    }
    return _write(tokenizer, folder, config)


def _train(tokenizer: Tokenizer, texts: Iterable[str], vocab_size: int, end_of_word: str | None) -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    if end_of_word is None:
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=letters, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        return
    # CLIP needs a token for every byte inside and at the end of a word, or rare text would become the unknown token. They
    # are added before training: if the trainer adds them, their ids, and so the merges, differ from run to run.
    scratch = Tokenizer.from_str(tokenizer.to_str())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*letters, *(letter + end_of_word for letter in letters)],
        end_of_word_suffix=end_of_word,
        show_progress=False,
    )
    scratch.train_from_iterator(texts, trainer)
    trained = json.loads(scratch.to_str())["model"]
    tokenizer.model = models.BPE(
        vocab=trained["vocab"],
        merges=[tuple(merge) for merge in trained["merges"]],
        unk_token=CLIP_SPECIAL[1],
        end_of_word_suffix=end_of_word,
    )


def _write(tokenizer: Tokenizer, folder: Path, config: Mapping[str, object]) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))  # vocab.json and merges.txt
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return int(tokenizer.get_vocab_size())
