"""Token by token from the language model, with its key-value cache; and bytes to text without broken characters.

In: embeddings of the whole prompt. Out: an iterator of token ids, one forward pass each (a clock time is weighed as a whole:
`model.clocks`), which may be closed between any two. This file does not know pictures or prompts.
"""

import codecs
from collections.abc import Collection, Iterator
from itertools import islice

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Qwen2ForCausalLM
from transformers.cache_utils import DynamicCache

from model.clocks import ClockTree

_ROWS_OF_LOGITS = 32  # formed at once
_COLDEST = 1e-3  # a temperature below it is 0


class Decoding:
    """One answer being made. `prefill`, then `step` with each token; each returns the next token's logits (V,).

    `prefill` again begins another answer; what both prompts begin with, the pictures mostly, is not read twice.
    """

    def __init__(self, language_model: Qwen2ForCausalLM) -> None:
        self._model = language_model
        self._cache = DynamicCache()
        self._prompt: Tensor | None = None

    @torch.inference_mode()
    def prefill(self, embeddings: Tensor) -> Tensor:
        """embeddings (L, H) -> logits (V,) float32 of the last position, the only ones that are formed."""
        known = 0 if self._prompt is None else _num_alike(self._prompt, embeddings[:-1])
        self.rewind(self._cache.get_seq_length() - known)
        self._prompt = embeddings
        hidden = self._model.model(
            inputs_embeds=embeddings[None, known:], past_key_values=self._cache, use_cache=True
        ).last_hidden_state
        logits: Tensor = self._model.lm_head(hidden[0, -1]).float()
        return logits

    @torch.inference_mode()
    def step(self, *tokens: int) -> Tensor:
        """What comes after these tokens -> logits (V,) float32."""
        ids = torch.tensor([tokens], device=self._model.lm_head.weight.device)
        hidden = self._model.model(input_ids=ids, past_key_values=self._cache, use_cache=True).last_hidden_state
        logits: Tensor = self._model.lm_head(hidden[0, -1]).float()
        return logits

    def rewind(self, count: int) -> None:
        """Forget the last `count` tokens."""
        if count:
            self._cache.crop(-count)

    @torch.inference_mode()
    def weigh(self, tree: ClockTree, first: Tensor) -> Tensor:
        """Log-likelihood of each text of the tree as what comes next (texts,), in one pass; nothing is kept of it.

        first (V,): the logits here.
        """
        weight = self._model.lm_head.weight
        past, size = self._cache.get_seq_length(), len(tree.tokens)
        hidden_from = torch.zeros(size, past + size, dtype=weight.dtype, device=weight.device)
        hidden_from[:, past:].masked_fill_(~tree.visible.to(weight.device), torch.finfo(weight.dtype).min)
        states = self._model.model(
            input_ids=tree.tokens[None].to(weight.device),
            position_ids=(past + tree.depths)[None].to(weight.device),
            attention_mask=hidden_from[None, None],
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        self.rewind(size)
        odds = []
        for rows in torch.arange(size).split(_ROWS_OF_LOGITS):  # a vocabulary has up to 150,000 words
            parents = tree.parents[rows]
            logits = self._model.lm_head(states[0, parents.clamp(min=0)]).float()
            logits[parents < 0] = first
            odds.append((logits[torch.arange(len(rows)), tree.tokens[rows]] - logits.logsumexp(dim=-1)).cpu())
        return tree.log_likelihoods(torch.cat(odds))


def _num_alike(first: Tensor, second: Tensor) -> int:
    """How many rows both begin with."""
    length = min(len(first), len(second))
    differs = (first[:length] != second[:length]).any(dim=1).nonzero()
    return int(differs[0]) if len(differs) else length


def generate(
    decoding: Decoding,
    embeddings: Tensor,
    *,
    stop_ids: Collection[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int | None = None,
    clocks: ClockTree | None = None,
) -> Iterator[int]:
    """Yield token ids until one of `stop_ids`, which is not yielded, or `max_new_tokens`. Temperature 0 is greedy.

    `clocks`: the only clock times that may be written, see `model.clocks`; None allows any.
    """
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    tokens = _tokens(decoding, embeddings, temperature, generator, stop_ids, clocks)
    yield from islice(tokens, max(max_new_tokens, 0))


def _tokens(
    decoding: Decoding,
    embeddings: Tensor,
    temperature: float,
    generator: torch.Generator,
    stop_ids: Collection[int],
    clocks: ClockTree | None,
) -> Iterator[int]:
    """Tokens without end. What may be the beginning of a clock time is held back until it is certain."""
    logits = before = decoding.prefill(embeddings)
    held: list[int] = []  # and `before`: the logits where they begin
    in_number = False  # behind a digit or a colon that has been given out
    while True:
        token = choose(logits, temperature, generator)
        if clocks is not None and not in_number and clocks.begins([*held, token]):
            before = before if held else logits
            held.append(token)
            logits = decoding.step(token)
        elif clocks is not None and clocks.is_clock([*held, token]):
            decoding.rewind(len(held))
            text = clocks.texts[choose(decoding.weigh(clocks, before), temperature, generator)]
            yield from text
            logits = decoding.step(*text)
            held, in_number = [], True
        else:
            yield from held
            if token in stop_ids:
                return
            yield token
            logits = decoding.step(token)
            held, in_number = [], clocks is not None and token in clocks.symbols


def choose(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    """The likeliest token at temperature 0 (or so near it that logits would overflow), otherwise one drawn from
    softmax(logits / temperature)."""
    if temperature < _COLDEST:
        return int(logits.argmax())
    with torch.inference_mode():
        odds = torch.softmax(logits.cpu() / temperature, dim=-1)
        return int(torch.multinomial(odds, 1, generator=generator))


class TextPieces:
    """Token ids in, text out, as early as it is certain: bytes of an unfinished character wait for the next token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text this token completes; often empty, never half a character."""
        symbols = self._tokenizer.id_to_token(token)
        if symbols is None or token in self._special:
            return ""
        if all(symbol in BYTE_OF_SYMBOL for symbol in symbols):
            raw = bytes(BYTE_OF_SYMBOL[symbol] for symbol in symbols)
        else:
            raw = symbols.encode()
        return self._decoder.decode(raw)

    def finish(self) -> str:
        """What is left at the end: U+FFFD for a character that never became whole."""
        return self._decoder.decode(b"", final=True)


def _byte_of_symbol() -> dict[str, int]:
    """Byte-level BPE writes printable Latin-1 bytes as themselves and the other 68 as U+0100, U+0101, ... in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return table | {chr(0x100 + place): byte for place, byte in enumerate(others)}


BYTE_OF_SYMBOL = _byte_of_symbol()
