"""Train the networks of our own reader from the patterns in `benchmarks/reader_data/`: `python -m benchmarks.train_reader`.

Takes some minutes on two CPU cores, most of them for the sentence encoder; its vectors are kept in a folder (--cache).
Writes `encoder.npz` and `ngrams.npz` in `agent/reading/data/`. A fifth of the patterns is held out first, to
find by how much the network's probabilities must be scaled to be true.
"""

import argparse
import hashlib
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from agent.reading import network as net
from agent.reading.encoder import SIZE, SentenceEncoder, cleaned
from agent.reading.network import LABELS
from agent.reading.own import NO_THINGS, logit
from agent.reading.things import listed_meanings
from agent.reading.words import LANGUAGES
from agent.reading.words import words as word_list
from benchmarks.reader_examples import Example, Pattern, draw, patterns

DATA = Path(__file__).parents[1] / "agent" / "reading" / "data"
THRESHOLD = 0.4

LETTER_SIZE, WORD_SIZE, HIDDEN = 32, 64, 96
DRAWS = {"en": 8, "de": 5, "es": 4, "fr": 4}
OTHER_DRAWS = 3
TAG_DRAWS = 8
POLITE, POLITE_SHARE = ("en", "de", "es", "fr"), 0.4
EPOCHS, BATCH = 10, 64


class Vectors:
    """The sentence encoder with a cache in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "reading-vectors.npz"
        self._kept: dict[str, np.ndarray] = {}
        if self._path.exists():
            with np.load(self._path) as kept:
                self._kept = dict(zip(kept["keys"].tolist(), kept["vectors"], strict=True))
        self._encoder = SentenceEncoder()

    def of(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors (N, 384) of texts, as float16 kept them."""
        keys = [hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for text in texts]
        for key, text in zip(keys, texts, strict=True):
            if key not in self._kept:
                self._kept[key] = self._encoder.sentence(text).astype(np.float16)
                if len(self._kept) % 2000 == 0:
                    self.save()
        return np.stack([self._kept[key] for key in keys]).astype(np.float32)

    def save(self) -> None:
        """Write the cache."""
        np.savez(self._path, keys=list(self._kept), vectors=np.stack(list(self._kept.values())))


class Model(nn.Module):
    """The network of `agent.reading.network`, to be trained."""

    def __init__(self, *, with_encoder: bool) -> None:
        super().__init__()
        self.with_encoder = with_encoder
        self.letters = nn.EmbeddingBag(net.NUM_BUCKETS, LETTER_SIZE, mode="mean")
        width = LETTER_SIZE + (WORD_SIZE if with_encoder else 0)
        self.first = nn.Conv1d(width, HIDDEN, net.KERNEL, padding=net.KERNEL // 2)
        self.second = nn.Conv1d(HIDDEN, HIDDEN, net.KERNEL, padding=net.KERNEL // 2)
        whole = 2 * HIDDEN + (SIZE if with_encoder else 0)
        self.tags = nn.Linear(HIDDEN, 3)
        sizes = (("kind", LABELS), ("relation", net.RELATIONS), ("place", net.PLACES), ("bound", net.BOUNDS))
        self.heads = nn.ModuleDict({name: nn.Linear(whole, len(labels)) for name, labels in sizes})
        self.drop = nn.Dropout(0.3)

    def tagged(self, batch: "Batch") -> torch.Tensor:
        """Return the logits of the tags (N, words, 3)."""
        logits: torch.Tensor = self.tags(self._hidden(batch).transpose(1, 2))
        return logits

    def _hidden(self, batch: "Batch") -> torch.Tensor:
        """Return what is known of each word in its place: (N, HIDDEN, words)."""
        count, length = batch.mask.shape
        embedded = self.letters(batch.ids, batch.offsets).view(count, length, -1)
        if self.with_encoder:
            embedded = torch.cat([embedded, batch.vectors], dim=2)
        embedded = self.drop(embedded) * batch.mask[:, :, None]
        hidden = torch.relu(self.first(embedded.transpose(1, 2))) * batch.mask[:, None]
        return (hidden + torch.relu(self.second(self.drop(hidden)))) * batch.mask[:, None]

    def forward(self, batch: "Batch") -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return the logits of the heads, each (N, classes), and of the tags (N, words, 3)."""
        hidden = self._hidden(batch)
        tags = self.tags(hidden.transpose(1, 2))
        # the kind must not depend on which things are named: "Lastwagen" is not "last"
        others = batch.mask * (tags.argmax(dim=2) == 0)
        hidden = hidden * others[:, None]
        pooled = [hidden.max(dim=2).values, hidden.sum(dim=2) / others.sum(dim=1, keepdim=True).clamp(min=1)]
        if self.with_encoder:
            pooled.insert(0, batch.sentences)
        whole = self.drop(torch.cat(pooled, dim=1))
        return {name: head(whole) for name, head in self.heads.items()}, tags


@dataclass
class Batch:
    """Examples as tensors, padded to the longest. ids, offsets: the letter groups of each word."""

    ids: torch.Tensor
    offsets: torch.Tensor
    mask: torch.Tensor
    vectors: torch.Tensor
    sentences: torch.Tensor
    tags: torch.Tensor
    labels: dict[str, torch.Tensor]


@dataclass
class Inputs:
    """The scaled sentence vectors of examples, and the projected vectors of words."""

    sentences: np.ndarray
    mean: np.ndarray
    scale: np.float32
    by_word: dict[str, np.ndarray]
    word_mean: np.ndarray
    projection: np.ndarray


def inputs_of(examples: Sequence[Example], vectors: Vectors) -> Inputs:
    """Return the encoder's vectors for examples: sentences centred and scaled, words projected to WORD_SIZE numbers."""
    sentences = vectors.of([cleaned(example.text) for example in examples])
    known = sorted({word.lower() for example in examples for word in example.words if any(map(str.isalpha, word))})
    raw = vectors.of(known)
    vectors.save()
    word_mean = raw.mean(axis=0)
    _, _, axes = np.linalg.svd(raw - word_mean, full_matrices=False)
    projection = (axes[:WORD_SIZE].T / (raw - word_mean).std() / 4).astype(np.float32)
    by_word = dict(zip(known, (raw - word_mean) @ projection, strict=True))
    mean = sentences.mean(axis=0)
    scale = np.float32(1 / (sentences - mean).std() / 2)
    return Inputs((sentences - mean) * scale, mean, scale, by_word, word_mean, projection)


def batch_of(examples: Sequence[Example], sentences: np.ndarray | None, by_word: dict[str, np.ndarray]) -> Batch:
    """Return examples as tensors."""
    length = max(len(example.words) for example in examples)
    ids: list[int] = []
    offsets: list[int] = []
    mask = np.zeros((len(examples), length), np.float32)
    vectors = np.zeros((len(examples), length, WORD_SIZE), np.float32)
    tags = np.full((len(examples), length), -100)
    for row, example in enumerate(examples):
        reads_tags = example.pattern.kind not in ("out of scope", "unclear", "follow-up")
        for place in range(length):
            offsets.append(len(ids))
            if place < len(example.words):
                word = example.words[place]
                ids += net.buckets(word)
                mask[row, place] = 1
                tags[row, place] = example.tags[place] if reads_tags else -100
                if (vector := by_word.get(word.lower())) is not None:
                    vectors[row, place] = vector
            else:
                ids.append(0)
    labels = {
        "kind": [LABELS.index(example.pattern.kind) for example in examples],
        "relation": [_index(net.RELATIONS, example.pattern, "order") for example in examples],
        "place": [_index(net.PLACES, example.pattern, "where") for example in examples],
        "bound": [_index(net.BOUNDS, example.pattern, "count") for example in examples],
    }
    return Batch(
        torch.tensor(ids), torch.tensor(offsets), torch.from_numpy(mask), torch.from_numpy(vectors),
        torch.zeros(0) if sentences is None else torch.from_numpy(sentences), torch.from_numpy(tags),
        {key: torch.tensor(each) for key, each in labels.items()},
    )  # fmt: skip


def _index(names: Sequence[str], pattern: Pattern, kind: str) -> int:
    """Return the place of the pattern's detail, -100 (not trained on) if the pattern is of another kind."""
    return names.index(pattern.detail) if pattern.kind == kind else -100


def train(
    examples: Sequence[Example], given: Inputs | None, seed: int, more: Sequence[Example] = (), epochs: int = EPOCHS
) -> Model:
    """Return a model trained on examples. given: None for the model without the sentence encoder.

    more: examples from which only tags are learnt, as these need no vector of the sentence.
    """
    by_word = {} if given is None else given.by_word
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Model(with_encoder=given is not None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = epochs * -(-len(examples) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    loss_of = nn.CrossEntropyLoss(ignore_index=-100, label_smoothing=0.03)
    for _ in range(epochs):
        order = rng.permutation(len(examples))
        for start in range(0, len(order), BATCH):
            batch = _rows(examples, given, order[start : start + BATCH])
            heads, tags = model(batch)
            loss = torch.zeros(())
            if more:
                extra = batch_of([more[int(row)] for row in rng.integers(len(more), size=BATCH)], None, by_word)
                loss = loss_of(model.tagged(extra).reshape(-1, 3), extra.tags.reshape(-1))
            if (batch.tags >= 0).any():
                loss = loss + loss_of(tags.reshape(-1, 3), batch.tags.reshape(-1))
            for name, logits in heads.items():
                if (batch.labels[name] >= 0).any():
                    loss = loss + (1.0 if name == "kind" else 0.3) * loss_of(logits, batch.labels[name])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def _rows(examples: Sequence[Example], given: Inputs | None, rows: np.ndarray) -> Batch:
    chosen = [examples[row] for row in rows]
    if given is None:
        return batch_of(chosen, None, {})
    return batch_of(chosen, given.sentences[rows], given.by_word)


def drawn(found: Sequence[Pattern]) -> list[Example]:
    """Return examples of all patterns, several of each. A pattern's examples do not depend on the other patterns."""
    examples = {}
    for pattern in found:
        draws = DRAWS.get(pattern.language, OTHER_DRAWS) * (2 if pattern.is_condition else 1)
        for number in range(min(draws, 1 + 2 * (pattern.text.count("|") + pattern.text.count("{")))):
            example = draw(pattern, random.Random(f"{number} {pattern.text}"))
            if example.words:
                examples[example.text, pattern.kind] = example
        rng = random.Random(f"polite {pattern.text}")
        if pattern.language in POLITE and pattern.kind not in ("unclear", "follow-up") and rng.random() < POLITE_SHARE:
            example = draw(pattern, rng, polite=True)
            examples[example.text, pattern.kind] = example
    return list(examples.values())


def drawn_for_tags(found: Sequence[Pattern]) -> list[Example]:
    """Return further examples of the patterns with things, without typos: their words have vectors."""
    kinds = {"out of scope", "unclear", "follow-up"}
    return [
        draw(
            pattern,
            random.Random(f"tags {number} {pattern.text}"),
            polite=number % 4 == 3 and pattern.language in POLITE,
            typos=0,
        )
        for pattern in found
        if pattern.kind not in kinds
        for number in range(TAG_DRAWS)
    ]


def meaning_head(vectors: Vectors, word_mean: np.ndarray, found: Sequence[Example]) -> nn.Linear:
    """Return the classifier of single words: which kind or colour of the drawn world they mean, if any."""
    listed = dict(listed_meanings())
    for example in found:
        for word, tag in zip(example.words, example.tags, strict=True):
            if not tag and len(word) > 1 and word.isalpha():
                listed.setdefault(word.lower(), "")
    texts = sorted(listed)
    inputs = torch.from_numpy(vectors.of(texts) - word_mean)
    labels = torch.tensor([net.MEANINGS.index(listed[text]) for text in texts])
    head = nn.Linear(SIZE, len(net.MEANINGS))
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.05, weight_decay=0.02)
    for _ in range(300):
        loss = nn.functional.cross_entropy(head(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head


def scales_of(examples: Sequence[Example], given: Inputs | None, more: Sequence[Example]) -> dict[str, float]:
    """Return the scales of certainty, found on a fifth of the patterns after training on the others."""
    order = sorted({example.pattern.text for example in examples})
    random.Random(5).shuffle(order)
    held = set(order[: len(order) // 5])
    kept = np.array([example.pattern.text not in held for example in examples])
    rest = [example for example, keep in zip(examples, kept, strict=True) if keep]
    model = train(
        rest,
        None if given is None else replace(given, sentences=given.sentences[kept]),
        1,
        [each for each in more if each.pattern.text not in held],
    )
    rows = np.flatnonzero(~kept)
    facts, right = [], []
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            chosen = rows[start : start + BATCH]
            heads, tags = model(_rows(examples, given, chosen))
            for row, kind, tag in zip(chosen, heads["kind"].softmax(1), tags.softmax(2), strict=True):
                fact, is_right = _judged(examples[row], kind.numpy(), tag.numpy())
                facts.append(fact)
                right.append(is_right)
    facts_, right_ = torch.tensor(facts), torch.tensor(right, dtype=torch.float32)
    weights = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = facts_ @ weights[:2] + weights[2]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, right_) + 1e-3 * (weights**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    certainty = torch.sigmoid(facts_ @ weights.detach()[:2] + weights.detach()[2])
    print(f"{len(rows)} held out: {right_.mean():.1%} right")
    for threshold in (0.3, 0.4, 0.5, 0.6, 0.7):
        sure = certainty >= threshold
        wrong = ((right_ == 0) & sure).float().mean()
        print(f"threshold {threshold}: {sure.float().mean():.1%} answered, {wrong:.1%} wrong")
    kind, tags, bias = (round(float(weight), 3) for weight in weights.detach())
    return {"kind": kind, "tags": tags, "bias": bias, "threshold": THRESHOLD}


def _judged(example: Example, kind: np.ndarray, tags: np.ndarray) -> tuple[list[float], bool]:
    """Return the logits on which certainty rests, and whether kind and things are right."""
    length, label = len(example.words), LABELS[int(kind.argmax())]
    chosen = tags[:length].argmax(axis=1)
    reads_tags = label not in NO_THINGS
    least = float(tags[:length].max(axis=1).min()) if reads_tags else 1.0
    things = not reads_tags or tuple(chosen) == example.tags
    return [logit(float(kind.max())), logit(least)], label == example.pattern.kind and things


def write(model: Model, given: Inputs | None, meaning: nn.Linear | None, path: Path) -> None:
    """Write the weights as float16."""
    parts = {name: weight.numpy() for name, weight in model.state_dict().items()}
    renamed = {name.removeprefix("heads."): weight for name, weight in parts.items()}
    renamed["letters"] = renamed.pop("letters.weight")
    if given is not None and meaning is not None:
        known = sorted(set(given.by_word) & clean_words())
        renamed |= {
            "sentence_mean": given.mean, "sentence_scale": np.array(given.scale), "word_mean": given.word_mean,
            "word_projection": given.projection, "known_vectors": np.stack([given.by_word[word] for word in known]),
            "meaning.weight": meaning.weight.detach().numpy(), "meaning.bias": meaning.bias.detach().numpy(),
        }  # fmt: skip
    halved = {name: np.ascontiguousarray(part.astype(np.float16)) for name, part in renamed.items()}
    if given is not None:
        halved["known_words"] = np.frombuffer("\n".join(known).encode(), np.uint8)
    np.savez(path, **halved)


def clean_words() -> set[str]:
    """Return the words of the patterns and the word list without typos: those whose vectors are kept in the file."""
    rng = random.Random(2)
    examples = [draw(pattern, rng, clean=True) for pattern in patterns() for _ in range(8)]
    nouns = {
        part.lower() for each in LANGUAGES for pair in word_list().nouns(each) for one in pair for part in one.split()
    }
    return nouns | {word.lower() for example in examples for word in example.words}


def main() -> None:
    """Train both networks and write them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "reading-cache")
    parser.add_argument("--only", choices=("encoder", "ngrams"))
    args = parser.parse_args()
    vectors, found, more = Vectors(args.cache), drawn(patterns()), drawn_for_tags(patterns())
    scales_path = DATA / "scales.json"
    scales = json.loads(scales_path.read_text()) if scales_path.exists() else {}
    for name in ("encoder", "ngrams") if args.only is None else (args.only,):
        given = inputs_of(found, vectors) if name == "encoder" else None
        scales[name] = scales_of(found, given, more)
        meaning = None if given is None else meaning_head(vectors, given.word_mean, found)
        write(train(found, given, 0, more), given, meaning, DATA / f"{name}.npz")
        vectors.save()
    scales_path.write_text(json.dumps(scales, indent=1) + "\n")


if __name__ == "__main__":
    main()
