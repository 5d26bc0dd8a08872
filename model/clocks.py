"""Restrict clock times in an answer to those that the language model was shown.

A small language model knows which frame a question means, but makes mistakes in copying its time digit by digit
("29:39:22"). So when an answer begins a clock time, all times it was shown are compared as a whole, and the one with the highest
likelihood (the product over its tokens) is written. One forward pass scores them all, as a tree of tokens in which each token
sees only its own beginning.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_SYMBOLS = "0123456789:"
_CLOCK = re.compile(r"\d{1,2}:\d\d")
_BEGINNING = re.compile(r"\d{1,2}(?::\d?)?")


@dataclass(frozen=True)
class ClockTree:
    """`texts`: the tokens of each time, none twice. The tree has T tokens: `tokens` (T,), `depths` (T,) from 0, `parents` (T,)
    with -1 for the first token of a time, `visible` (T, T) bool: does row see column; `ends`: where a text has its last."""

    texts: tuple[tuple[int, ...], ...]
    tokens: Tensor
    depths: Tensor
    parents: Tensor
    visible: Tensor
    ends: tuple[int, ...]
    symbols: Mapping[int, str]  # the tokens that times are written with

    def begins(self, tokens: Sequence[int]) -> bool:
        """Whether a clock time may begin with these tokens: 1, 12, 12:, 12:3."""
        return _BEGINNING.fullmatch(self._text(tokens)) is not None

    def is_clock(self, tokens: Sequence[int]) -> bool:
        """Whether these tokens are certainly the beginning of a clock time: 12:34."""
        return _CLOCK.fullmatch(self._text(tokens)) is not None

    def _text(self, tokens: Sequence[int]) -> str:
        return "".join(self.symbols.get(token, " ") for token in tokens)

    def log_likelihoods(self, log_odds: Tensor) -> Tensor:
        """Log-likelihood of each text, (texts,), from that of each token after its parent, (T,)."""
        return torch.where(self.visible, log_odds, 0.0).sum(1)[list(self.ends)]


def clock_tree(clocks: Iterable[str], encode: Callable[[str], list[int]]) -> ClockTree | None:
    """The tree of these times ("12:34:56").

    None if there are no times, or if the tokenizer does not split them into characters: answers are then left as they are.
    """
    ids = {symbol: encode(symbol) for symbol in _SYMBOLS}
    if any(len(tokens) != 1 for tokens in ids.values()):
        return None
    texts = sorted(set(clocks))
    written = [tuple(ids[symbol][0] for symbol in text if symbol in ids) for text in texts]
    if not texts or any(tuple(encode(text)) != tokens for text, tokens in zip(texts, written, strict=True)):
        return None
    return tree_of(written, {tokens[0]: symbol for symbol, tokens in ids.items()})


def tree_of(texts: Sequence[tuple[int, ...]], symbols: Mapping[int, str]) -> ClockTree:
    """The tree of token lists, sharing common beginnings: (1, 2), (1, 3) -> tokens 1, 2, 3 with parents -1, 0, 0."""
    nodes: dict[tuple[int, ...], int] = {}
    parents: list[int] = []
    for text in texts:
        for length in range(1, len(text) + 1):
            if text[:length] not in nodes:
                nodes[text[:length]] = len(parents)
                parents.append(nodes.get(text[: length - 1], -1))
    visible = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            visible[node] |= visible[parent]
    return ClockTree(
        tuple(texts),
        torch.tensor([beginning[-1] for beginning in nodes]),
        torch.tensor([len(beginning) - 1 for beginning in nodes]),
        torch.tensor(parents),
        visible,
        tuple(nodes[text] for text in texts),
        symbols,
    )
