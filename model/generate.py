"""Generate tokens with the language model and its key-value cache, and turn them into text.

Input: the embeddings of a whole prompt. Output: an iterator of token ids, which may be closed at any time. Each id
takes one forward pass, except that a clock time such as 14:05:20 is chosen whole, in one pass (`model.clocks`). This
file does not build prompts and knows no pictures.
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

_ROWS_OF_LOGITS = 32  # computed at once; a vocabulary has up to 150,000 entries
_COLDEST = 1e-3  # a lower temperature counts as 0


class Decoding:
    """The language model's state while it writes an answer: call `prefill` with the prompt, then `step` with each
    token.

    Each returns the next token's logits (V,), one for each of the V tokens of the vocabulary. Calling `prefill` again
    begins another answer; the part that both prompts begin with, mostly the visual tokens, is taken from the cache.
    """

    def __init__(self, language_model: Qwen2ForCausalLM) -> None:
        self._model = language_model
        self._cache = DynamicCache()
        self._prompt: Tensor | None = None

    @torch.inference_mode()
    def prefill(self, embeddings: Tensor) -> Tensor:
        """Process the embeddings of a prompt of L tokens, (L, H) with language width H.

        Returns the logits of the token that follows, float32, (V,): one for each token of the vocabulary.
        """
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
        """Append these tokens. Return the logits (V,) float32, one for each of the V tokens that may follow."""
        ids = torch.tensor([tokens], device=self._model.lm_head.weight.device)
        hidden = self._model.model(input_ids=ids, past_key_values=self._cache, use_cache=True).last_hidden_state
        logits: Tensor = self._model.lm_head(hidden[0, -1]).float()
        return logits

    def rewind(self, count: int) -> None:
        """Drop the last `count` tokens from the cache."""
        if count:
            self._cache.crop(-count)

    @torch.inference_mode()
    def weigh(self, tree: ClockTree, first: Tensor) -> Tensor:
        """Return the log-likelihood of each clock time of the tree as a continuation, (times,), in one forward pass.

        Leaves the cache unchanged. first (V,): the logits of the next token, for each of the V tokens of the
        vocabulary.
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
        for rows in torch.arange(size).split(_ROWS_OF_LOGITS):  # in parts, to save memory
            parents = tree.parents[rows]
            logits = self._model.lm_head(states[0, parents.clamp(min=0)]).float()
            logits[parents < 0] = first
            odds.append((logits[torch.arange(len(rows)), tree.tokens[rows]] - logits.logsumexp(dim=-1)).cpu())
        return tree.log_likelihoods(torch.cat(odds))


def _num_alike(first: Tensor, second: Tensor) -> int:
    """Return how many rows at the beginning of two tensors are equal."""
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
    """Yield the answer's token ids, at most `max_new_tokens`. Stops before the first of `stop_ids`.

    temperature: 0 always chooses the most likely token. clocks: the only clock times that may be written
    (`model.clocks`); None allows any.
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
    """Yield the answer's token ids until one of `stop_ids` comes, which is not yielded. The caller limits their number.

    embeddings: of the prompt. clocks: the clock times, such as 14:05:20, that the answer may contain; None allows any.
    Tokens that may begin a clock time are held back until it is certain whether they do. If so, they are replaced by
    the time of `clocks` that the model finds most likely there (with a temperature, by one drawn at random).
    """
    logits = before = decoding.prefill(embeddings)
    held: list[int] = []  # tokens that may begin a clock time; `before`: the logits before the first of them
    in_number = False  # the last token yielded was a digit or colon, so no clock time can begin here
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
    """Return a token chosen at random with the probabilities softmax(logits / temperature).

    At temperature 0, or so near it that the division would overflow, return the most likely token.
    """
    if temperature < _COLDEST:
        return int(logits.argmax())
    with torch.inference_mode():
        odds = torch.softmax(logits.cpu() / temperature, dim=-1)
        return int(torch.multinomial(odds, 1, generator=generator))


class TextPieces:
    """Turns token ids into text as early as possible. Bytes of an incomplete UTF-8 character wait for the next token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Return the text that this token completes: often "", never a part of a character."""
        symbols = self._tokenizer.id_to_token(token)
        if symbols is None or token in self._special:
            return ""
        if all(symbol in BYTE_OF_SYMBOL for symbol in symbols):
            raw = bytes(BYTE_OF_SYMBOL[symbol] for symbol in symbols)
        else:
            raw = symbols.encode()
        return self._decoder.decode(raw)

    def finish(self) -> str:
        """Return the text left at the end of the answer: U+FFFD if the last character is incomplete, else ""."""
        return self._decoder.decode(b"", final=True)


def _byte_of_symbol() -> dict[str, int]:
    """Return the byte for which each symbol stands in the vocabulary of a byte-level BPE tokenizer.

    Printable Latin-1 bytes stand for themselves, the other 68 are written as U+0100, U+0101, ... in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return table | {chr(0x100 + place): byte for place, byte in enumerate(others)}


BYTE_OF_SYMBOL = _byte_of_symbol()
