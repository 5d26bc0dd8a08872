"""Answer on this machine, with the checkpoint's own language model.

The model reads the keyframes at full resolution, and all other frames merged into few tokens. A look is about one frame
alone. All work of the model runs in two lanes, `vision` and `language`: threads that run one call at a time, in order of
priority (`agent.runtime.lanes`).
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from agent.ask.answerer import Context, Looked, Tally, Task, ToolUse
from agent.ask.keyframes import Chosen, every_frame, frames_per_camera, relevant, seen
from agent.ask.pictures import decoded
from agent.ask.question import Question
from agent.errors import NoAnswer, QuestionTooLong
from agent.runtime import pools
from agent.runtime.lanes import Lane
from agent.runtime.stopwatch import Stopwatch
from agent.settings.settings import AnsweringSettings
from agent.times import format_clock
from memory.window import Window
from model.config import JudgeManner
from model.features import FrameFeatures, TextFeatures, VisualContext
from model.pointing import Box, boxes_of
from model.select import Keyframes
from model.video_model import PromptTooLongError, VideoModel

LOOK_TOKENS = 24  # limit for the model's answer about one frame
NO_WORDS = "(The model found no words: ask again, in other words or with more tokens.)"
SOME_FOREIGN = "some of these cameras show what this model was not trained on; nothing said of them is reliable"


@dataclass(frozen=True, slots=True)
class Part:
    """The frames that the language model is shown.

    visual: the tokens of the window's frames, with keyframes at full resolution and the others merged.
    """

    window: Window
    visual: VisualContext

    @property
    def keyframes(self) -> Keyframes:
        return self.visual.keyframes

    def as_familiar(self) -> "Part":
        """Return a copy in which no picture is marked as foreign, that is, as unlike the model's training pictures."""
        return replace(self, visual=replace(self.visual, foreign_groups=()))

    def clocks(self, zone_of: Callable[[str], str]) -> list[str]:
        """Return the local time of each keyframe in the form that models are trained on: "17:04:05"."""
        zones = [zone_of(camera) for camera in self.window.cameras]
        cameras, times = self.window.camera_index, self.window.times
        return [format_clock(float(times[row]), zones[int(cameras[row])])[:8] for row in self.keyframes.rows]


@dataclass(frozen=True, slots=True)
class LocalContext(Context):
    """What is prepared before the first token of an answer. part: the pictures to answer from."""

    part: Part


class LocalAnswerer:
    """Answers questions with a checkpoint that has a language model; see `Answerer` for the methods."""

    reads_conversations = False
    needs_patches = True
    max_keyframes: int | None = None
    pictures_per_look = 1
    problem: str | None = None

    def __init__(
        self,
        model: VideoModel,
        *,
        vision: Lane,
        language: Lane,
        settings: AnsweringSettings,
        zone_of: Callable[[str], str],
        frame_at: Callable[[str, float], Window],
    ) -> None:
        """zone_of: returns the time zone of a camera.

        frame_at: returns a window with the one frame of a camera at a time; it has no frames if that one is gone. It
        blocks.
        """
        self._model = model
        self._vision = vision
        self._language = language
        self._settings = settings
        self._zone_of = zone_of
        self._frame_at = frame_at
        self._embedded: tuple[str, TextFeatures] | None = None  # the last text: many looks have the same question

    @property
    def model_name(self) -> str:
        return self._model.info.name

    @property
    def judge_manner(self) -> JudgeManner:
        return self._model.config.live.judge

    @property
    def concurrency(self) -> int:
        return 1

    @property
    def tool_use(self) -> ToolUse:
        return ToolUse()

    async def converse(self, *_: object) -> NoReturn:
        """Raise NoAnswer: the checkpoint's language model calls no tools."""
        raise NoAnswer("The model on this machine calls no tools.")

    @property
    def complete(self) -> None:
        return None

    @property
    def capabilities(self) -> None:
        return None

    def tasks(self) -> Iterable[Task]:
        return ()

    async def check(self, cameras: Iterable[str]) -> None:
        """Accept all cameras, as nothing is sent to another machine."""

    def no_words(self) -> str:
        return NO_WORDS

    async def prepare(
        self, window: Window, chosen: Sequence[Chosen], question: Question, watch: Stopwatch
    ) -> LocalContext:
        part = await self._merge(window, chosen[0], watch)
        tally = Tally(prompt_tokens=part.visual.num_tokens)
        return LocalContext(seen(window, part.keyframes, _boxes(part)), tuple(_notes(part.visual)), tally, part)

    def stream(self, question: Question, context: LocalContext) -> AsyncGenerator[str, None]:
        limit = min(question.max_new_tokens or self._settings.max_new_tokens, self._settings.max_new_tokens)
        return self._say(question.core, context.part, limit, context.tally, temperature=question.temperature)

    # --- pictures ---

    async def _merge(self, window: Window, chosen: Chosen, watch: Stopwatch) -> Part:
        """Return the window's frames as input of the language model: keyframes at full resolution, others merged."""
        with watch.stage("reencode"):
            keyframes, overrides = await self._reencode(window, chosen.keyframes)
        with watch.stage("merge"):
            sizes = frames_per_camera(window)
            visual = await self._language.run(
                self._model.build_context, window, keyframes, chosen.query, overrides=overrides, group_sizes=sizes
            )
        return Part(window, visual)

    async def _reencode(self, window: Window, keyframes: Keyframes) -> tuple[Keyframes, dict[int, FrameFeatures]]:
        """Encode again the keyframes whose patch features are no longer in memory, from their JPEGs.

        Return the usable keyframes, and the new features by row. A keyframe is left out if it has no patch features and
        its JPEG is damaged or erased.
        """
        missing = await pools.questions(without_patches, window, keyframes.rows)
        if not missing:
            return keyframes, {}
        images = await pools.questions(decoded, window, missing)
        features = await self._vision.run(self._model.encode, list(images.values())) if images else []
        readable = [place for place, row in enumerate(keyframes.rows) if int(row) in images or int(row) not in missing]
        return keyframes.at(readable), dict(zip(images, features, strict=True))

    async def look(self, window: Window, rows: NDArray[np.int64], question: Question, tally: Tally) -> Looked:
        """Ask the model about one frame alone; see `Answerer.look`.

        A single picture does not show whether a camera's pictures are foreign, so the model is asked in any case.
        """
        [row] = rows
        frame = await pools.questions(self._frame_at, *_camera_and_time(window, int(row)))
        if not frame.num_frames:  # forgotten in the meantime
            return Looked("", rows[:0])
        query = await self._embed(question.text)
        part = await self._merge(frame, Chosen(query, every_frame(frame, query.unit)), Stopwatch())
        if not len(part.keyframes.rows):  # damaged
            return Looked("", rows[:0])
        tally.prompt_tokens += part.visual.num_tokens
        limit = min(question.max_new_tokens or LOOK_TOKENS, self._settings.max_new_tokens)
        spoken = Tally()
        async with aclosing(self._say(question.text, part.as_familiar(), limit, spoken)) as pieces:
            text = "".join([piece async for piece in pieces]).strip()
        tally.completion_tokens = (tally.completion_tokens or 0) + (spoken.completion_tokens or 0)
        return Looked(text, rows, part.visual.is_foreign)

    async def pointed(
        self, window: Window, rows: NDArray[np.int64], text: str, *, again: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """Return where these frames show what the text is about; see `Answerer.pointed`."""
        if self._model.config.live.pointing is None:
            return None
        query, overrides = await self._embed(text), None
        if again:
            frames, overrides = await self._reencode(window, relevant(rows, np.zeros(len(rows), np.float32)))
            rows = frames.rows
        presence = self._model.merger.presence
        found = await self._language.run(presence, window, rows, query.merge_query, overrides) if len(rows) else None
        return None if found is None else (rows, found)

    async def _embed(self, text: str) -> TextFeatures:
        if self._embedded is None or self._embedded[0] != text:
            self._embedded = text, await self._language.run(self._model.embed_text, text)
        return self._embedded[1]

    # --- words ---

    async def _say(
        self,
        text: str,
        part: Part,
        limit: int,
        tally: Tally,
        *,
        temperature: float = 0.0,
    ) -> AsyncGenerator[str, None]:
        """Yield the model's answer, token by token. Raises QuestionTooLong if the prompt exceeds the model's context.

        limit: of tokens. tally: gets the number of tokens and the finish reason.
        """
        timestamps = part.clocks(self._zone_of) if self._model.info.defaults.timestamps else None
        pieces = self._language.pull(
            lambda: self._model.stream(
                text,
                part.visual,
                timestamps=timestamps,
                max_new_tokens=limit,
                temperature=temperature,
            )
        )
        num_pieces = 0
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    num_pieces += 1
                    yield piece
        except PromptTooLongError as error:
            raise QuestionTooLong(str(error), param="messages") from None
        if num_pieces >= limit:
            tally.finish_reason = "length"
        # an incomplete character at the end is one more piece, but no token
        tally.completion_tokens = min(num_pieces, limit)


def _camera_and_time(window: Window, row: int) -> tuple[str, float]:
    return window.cameras[int(window.camera_index[row])], float(window.times[row])


def without_patches(window: Window, rows: NDArray[np.int64]) -> list[int]:
    """Return those of the window's rows whose patch features (embeddings of parts of the picture) are not in memory.

    Blocks.
    """
    return [int(row) for row in rows if not window.read(int(row), int(row) + 1).present[0]]


def _boxes(part: Part) -> dict[int, tuple[Box, ...]]:
    """Return the boxes in which each keyframe shows what was asked about, by row.

    Cameras whose pictures are unlike the training pictures get none.
    """
    visual, rows = part.visual, part.keyframes.rows
    if visual.presence is None:
        return {}
    cameras = part.window.camera_index[rows]
    foreign = [camera for camera, is_so in zip(np.unique(cameras), visual.foreign_groups, strict=False) if is_so]
    known = np.flatnonzero(~np.isin(cameras, foreign))
    return _boxes_by_row(rows[known], visual.presence[known])


def _boxes_by_row(rows: NDArray[np.int64], presences: NDArray[np.float32]) -> dict[int, tuple[Box, ...]]:
    return {int(row): boxes_of(each) for row, each in zip(rows, presences, strict=True)}


def _notes(visual: VisualContext) -> Iterable[str]:
    """Yield notes for the asker on how the frames were merged into tokens."""
    if any(visual.foreign_groups) and not visual.is_foreign:
        yield SOME_FOREIGN
    if visual.num_summary_frames:
        yield f"frames that contributed their summary only: {visual.num_summary_frames}"
    if visual.num_left_out:
        yield f"frames that took part in choosing the keyframes and in nothing else: {visual.num_left_out}"
    if visual.num_shared_tokens:
        yield f"tokens that stand for runs of several frames: {visual.num_shared_tokens}"
