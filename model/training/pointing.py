"""Train merging to locate things: the patches that show what a question names should get the weight.

The answers alone do not teach this. The language model reads a mean of all patches nearly as well, and maps trained
only by its gradient put hardly more weight on the thing than chance would. But the drawn world knows what each patch
shows.

Input: the store's frames with their labels. Output: a loss whose gradient reaches only the merging maps and their
temperature, so that these follow the projector as it changes.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from model.checkpoint import Checkpoint
from model.network import SigPooling
from model.training.recipe import POINTING
from model.training.store import FeatureStore
from model.world import phrases
from model.world.questions import captions
from model.world.things import COLOURS, KINDS

TEMPERATURE_FLOOR = 0.02
COMPARED_SHARE = 0.6  # share of steps in which frames are compared with another frame, as merging does after a keyframe
NEAR_ROWS = 5
NOTHING = -1
# (names the kind, names the colour) of the texts about a thing in view, and how often each is used.
NAMED = ((True, True), (True, False), (False, True), (False, False))
NAMED_SHARES = (0.7, 0.12, 0.08, 0.1)

Named = tuple[int, int]  # indices of a kind and a colour that a text names; NOTHING: any


@dataclass(frozen=True)
class Pointed:
    """The loss, and the mean share of a frame's merging weights on patches that show what was asked about."""

    total: Tensor
    weight_on_it: float


class Pointing:
    """Computes the loss that trains merging to find what a question names, on `size` random frames of a store."""

    def __init__(self, checkpoint: Checkpoint, store: FeatureStore, seed: Sequence[int], size: int) -> None:
        self.network, self.store, self.size = checkpoint.network, store, size
        maps = self.network.composer
        assert isinstance(maps, SigPooling), "only trained maps can be taught to point"
        self.maps = maps
        self.device = store.patches.device
        self.rng = np.random.default_rng(seed)
        texts = texts_by_name()
        self.names = list(texts)
        ends = np.cumsum([len(group) for group in texts.values()])
        self.places = {name: (int(end) - len(texts[name]), int(end)) for name, end in zip(texts, ends, strict=True)}
        self.texts = self._embed(checkpoint, [text for group in texts.values() for text in group])

    @torch.no_grad()
    def _embed(self, checkpoint: Checkpoint, texts: Sequence[str]) -> Tensor:
        """Return the embeddings of T texts, (T, D), not normalised, without gradient; D is CLIP's embedding width."""
        end = self.network.config.dual_encoder.eos_token_id
        ids = [torch.tensor(checkpoint.clip_tokenizer.encode(text)[0], device=self.device) for text in texts]
        chunks = (pad_sequence(ids[i : i + 256], True, end) for i in range(0, len(ids), 256))
        return torch.cat([self.network.embed_texts(chunk).float() for chunk in chunks])

    def loss(self) -> Pointed:
        """Return a loss that moves the merging weights to the patches showing what a text names.

        It covers frames with a text that names something in view, and any frames with random texts, which mostly name
        nothing there.
        """
        rows = self.rng.integers(self.store.filled, size=4 * self.size)
        shows = (self.store.labels[torch.from_numpy(rows), 0] >= 0).any(1).numpy()
        showing, others = rows[shows][: self.size], rows[: self.size]
        x = self._projected(others)
        texts, truth = self._unfitting(self.store.labels[torch.from_numpy(others)])
        absent = self._log_odds_loss(self._asked(x, texts), truth.to(self.device))
        worst = (F.softplus(self._log_odds(self._asked(x, texts))) * (1 - truth.to(self.device))).amax(1).mean()
        total = 4 * absent.mean() + 0.15 * worst
        if not len(showing):
            return Pointed(total, 0.0)
        x = self._projected(showing)
        texts, truth = self._fitting(self.store.labels[torch.from_numpy(showing)])
        truth = truth.to(self.device)
        asked = self._asked(x, texts)
        log_weights = F.log_softmax((asked - self._alike(x, showing)) / self.maps.tau.clamp(min=TEMPERATURE_FLOOR), -1)
        on_it = torch.logsumexp(log_weights.masked_fill(truth == 0, -torch.inf), -1)
        present = self._log_odds_loss(asked, truth)
        balanced = (present * truth).sum() / truth.sum() + (present * (1 - truth)).sum() / (1 - truth).sum().clamp(
            min=1
        )
        return Pointed(total + 0.5 * balanced - on_it.mean(), float(on_it.detach().exp().mean()))

    def _projected(self, rows: np.ndarray) -> Tensor:
        """Return the projected patches of the frames at n rows of the store, (n, M patches, language width H).

        Without gradient, as only answers train the projector.
        """
        with torch.no_grad():
            return self.network.project(self.store.patches[torch.from_numpy(rows).to(self.device)].float())

    def _asked(self, x: Tensor, texts: Tensor) -> Tensor:
        named = F.normalize(self.maps.linear_q(self.texts[texts.to(self.device)]), dim=-1)
        return torch.einsum("nmh,nh->nm", F.normalize(self.maps.linear_iq(x), dim=-1), named)

    def _alike(self, x: Tensor, rows: np.ndarray) -> Tensor:
        """Return the cosine of each patch with the same patch of another frame: (n frames, M patches).

        The other frame stands for the keyframe before; it is the frame itself or one near it. x (n, M, H): projected
        patches of the frames at `rows` of the store, with language width H.
        """
        other = x
        if self.rng.random() < COMPARED_SHARE:
            near = rows + self.rng.integers(-NEAR_ROWS, NEAR_ROWS + 1, size=len(rows))
            other = self._projected(np.clip(near, 0, self.store.filled - 1))
        return F.cosine_similarity(self.maps.linear_k(other), self.maps.linear_ik(x), dim=-1)

    def _log_odds(self, asked: Tensor) -> Tensor:
        return POINTING["scale"] * asked + POINTING["bias"]

    def _log_odds_loss(self, asked: Tensor, truth: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(self._log_odds(asked), truth, reduction="none")

    def _fitting(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return for each of n frames a random text about something in it, and which patches show that.

        The texts are indices, (n,); the patches (n, M): 1 where one of the frame's M patches shows it, else 0. labels
        (n, 2, M): kind and colour of each patch.
        """
        names = []
        for kinds, colours in labels:
            patches = torch.nonzero(kinds >= 0)[:, 0]
            patch = int(patches[self.rng.integers(len(patches))])
            of_kind, of_colour = NAMED[self.rng.choice(len(NAMED), p=NAMED_SHARES)]
            names.append((int(kinds[patch]) if of_kind else NOTHING, int(colours[patch]) if of_colour else NOTHING))
        return self._texts_of(names), truth_of(names, labels)

    def _unfitting(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return for each of n frames a random text, mostly about something not in it, and which patches show that.

        The texts are indices, (n,); the patches (n, M): 1 where one of the frame's M patches shows it, else 0. labels
        (n, 2, M): kind and colour of each patch.
        """
        names = [self.names[i] for i in self.rng.integers(len(self.names), size=len(labels))]
        return self._texts_of(names), truth_of(names, labels)

    def _texts_of(self, names: Sequence[Named]) -> Tensor:
        return torch.tensor([self.rng.integers(*self.places[name]) for name in names])


def truth_of(names: Sequence[Named], labels: Tensor) -> Tensor:
    """Return which of the M patches of each of n frames show what is named, (n, M) float: 1 or 0.

    names: what is asked about, one for each frame. labels (n, 2, M): kind and colour of each patch, -1 for the
    background.
    """
    wanted = torch.tensor(names)[:, :, None]
    fits = (labels == wanted) | (wanted == NOTHING)
    return (fits.all(1) & (labels[:, 0] >= 0)).float()


def texts_by_name() -> dict[Named, list[str]]:
    """Return descriptions and training questions, grouped by the thing (kind and colour) that they name.

    Questions about the present count as naming a thing of any kind and colour.
    """
    found: defaultdict[Named, list[str]] = defaultdict(list)
    for texts, query in captions():
        if query.second is None:
            kind = NOTHING if query.kind is None else KINDS.index(query.kind)
            found[kind, NOTHING if query.colour is None else COLOURS.index(query.colour)] += texts
    found[NOTHING, NOTHING] += [form.format(at=at) for form in phrases.PRESENT["train"] for at in phrases.AT.values()]
    return dict(found)
