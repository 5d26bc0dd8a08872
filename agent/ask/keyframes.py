"""Choose the keyframes of a window for a question, and describe them as evidence.

The work blocks, so it runs in the language lane.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from agent.ask.question import Evidence, Seen
from agent.runtime.lanes import Lane
from agent.runtime.stopwatch import Stopwatch
from agent.settings.settings import AnsweringSettings
from memory.window import Window
from model.config import Fill, Redundancy
from model.pointing import Box
from model.select import Keyframes, Kind, QueryCandidates, select_keyframes

if TYPE_CHECKING:
    from model.features import Defaults, TextFeatures

CHUNK_ROWS = 8192
_IMPORTANCE = ("relevant", "recent", "filling")  # kinds of evidence, the most important first

Select = Callable[[Window, NDArray[np.float32]], Keyframes]
"""Chooses keyframes of a window for a query (D,), a unit vector."""


class TextEncoder(Protocol):
    """Encodes a question for comparison with frames."""

    def embed_text(self, text: str) -> "TextFeatures":
        """Features of the text."""


@dataclass(frozen=True, slots=True)
class Search:
    """Search for frames by texts, one for each step of the answer. every_frame: rank all frames instead of choosing some."""

    texts: tuple[str, ...]
    every_frame: bool = False


@dataclass(frozen=True, slots=True)
class Chosen:
    """The keyframes that were chosen by one text."""

    query: "TextFeatures"
    keyframes: Keyframes


@dataclass(frozen=True)
class Selection:
    """Choose keyframes by differential keyframe selection. The fields are the arguments of `select_keyframes`."""

    num_keyframes: int = 32
    tau: float = 0.85
    floor: float = -1.0
    recent: int = 0
    fill: Fill = "gaps"
    redundancy: Redundancy = "raw"
    background_floor: float = 0.1

    @classmethod
    def of(
        cls,
        defaults: "Defaults",
        settings: AnsweringSettings | None = None,
        *,
        num_keyframes: int | None = None,
        recent: int | None = None,
        most: int | None = None,
    ) -> Self:
        """The selection for a checkpoint. Arguments override the settings, and these the checkpoint's defaults.

        most: limit on the number of keyframes.
        """
        settings = settings or AnsweringSettings()
        num_keyframes = num_keyframes or settings.num_keyframes or defaults.num_keyframes
        recent = defaults.recent if recent is None else recent
        if most is not None and num_keyframes > most:
            num_keyframes, recent = most, min(recent, most // 2)  # with few places, keep half for relevant frames
        return cls(
            num_keyframes=num_keyframes,
            tau=defaults.tau,
            floor=defaults.floor,
            recent=recent,
            fill=defaults.fill,
            redundancy=settings.redundancy or defaults.redundancy,
            background_floor=defaults.background_floor,
        )

    def __call__(self, window: Window, query: NDArray[np.float32]) -> Keyframes:
        """The keyframes of the window for a query (D,), a unit vector."""
        return select_keyframes(
            QueryCandidates(window, query),
            num_keyframes=self.num_keyframes,
            tau=self.tau,
            floor=self.floor,
            recent=self.recent,
            fill=self.fill,
            background=window.background() if self.redundancy == "background" else None,
            background_floor=self.background_floor,
            group_sizes=frames_per_camera(window),
        )


def every_frame(window: Window, query: NDArray[np.float32]) -> Keyframes:
    """All rows of the window as keyframes, scored by their cosine similarity with the query."""
    scores = np.empty(window.num_frames, np.float32)
    for start in range(0, window.num_frames, CHUNK_ROWS):
        rows = np.arange(start, min(start + CHUNK_ROWS, window.num_frames))
        scores[rows] = window.embeddings(rows) @ query
    return relevant(np.arange(window.num_frames), scores)


def relevant(rows: NDArray[np.int64], scores: NDArray[np.float32]) -> Keyframes:
    """These rows as keyframes, all of the kind "relevant"."""
    kind: Kind = "relevant"
    return Keyframes(rows, (kind,) * len(rows), scores)


class Chooser:
    """Embeds questions and chooses their keyframes, in the language lane."""

    def __init__(self, encoder: TextEncoder, language: Lane) -> None:
        self._encoder, self._language = encoder, language

    async def embed(self, text: str) -> "TextFeatures":
        """The text's features."""
        return await self._language.run(self._encoder.embed_text, text)

    async def choose(self, window: Window, search: Search, select: Select, watch: Stopwatch) -> list[Chosen]:
        """The keyframes of the window for each text."""
        found = []
        for text in search.texts:
            with watch.stage("embed"):
                query = await self.embed(text)
            with watch.stage("select"):
                keyframes = await self.select(window, query, every_frame if search.every_frame else select)
            found.append(Chosen(query, keyframes))
        return found

    async def select(self, window: Window, query: "TextFeatures", select: Select) -> Keyframes:
        """The keyframes of the window for one embedded text."""
        return await self._language.run(select, window, query.unit)


def frames_per_camera(window: Window) -> list[int]:
    """Number of rows of each camera, in the order of `window.cameras`."""
    return [int(count) for count in np.bincount(window.camera_index, minlength=len(window.cameras))]


def subset(keyframes: Keyframes, places: Sequence[int]) -> Keyframes:
    """The keyframes at these positions."""
    kinds = tuple(keyframes.kinds[place] for place in places)
    return Keyframes(keyframes.rows[list(places)], kinds, keyframes.scores[list(places)])


def seen(window: Window, keyframes: Keyframes, boxes: Mapping[int, tuple[Box, ...]] | None = None) -> Seen:
    """The keyframes as evidence. boxes: for each row, where the picture shows what was asked about."""
    evidence = tuple(
        Evidence(
            frame_id=int(window.frame_ids[row]),
            camera=window.cameras[int(window.camera_index[row])],
            time=float(window.times[row]),
            score=float(score),
            kind=kind,
            metadata=window.metadata(int(row)),
            boxes=(boxes or {}).get(int(row), ()),
        )
        for row, kind, score in zip(keyframes.rows, keyframes.kinds, keyframes.scores, strict=True)
    )
    return Seen(evidence, window.num_frames, float(window.times.min()), float(window.times.max()))


def seen_in_all(parts: Iterable[Seen]) -> Seen:
    """The evidence of several steps over one window. A frame of several steps keeps its most important kind."""
    parts = list(parts)
    best: dict[int, Evidence] = {}
    for each in (each for part in parts for each in part.evidence):
        other = best.get(each.frame_id)
        if other is None or _importance(each) < _importance(other):
            best[each.frame_id] = each
    cameras = list(dict.fromkeys(each.camera for each in best.values()))
    evidence = sorted(best.values(), key=lambda each: (cameras.index(each.camera), each.time))
    return Seen(tuple(evidence), parts[0].num_frames, parts[0].oldest, parts[0].newest)


def _importance(evidence: Evidence) -> tuple[int, float]:
    return _IMPORTANCE.index(evidence.kind), -evidence.score
