"""Make training data on demand in worker processes: single labelled frames, and whole histories with questions.

All pictures are of the drawn world, synthetic scenes painted by `model.world`. A history is the frames of a scene, one
a second; a window is a part of it, with questions about just that part. Workers paint and degrade pictures on CPU cores
and hand over uint8 arrays; everything else happens on the device. A worker's data depends only on (seed, worker
number), so runs with the same seed and number of workers see the same data.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from model.training.recipe import GRID_SIDE, IMAGE_SIDE
from model.world.codec import Codec, random_codec, through_codec
from model.world.draw import camera_faults, draw, jpeg
from model.world.questions import Query, Question, clear_view, present_question, questions
from model.world.scene import Scene, patch_labels
from model.world.things import COLOURS, KINDS

# Frames are drawn at the shape of camera pictures and resized to the encoders' square input, as live frames are.
DRAW_SIZES = ((192, 108), (176, 99), (224, 126), (160, 120))
CODEC_SHARE = 0.5
WINDOW_FRAMES = (
    1, 2, 3, 4, 5, 6, 6, 8, 10, 12, 16, 16, 24, 32, 40, 50, 64, 64, 80, 100, 120, 150, 200, 240, 300, 360, 400, 500, 600, 600,
)  # fmt: skip
LONG_WINDOW_FRAMES = (900, 1500, 2500, 3000, 3000)
# Number of clearly visible things -> share of windows that end at such a moment, for questions about the present. Left to
# chance, nearly all moments would be empty, and too few would show two things for a model to learn to name them.
ENDINGS = {2: 0.45, 1: 0.2}
# A glimpse is a few frames of a scene that end with one or two things in view. Many glimpses of many scenes show more such
# pairs than one long scene. GLIMPSE_SHARE: share of the histories from MixedHistories that consist of glimpses. Such a
# history has 120 short windows where another has 7, so two thirds of all short windows are glimpses.
GLIMPSE_SHARE = 0.1
GLIMPSES = 120  # glimpses in one history, about as long together as another history
GLIMPSE_FRAMES = 5
GLIMPSE_APART_S = 12
GLIMPSES_OF_ONE_SCENE = {2: 3, 1: 2}  # things in view -> most glimpses of one scene


@dataclass(frozen=True)
class FrameBatch:
    """A batch of B single frames with labels for the whole frame and for each of its M patches.

    pairs (B, kinds, colours) bool: whether a thing of this kind and colour is visible; kinds, colours (B, M) int64: of
    what each patch shows, -1 for the background.
    """

    pairs: Tensor
    kinds: Tensor
    colours: Tensor


@dataclass(frozen=True)
class TextBatch:
    """A batch of T texts, padded to L tokens, with what they name.

    ids, mask (T, L) int64; wanted (T, kinds, colours) bool: the things (kind and colour) of which an image must show
    one.
    """

    ids: Tensor
    mask: Tensor
    wanted: Tensor

    def truth(self, pairs: Tensor) -> Tensor:
        """Return whether each of B images shows a thing that each of T texts names: (B, T) bool.

        pairs (B, kinds, colours) bool: which things (kind and colour) each image shows.
        """
        return torch.einsum("bkc,tkc->bt", pairs.float(), self.wanted.float()) > 0


def wanted_pairs(query: Query) -> np.ndarray:
    """Return which things a query names, as a table (kinds, colours) of bool.

    "red car" gives one cell, "the truck" a row; a question about the order of two things gives both.
    """
    wanted = np.zeros((len(KINDS), len(COLOURS)), bool)
    kinds = range(len(KINDS)) if query.kind is None else [KINDS.index(query.kind)]
    colours = range(len(COLOURS)) if query.colour is None else [COLOURS.index(query.colour)]
    wanted[np.ix_(list(kinds), list(colours))] = True
    return wanted | wanted_pairs(query.second) if query.second is not None else wanted


def squash(picture: np.ndarray) -> np.ndarray:
    """Resize a picture as the vision tower's preprocessing does, with a bicubic filter, to a square of S x S pixels.

    (height, width, 3) uint8 -> (S, S, 3) uint8.
    """
    return np.asarray(Image.fromarray(picture).resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC))


def pictures_at(
    scene: Scene, times: Sequence[float], size: tuple[int, int], rng: np.random.Generator, codec: Codec | None
) -> Iterator[np.ndarray]:
    """Yield pictures of a scene at rising times as the encoders take them: S x S pixels, (S, S, 3) uint8.

    Each picture is painted, passed through camera faults, the codec (None: no codec) and JPEG, and resized.
    """
    seen = (camera_faults(draw(scene, t, *size), rng) for t in times)
    sent = seen if codec is None else through_codec(seen, codec)
    return (squash(jpeg(picture, rng)) for picture in sent)


def drawn_codec(rng: np.random.Generator) -> Codec | None:
    """Return a random video codec and bit rate in half of all calls, None (no codec) in the others."""
    return random_codec(rng) if rng.random() < CODEC_SHARE else None


class Frames(IterableDataset[dict[str, Tensor]]):
    """Yields labelled batches of single frames without end, mostly of moments when something is visible."""

    def __init__(self, seed: int, batch: int, *, empty_share: float = 0.08, per_scene: int = 128) -> None:
        self.seed, self.batch = seed, batch
        self.empty_share, self.per_scene = empty_share, per_scene

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        rng = np.random.default_rng([self.seed, _worker()])
        rows: list[tuple[np.ndarray, ...]] = []
        while True:
            rows += self._scene_rows(rng)
            while len(rows) >= self.batch:
                # rows of several scenes were shuffled together, so a batch mixes scenes
                yield _stack(rows[: self.batch])
                rows = rows[self.batch :]
            rng.shuffle(rows)

    def _scene_rows(self, rng: np.random.Generator) -> list[tuple[np.ndarray, ...]]:
        scene = Scene.from_seed(int(rng.integers(1 << 40)), duration_s=240.0, density=2.5)
        size = DRAW_SIZES[rng.integers(len(DRAW_SIZES))]
        # in time order, for the painter's cache and for the codec
        times = np.sort(rng.uniform(0, scene.duration_s, self.per_scene)).tolist()
        pairs = [visible_pairs(scene, t) for t in times]
        kept = [i for i in range(len(times)) if pairs[i].any() or rng.random() < self.empty_share]
        pictures = pictures_at(scene, [times[i] for i in kept], size, rng, drawn_codec(rng))
        rows: list[tuple[np.ndarray, ...]] = []
        for i, picture in zip(kept, pictures, strict=True):
            kinds, colours = patch_labels(scene, times[i], GRID_SIDE)
            rows.append((picture, kinds.ravel(), colours.ravel(), pairs[i]))
        return rows


def visible_pairs(scene: Scene, t: float) -> np.ndarray:
    """Return which things are visible in a scene at second t, as a table (kinds, colours) of bool.

    An open door counts as a thing, a closed one does not.
    """
    pairs = np.zeros((len(KINDS), len(COLOURS)), bool)
    for v in scene.visible_at(t):
        if v.action != "closed":
            pairs[KINDS.index(v.kind), COLOURS.index(v.colour)] = True
    return pairs


def _stack(rows: Sequence[tuple[np.ndarray, ...]]) -> dict[str, Tensor]:
    images, kinds, colours, pairs = (torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))
    return {"images": images, "kinds": kinds, "colours": colours, "pairs": pairs}


@dataclass(frozen=True)
class Window:
    """A part of a history, with questions: its frames from `start` up to, not including, `stop`.

    The answers to its questions hold for just these frames. start_unix: clock time of the history's frame 0.
    """

    start: int
    stop: int
    start_unix: float
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class History:
    """N frames, one a second, of one scene or of short pieces of many scenes, with windows (questions) and labels.

    images (N, S, S, 3) uint8: pictures of S x S pixels; labels (N, 2, M) int8: kind and colour of each of a frame's M
    patches, -1 for the background.
    """

    images: Tensor
    windows: tuple[Window, ...]
    labels: Tensor


class Histories(IterableDataset[History]):
    """Yields histories (frames with questions about parts of them) without end, each of one scene."""

    def __init__(
        self, seed: int, num_frames: int, window_frames: Sequence[int], *, per_window: int, density: float
    ) -> None:
        self.seed, self.num_frames, self.window_frames = seed, num_frames, tuple(window_frames)
        self.per_window, self.density = per_window, density

    def __iter__(self) -> Iterator[History]:
        rng = np.random.default_rng([self.seed, _worker()])
        while True:
            yield self._history(rng)

    def _history(self, rng: np.random.Generator) -> History:
        scene = Scene.from_seed(int(rng.integers(1 << 40)), duration_s=float(self.num_frames), density=self.density)
        size = DRAW_SIZES[rng.integers(len(DRAW_SIZES))]
        seconds = [float(t) for t in range(self.num_frames)]
        images = np.stack(list(pictures_at(scene, seconds, size, rng, drawn_codec(rng))))
        counts = things_in_view(scene, self.num_frames)
        windows = []
        for length in self.window_frames:
            start = window_stop(rng, counts, length) - length
            start_unix = float(rng.integers(1_600_000_000, 1_900_000_000))
            times = np.arange(start, start + length, dtype=np.float64)
            asked = questions(scene, start_unix, times, rng, "train")
            kept = [asked[i] for i in rng.permutation(len(asked))[: self.per_window]]
            windows.append(Window(start, start + length, start_unix, tuple(kept)))
        return History(torch.from_numpy(images), tuple(windows), labels_at(scene, seconds))


def labels_at(scene: Scene, times: Sequence[float]) -> Tensor:
    """Return what the M patches of the frames at n seconds of a scene show: kind and colour, (n, 2, M) int8.

    -1 stands for the background.
    """
    labels = [np.stack(patch_labels(scene, t, GRID_SIDE)).reshape(2, -1) for t in times]
    return torch.from_numpy(np.stack(labels))


def glimpses(rng: np.random.Generator) -> History:
    """Return a history of GLIMPSES short pieces of many scenes, one after another, each with a question about its end.

    Each such glimpse is a few frames of some scene; the question is about what is visible in the last of them. Other
    questions are not used, because their proof is given in seconds of the scene and not of this history.
    """
    images: list[np.ndarray] = []
    windows: list[Window] = []
    labels: list[Tensor] = []
    while len(windows) < GLIMPSES:
        scene = Scene.from_seed(int(rng.integers(1 << 40)), duration_s=600.0, density=float(rng.uniform(1.0, 3.0)))
        size, codec = DRAW_SIZES[rng.integers(len(DRAW_SIZES))], drawn_codec(rng)
        for last in glimpse_seconds(rng, things_in_view(scene, 600)):
            start_unix = float(rng.integers(1_600_000_000, 1_900_000_000))
            asked = present_question(scene, float(last), start_unix, rng, "train")
            assert asked is not None, "a glimpse ends at a moment that is clear to see"
            seconds = [float(last - back) for back in reversed(range(GLIMPSE_FRAMES))]
            images += pictures_at(scene, seconds, size, rng, codec)
            labels.append(labels_at(scene, seconds))
            length = int(rng.integers(1, GLIMPSE_FRAMES + 1))
            windows.append(Window(len(images) - length, len(images), start_unix, (asked,)))
    return History(torch.from_numpy(np.stack(images)), tuple(windows), torch.cat(labels))


def glimpse_seconds(rng: np.random.Generator, counts: np.ndarray) -> list[int]:
    """Return a few seconds of a scene at which one or two things are in view, to show a few frames around each.

    For each number of things, there is at most one second in every GLIMPSE_APART_S. counts (N,): number of things in
    view at each of the scene's N seconds.
    """
    found: list[int] = []
    for number, most in GLIMPSES_OF_ONE_SCENE.items():
        seconds = rng.permutation(np.flatnonzero(counts == number))
        seconds = seconds[seconds >= GLIMPSE_FRAMES - 1]
        _, one_each = np.unique(seconds // GLIMPSE_APART_S, return_index=True)
        found += rng.permutation(seconds[one_each])[:most].tolist()
    return found


class MixedHistories(Histories):
    """Yields histories without end: mostly of ten minutes, some of fifty, some made of short pieces of many scenes."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, 600, WINDOW_FRAMES, per_window=24, density=1.0)

    def _history(self, rng: np.random.Generator) -> History:
        if rng.random() < GLIMPSE_SHARE:
            return glimpses(rng)
        if rng.random() < 0.05:
            self.num_frames, self.window_frames, self.density = 3000, LONG_WINDOW_FRAMES, 0.7
        else:
            self.num_frames, self.window_frames, self.density = 600, WINDOW_FRAMES, float(rng.uniform(0.7, 1.5))
        return super()._history(rng)


def things_in_view(scene: Scene, num_frames: int) -> np.ndarray:
    """Return how many things are clearly visible at each of num_frames seconds of a scene, int64.

    0 also if the view is unclear: a thing is half hidden, or there are too many.
    """
    seconds = np.arange(num_frames, dtype=np.float64)
    shows = scene.may_show(seconds)
    return np.array(
        [len(clear_view(scene, t) or ()) if may else 0 for t, may in zip(seconds.tolist(), shows, strict=True)]
    )


def window_stop(rng: np.random.Generator, counts: np.ndarray, length: int) -> int:
    """Return a random frame before which a window of `length` frames stops, often after a moment with things in view.

    counts (N,): number of things in view at each of the N seconds of the history.
    """
    wanted = rng.choice([*ENDINGS, -1], p=[*ENDINGS.values(), 1 - sum(ENDINGS.values())])
    stops = np.flatnonzero(counts == wanted) + 1
    stops = stops[stops >= length]
    return int(rng.choice(stops)) if len(stops) else int(rng.integers(length, len(counts) + 1))


def loader(dataset: IterableDataset[Any], num_workers: int) -> Iterator[Any]:
    """Yield the dataset's items as the workers make them. Each item is a whole batch already."""
    return iter(
        DataLoader(
            dataset,
            batch_size=None,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            prefetch_factor=4 if num_workers else None,
        )
    )


def _worker() -> int:
    info = get_worker_info()
    return 0 if info is None else int(info.id)


def _as_it_is(item: Any) -> Any:
    return item
