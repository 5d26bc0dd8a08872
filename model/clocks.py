"""Restrict clock times in an answer to those that the language model was shown.

A small language model knows which frame a question means, but makes mistakes in copying its time digit by digit
("29:39:22"). So when an answer begins a clock time, every time in the prompt is scored as a whole, by the product of
the likelihoods of its tokens, and the most likely one is written. One forward pass scores them all: the times form a
tree of tokens that share common beginnings, and the attention mask lets each token attend only to its own ancestors.
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
    """The clock times of a prompt as a tree of T tokens, in which common beginnings are stored once.

    texts: the tokens of each time, without duplicates; tokens (T,): the token ids; depths (T,): of each token in the
    tree, from 0; parents (T,): index of the token before, -1 for the first of a time; visible (T, T) bool: whether the
    row's token attends to the column's; ends: index of each text's last token.
    """

    texts: tuple[tuple[int, ...], ...]
    tokens: Tensor
    depths: Tensor
    parents: Tensor
    visible: Tensor
    ends: tuple[int, ...]
    symbols: Mapping[int, str]  # character of each token that can be part of a time

    def begins(self, tokens: Sequence[int]) -> bool:
        """Return whether a clock time may begin with these tokens, such as those of 1, 12, 12: or 12:3."""
        return _BEGINNING.fullmatch(self._text(tokens)) is not None

    def is_clock(self, tokens: Sequence[int]) -> bool:
        """Return whether these tokens can only be the beginning of a clock time, such as those of 12:34."""
        return _CLOCK.fullmatch(self._text(tokens)) is not None

    def _text(self, tokens: Sequence[int]) -> str:
        return "".join(self.symbols.get(token, " ") for token in tokens)

    def log_likelihoods(self, log_odds: Tensor) -> Tensor:
        """Return the log-likelihood of each clock time in the tree, (times,).

        log_odds (T,): for each of the T tokens of the tree, the log-likelihood that it follows its parent.
        """
        return torch.where(self.visible, log_odds, 0.0).sum(1)[list(self.ends)]


def clock_tree(clocks: Iterable[str], encode: Callable[[str], list[int]]) -> ClockTree | None:
    """Return the tree of these times ("12:34:56").

    Returns None if there are no times, or if the tokenizer does not split them into characters; answers are then not
    restricted.
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
    """Return the tree of the tokens of these clock times, with common beginnings stored once.

    (1, 2), (1, 3) share 1 -> tokens 1, 2, 3 with parents -1, 0, 0. symbols: the character of each token.
    """
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
