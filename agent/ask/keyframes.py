"""Choose the keyframes of a window for a question, and describe them as evidence.

A window is an immutable view of stored frames; a row is a frame's number in it. Choosing takes long and blocks, so
`Chooser` runs it in the language lane, a thread that runs one call at a time (`agent.runtime.lanes`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from agent.ask.question import Evidence, Seen, SeenVisit
from agent.runtime.lanes import Lane
from agent.runtime.stopwatch import Stopwatch
from agent.settings.settings import AnsweringSettings
from memory.window import Window
from model.config import Fill, Redundancy, SelectionRule
from model.places import newest_rows
from model.pointing import Box
from model.scoring import score_frames
from model.select import Keyframes, Kind, QueryCandidates, select_keyframes
from model.select_visits import select_by_visits
from model.visits import Visit, clear_visits

if TYPE_CHECKING:
    from model.clip_encoder import ClipEncoder
    from model.features import Defaults, TextFeatures
    from model.video_model import VideoModel

NEVER = 2.0  # as `tau`: no cosine similarity is larger, so no frame is rejected as redundant
MOST_VISITS = 100  # an answer lists at most so many visits, the strongest ones
_IMPORTANCE = ("relevant", "recent", "filling")  # kinds of evidence, the most important first

Select = Callable[[Window, NDArray[np.float32]], Keyframes]
"""Returns the keyframes of a window for a query (D,), a unit vector."""


@dataclass(frozen=True, slots=True)
class Search:
    """The texts by which to search for frames, one for each short question ("step") from which the answer is composed.

    every_frame: score all frames of the window instead of choosing keyframes.
    """

    texts: tuple[str, ...]
    every_frame: bool = False


@dataclass(frozen=True, slots=True)
class Chosen:
    """The keyframes that were chosen by one text. query: the embedded text."""

    query: "TextFeatures"
    keyframes: Keyframes


@dataclass(frozen=True)
class Selection:
    """A rule for choosing keyframes, with its arguments. Calling the object returns the keyframes.

    rule: "visits" (from stretches of time in which relevance is high), "dks" (the paper's differential keyframe
    selection), "top_k" (dks without its redundancy check), or "uniform" (at equal distances, whatever the question).
    Each rule reserves `recent` of the `num_keyframes` for the newest frames. The other fields are arguments of
    `select_by_visits` and `select_keyframes`.
    """

    rule: SelectionRule = "dks"
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
        rule: SelectionRule | None = None,
    ) -> Self:
        """Return the Selection to use with a checkpoint.

        Arguments override the settings, and the settings override the checkpoint's defaults. most: the largest number
        of keyframes, if limited. With the rule "visits", no keyframes are reserved for the newest frames unless
        `recent` is given.
        """
        settings = settings or AnsweringSettings()
        rule = rule or settings.selection or defaults.selection
        num_keyframes = num_keyframes or settings.num_keyframes or defaults.num_keyframes
        if recent is None:
            recent = 0 if rule == "visits" else defaults.recent
        if most is not None and num_keyframes > most:
            num_keyframes, recent = most, min(recent, most // 2)  # of few keyframes, keep half for relevant frames
        return cls(
            rule=rule,
            num_keyframes=num_keyframes,
            tau=defaults.tau,
            floor=defaults.floor,
            recent=recent,
            fill=defaults.fill,
            redundancy=settings.redundancy or defaults.redundancy,
            background_floor=defaults.background_floor,
        )

    def __call__(self, window: Window, query: NDArray[np.float32]) -> Keyframes:
        """Return the keyframes of the window for `query`, the embedding (D,) of a text as a unit vector."""
        if self.rule == "uniform":
            rows, kinds = uniform_rows(window.num_frames, self.num_keyframes, self.recent)
            return Keyframes(rows, kinds, window.embeddings(rows) @ query)
        if self.rule == "visits":
            return select_by_visits(
                QueryCandidates(window, query),
                score_frames(window, query),
                window.times,
                num_keyframes=self.num_keyframes,
                recent=self.recent,
                fill=self.fill,
                background=window.background(),
                group_sizes=frames_per_camera(window),
            )
        return select_keyframes(
            QueryCandidates(window, query),
            num_keyframes=self.num_keyframes,
            tau=NEVER if self.rule == "top_k" else self.tau,
            floor=self.floor,
            recent=self.recent,
            fill=self.fill,
            background=window.background() if self.redundancy == "background" else None,
            background_floor=self.background_floor,
            group_sizes=frames_per_camera(window),
        )


def every_frame(window: Window, query: NDArray[np.float32]) -> Keyframes:
    """Return all rows of the window as keyframes, scored by their cosine similarity with `query`, an embedding (D,)."""
    return relevant(np.arange(window.num_frames), score_frames(window, query))


def relevant(rows: NDArray[np.int64], scores: NDArray[np.float32]) -> Keyframes:
    """Return the frames in these rows of a window as keyframes of the kind "relevant", with their scores."""
    kind: Kind = "relevant"
    return Keyframes(rows, (kind,) * len(rows), scores)


class Chooser:
    """Embeds questions and chooses their keyframes, in the thread of the language model (the language "lane")."""

    def __init__(self, model: "VideoModel | ClipEncoder", language: Lane) -> None:
        self._model, self._language = model, language

    async def embed(self, text: str) -> "TextFeatures":
        """Return the text's embedding, which is compared with those of frames."""
        return await self._language.run(self._model.embed_text, text)

    async def choose(self, window: Window, search: Search, select: Select, watch: Stopwatch) -> list[Chosen]:
        """Choose keyframes of the window for each text of `search`; return one `Chosen` per text, in order.

        select: the rule for choosing them. watch: measures the times to embed the texts and to choose.
        """
        found = []
        for text in search.texts:
            with watch.stage("embed"):
                query = await self.embed(text)
            with watch.stage("select"):
                keyframes = await self.select(window, query, every_frame if search.every_frame else select)
            found.append(Chosen(query, keyframes))
        return found

    async def select(self, window: Window, query: "TextFeatures", select: Select) -> Keyframes:
        """Return the keyframes of the window for one embedded text."""
        return await self._language.run(select, window, query.unit)


def frames_per_camera(window: Window) -> list[int]:
    """Return the number of rows of each camera, in the order of `window.cameras`."""
    return [int(count) for count in np.bincount(window.camera_index, minlength=len(window.cameras))]


def uniform_rows(num_frames: int, num_keyframes: int, recent: int) -> tuple[NDArray[np.int64], tuple[Kind, ...]]:
    """Return the rows of keyframes at equal distances, rising, and the kind of each.

    These are the newest `recent` frames, and the middles of equal parts of the other frames. 12 frames, 5 keyframes, 2
    of them recent: 10 and 11, and the middles 1, 5, 8 of three parts of 0..9.
    """
    newest = newest_rows([num_frames], min(recent, num_keyframes))
    rest, places = num_frames - len(newest), num_keyframes - len(newest)
    spread = np.unique(((np.arange(places) + 0.5) * rest / max(places, 1)).astype(np.int64)) if rest else newest[:0]
    kinds: list[Kind] = ["filling" for _ in spread]
    kinds += ["recent" for _ in newest]
    return np.concatenate((spread, newest)), tuple(kinds)


def visits_of(window: Window, visits: Sequence[Visit]) -> tuple[SeenVisit, ...]:
    """Return the MOST_VISITS strongest of `visits` (all, if there are fewer), sorted by camera, then by time.

    A visit is a stretch of time in which frames are relevant to a question. It is strong if their relevance stands out
    from the camera's usual variation. visits: as `find_visits` returns them, with rows of `window`.
    """
    clear = {
        visit.peak for _, same in groupby(visits, key=lambda visit: visit.camera) for visit in clear_visits(list(same))
    }
    strongest = sorted(visits, key=lambda visit: -visit.strength)[:MOST_VISITS]
    return tuple(
        SeenVisit(
            camera=window.cameras[visit.camera],
            start=float(window.times[visit.start]),
            peak=float(window.times[visit.peak]),
            end=float(window.times[visit.end]),
            prominence=visit.prominence,
            strength=visit.strength,
            is_clear=visit.peak in clear,
            frame_id=int(window.frame_ids[visit.peak]),
        )
        for visit in sorted(strongest, key=lambda visit: visit.peak)
    )


def seen(window: Window, keyframes: Keyframes, boxes: Mapping[int, tuple[Box, ...]] | None = None) -> Seen:
    """Return the first event of an answer, with the keyframes as evidence.

    boxes: for each row, where the picture shows what was asked about.
    """
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
    span = float(window.times.min()), float(window.times.max())
    return Seen(evidence, window.num_frames, *span, visits_of(window, keyframes.visits))


def seen_in_all(parts: Iterable[Seen]) -> Seen:
    """Return the first event of an answer in several steps: the evidence of all its steps, over the same window.

    A frame that is a keyframe of several steps is listed once, with its most important kind.
    """
    parts = list(parts)
    best: dict[int, Evidence] = {}
    for each in (each for part in parts for each in part.evidence):
        other = best.get(each.frame_id)
        if other is None or _importance(each) < _importance(other):
            best[each.frame_id] = each
    cameras = list(dict.fromkeys(each.camera for each in best.values()))
    evidence = sorted(best.values(), key=lambda each: (cameras.index(each.camera), each.time))
    visits = parts[0].visits if len(parts) == 1 else ()  # the visits of several steps are of different things
    return Seen(tuple(evidence), parts[0].num_frames, parts[0].oldest, parts[0].newest, visits)


def _importance(evidence: Evidence) -> tuple[int, float]:
    return _IMPORTANCE.index(evidence.kind), -evidence.score
