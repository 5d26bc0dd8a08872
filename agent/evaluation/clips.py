"""Labelled histories to evaluate on: drawn worlds, or video files with the logs of `vilamp world`.

A world is an artificial video whose events are known; a scene is its description. The features of a history's frames
can be cached on disk. Each frame is encoded by itself, so lists of features may be cut, joined and reordered.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.features import FrameFeatures
from model.video_model import VideoModel
from model.world.codec import Codec, through_codec
from model.world.draw import camera_faults, degrade, draw
from model.world.questions import Question, present_question, questions
from model.world.scene import Scene
from model.world.video import read_frames, read_truth

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov")
DRAW_SIZE = (320, 180)
BATCH = 64


@dataclass(frozen=True)
class Moment:
    """A question about the present, asked while frame `row` is the newest."""

    row: int
    question: Question


@dataclass(frozen=True)
class Clip:
    """One labelled history: times of N frames, their pictures, and questions with known answers.

    times (N,) unix seconds. pictures: returns an iterator over (H, W, 3) uint8 pictures; called at most once. name:
    identifies the pictures in the cache of features. scene: of a drawn world, None for a video. picture_of (N,): the
    number of the picture that each frame shows, if there are fewer pictures than frames.
    """

    name: str
    times: np.ndarray
    pictures: Callable[[], Iterator[np.ndarray]]
    questions: tuple[Question, ...]
    start_unix: float
    moments: tuple[Moment, ...] = ()
    scene: Scene | None = None
    picture_of: np.ndarray | None = None


def world_clip(
    scene_seed: int,
    num_frames: int,
    *,
    rounds: int = 1,
    moments: int = 0,
    codec: Codec | None = None,
    empty_every: int = 1,
) -> Clip:
    """Return a drawn world with its questions, one frame a second.

    It belongs to the evaluation split: the model was not trained on such worlds. The same seed gives the same clip.

    rounds: how often questions about the same events are drawn, each time in a new phrasing. moments: the number of
    questions about the present. codec: all frames get the same camera faults (with noise drawn for each frame) and are
    compressed with this codec; without it, each frame gets faults of its own. empty_every: while nothing is in view of
    a fixed camera, draw only every n-th frame and repeat it.
    """
    rng = np.random.default_rng([0xE7A1, scene_seed, num_frames])
    scene = Scene.from_seed(scene_seed, duration_s=float(max(num_frames, 20)), split="eval", density=1.0)
    times = np.arange(num_frames, dtype=np.float64)
    start_unix = float(rng.integers(1_900_000_000, 2_000_000_000))
    asked = {q.text: q for _ in range(rounds) for q in questions(scene, start_unix, times, rng, "eval")}
    found = tuple(world_moments(scene, times, start_unix, moments, np.random.default_rng([0x30E5, scene_seed])))
    name = f"world-{scene_seed}-{num_frames}" + ("" if codec is None else f"-{codec.name}")
    drawn = drawn_rows(scene, times, empty_every)
    name += "" if empty_every == 1 else f"-{empty_every}"
    return Clip(
        name,
        start_unix + times,
        lambda: world_pictures(scene, times[drawn], codec),
        tuple(asked.values()),
        start_unix,
        found,
        scene,
        np.searchsorted(drawn, np.arange(num_frames), side="right") - 1,
    )


def drawn_rows(scene: Scene, times: np.ndarray, empty_every: int) -> np.ndarray:
    """Return the numbers of the frames to draw: all while something is in view or the camera moves, else every n-th.

    Ten frames, something in view in frames 3 to 5, every 3rd: 0, 3, 4, 5, 6, 9.
    """
    keep = scene.may_show(times) if scene.style == "fixed" else np.ones(len(times), bool)
    last_busy = np.maximum.accumulate(np.where(keep, np.arange(len(times)), -1))
    keep |= (np.arange(len(times)) - last_busy - 1) % empty_every == 0
    return np.flatnonzero(keep)


def world_pictures(scene: Scene, times: np.ndarray, codec: Codec | None = None) -> Iterator[np.ndarray]:
    """Return an iterator over the drawn frames of a scene, with the faults of a camera (see `world_clip`)."""
    noise = np.random.default_rng([0x0D15, scene.seed])
    drawn = (draw(scene, float(t), *DRAW_SIZE) for t in times)
    if codec is None:
        return (degrade(picture, noise) for picture in drawn)
    lens = [0x1E45, scene.seed]
    return through_codec((camera_faults(picture, np.random.default_rng(lens), noise) for picture in drawn), codec)


def world_moments(
    scene: Scene, times: np.ndarray, start_unix: float, count: int, rng: np.random.Generator
) -> Iterator[Moment]:
    """Yield at most `count` moments with questions about the present; in a quarter of them nothing is in view."""
    busy = scene.may_show(times)
    for rows, most in ((np.flatnonzero(busy), count - count // 4), (np.flatnonzero(~busy), count // 4)):
        found = 0
        for row in rng.permutation(rows).tolist():
            if found == most:
                break
            question = present_question(scene, float(times[row]), start_unix, rng, "eval")
            if question is not None and (question.answer != "nothing" or not busy[row]):
                found += 1
                yield Moment(row, question)


def world_clips(seed: int, num_frames: int, count: int, *, rounds: int = 1, moments: int = 0) -> Iterator[Clip]:
    """Yield `count` worlds on which the model was not trained, with questions. The same seed gives the same clips."""
    return (world_clip(seed * 1009 + number, num_frames, rounds=rounds, moments=moments) for number in range(count))


def video_clip(path: Path, rate_hz: float = 1.0) -> Clip:
    """Return a clip of a video sampled at `rate_hz`, with questions from the log that `vilamp world` wrote beside it.

    Raises ValueError if the video or its log is unusable, OSError if they cannot be read.
    """
    start_unix, asked = read_truth(path.with_suffix(".json"))
    seconds = np.array([second for second, _ in read_frames(path, rate_hz)])
    if not len(seconds):
        raise ValueError(f"{path}: no frames")

    def pictures() -> Iterator[np.ndarray]:
        return (picture for _, picture in read_frames(path, rate_hz))

    return Clip(f"{path.stem}-{len(seconds)}", start_unix + seconds, pictures, tuple(asked), start_unix)


def labelled_videos(folder: Path) -> list[Path]:
    """Return the videos of a folder that have a log, sorted by name. Raises ValueError if there are none."""
    found = [path for path in sorted(folder.glob("*")) if path.suffix in VIDEO_SUFFIXES]
    labelled = [path for path in found if path.with_suffix(".json").exists()]
    if not labelled:
        raise ValueError(f"{folder}: no video ({', '.join(VIDEO_SUFFIXES)}) with a log of the same name (.json)")
    return labelled


def encode_pictures(model: VideoModel, pictures: Iterator[np.ndarray]) -> Iterator[FrameFeatures]:
    """Yield the features (embedding and patches) of each picture. Pictures are encoded in batches."""
    waiting: list[np.ndarray] = []
    for picture in pictures:
        waiting.append(picture)
        if len(waiting) == BATCH:
            yield from model.encode(waiting)
            waiting = []
    yield from model.encode(waiting)


def features_of(model: VideoModel, clip: Clip, cache: Path | None = None) -> list[FrameFeatures]:
    """Return the features (embedding and patches) of each frame of a clip.

    cache: a folder in which they are kept, by model and clip.
    """
    file = None if cache is None else cache / f"{model.info.fingerprint}-{clip.name}.npz"
    if file is not None and file.exists():
        kept = _load(file)
    else:
        kept = list(encode_pictures(model, clip.pictures()))
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            _save(file, kept)
    return kept if clip.picture_of is None else [kept[picture] for picture in clip.picture_of]


def _save(file: Path, features: Sequence[FrameFeatures]) -> None:
    unfinished = file.with_suffix(".unfinished.npz")
    np.savez(
        unfinished,
        embedding=np.stack([frame.embedding for frame in features]),
        patches=np.stack([frame.patches for frame in features]),
        scalars=np.stack([frame.scalars for frame in features]),
        summary=np.stack([frame.summary for frame in features]),
    )
    unfinished.replace(file)


def _load(file: Path) -> list[FrameFeatures]:
    with np.load(file) as kept:
        columns = [kept[name] for name in ("embedding", "patches", "scalars", "summary")]
    return [FrameFeatures(*parts) for parts in zip(*columns, strict=True)]
