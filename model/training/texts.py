"""Choose random descriptions of the drawn world and questions about it, with what each names, for the text encoder."""

import numpy as np
import torch

from model.tokens import ClipTokenizer
from model.training.data import TextBatch, wanted_pairs
from model.training.tokenizers import CLIP_SPECIAL
from model.world.questions import Query, captions


class Texts:
    """Chooses random descriptions and questions, with the things that each names, and turns them into tokens."""

    def __init__(self, tokenizer: ClipTokenizer, device: torch.device, seed: int) -> None:
        self.pool: list[tuple[str, Query]] = [(text, query) for texts, query in captions() for text in texts]
        self.tokenizer, self.device = tokenizer, device
        self.rng = np.random.default_rng(seed)

    def sample(self, size: int) -> TextBatch:
        """Return `size` random descriptions and questions as tokens, with the things that each names."""
        chosen = [self.pool[i] for i in self.rng.integers(len(self.pool), size=size)]
        return self.encode(chosen)

    def encode(self, chosen: list[tuple[str, Query]]) -> TextBatch:
        """Return the texts as padded token ids on the device, with the things that each names."""
        ids = [torch.tensor(self.tokenizer.encode(text)[0]) for text, _ in chosen]
        padded = torch.nn.utils.rnn.pad_sequence(ids, True, self.tokenizer.backend.token_to_id(CLIP_SPECIAL[1]) or 0)
        wanted = torch.from_numpy(np.stack([wanted_pairs(query) for _, query in chosen]))
        return TextBatch(padded.to(self.device), torch.ones_like(padded).to(self.device), wanted.to(self.device))
