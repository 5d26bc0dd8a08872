"""Write a scene as a video file, with a log of the truth beside it.

The log is a JSON file of the same name with `events`, `poses` (of a robot), `questions` and the clock; times are
seconds of the video. `read_truth` reads its questions, so that any video with such a log can be used to score a model.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from model.world.draw import degrade, draw
from model.world.questions import Query, Question, questions, true_answer
from model.world.scene import Scene
from model.world.things import Split, Style

START_UNIX = 1_767_254_400.0  # 2026-01-01 08:00:00 UTC, the start of every video
MIN_RATE_HZ, MAX_RATE_HZ = 0.1, 60.0
FORMAT = "vilamp-world/1"


def write_video(
    path: str | Path,
    *,
    seed: int,
    minutes: float,
    rate_hz: float = 10.0,
    style: Style | None = None,
    split: Split = "eval",
    size: tuple[int, int] = (640, 360),
    camera_faults: bool = True,
    on_frame: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write the scene of `seed` to `path` (H.264) and its log to the same name with `.json`. Return the log's path.

    size: (width, height), even. on_frame: called with (frames written, frames in all). Raises ValueError if size, rate
    or length make no video, OSError if a file cannot be written.
    """
    width, height = size
    if width % 2 or height % 2 or min(size) < 32:
        raise ValueError("width and height must be even and at least 32")
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise ValueError(f"the rate must be between {MIN_RATE_HZ} and {MAX_RATE_HZ} frames a second")
    path = Path(path)
    if path.suffix not in (".mp4", ".mkv", ".mov"):
        raise ValueError("the name must end in .mp4, .mkv or .mov")
    scene = Scene.from_seed(seed, duration_s=minutes * 60, style=style, split=split)
    _encode(path, scene, rate_hz, size, camera_faults, on_frame)
    log = path.with_suffix(".json")
    log.write_text(json.dumps(truth(scene, rate_hz), indent=1) + "\n", encoding="utf-8")
    return log


def truth(scene: Scene, rate_hz: float) -> dict[str, Any]:
    """Return the log of a scene as JSON types. Its questions can be answered from one frame a second."""
    seconds = np.arange(0, scene.duration_s, 1.0)
    rng = np.random.default_rng([scene.seed, 0x106])
    asked = questions(scene, START_UNIX, seconds, rng, "eval")
    return {
        "format": FORMAT,
        "seed": scene.seed,
        "split": scene.split,
        "style": scene.style,
        "layout": scene.layout.name,
        "start_unix": START_UNIX,
        "duration_s": scene.duration_s,
        "rate_hz": rate_hz,
        "events": [asdict(event) for event in scene.events],
        "poses": [{"time_s": t, **scene.metadata_at(t)} for t in seconds.tolist()] if scene.style == "robot" else [],
        "questions": [{**asdict(question), "true_answer": true_answer(question)} for question in asked],
    }


def read_truth(path: str | Path) -> tuple[float, list[Question]]:
    """Return (start in unix seconds, questions) of a log. Raises ValueError if the file is no such log."""
    try:
        log = json.loads(Path(path).read_text(encoding="utf-8"))
        if log["format"] != FORMAT:
            raise ValueError(f"{path}: format {log['format']!r}, expected {FORMAT!r}")
        return float(log["start_unix"]), [_question(entry) for entry in log["questions"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a log of a drawn world ({error})") from error


def read_frames(path: str | Path, rate_hz: float) -> Iterator[tuple[float, np.ndarray]]:
    """Yield (seconds since the first frame, picture) of a video file, at most rate_hz pictures a second of video.

    A picture is uint8 (height, width, 3). Raises ValueError if the file cannot be read as a video.
    """
    import av

    due = 0.0
    try:
        with av.open(str(path)) as container:
            first: float | None = None
            for frame in container.decode(video=0):
                first = frame.time if first is None else first
                second = frame.time - first
                if second >= due - 1e-6:
                    due += 1 / rate_hz
                    yield second, frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"{path}: not a video that can be read ({error})") from error


def _question(entry: dict[str, Any]) -> Question:
    spans = tuple((float(first), float(last)) for first, last in entry["spans"])
    names = ("family", "text", "answer", "start_unix", "utc_offset_s")
    return Question(query=_query(entry["query"]), spans=spans, **{name: entry[name] for name in names})


def _query(entry: dict[str, Any] | None) -> Query | None:
    return None if entry is None else Query(entry["kind"], entry["colour"], _query(entry["second"]))


def _encode(
    path: Path,
    scene: Scene,
    rate_hz: float,
    size: tuple[int, int],
    camera_faults: bool,
    on_frame: Callable[[int, int], None],
) -> None:
    import av  # imported only here, so that drawing works without PyAV

    num_frames = max(1, round(scene.duration_s * rate_hz))
    noise = np.random.default_rng([scene.seed, 0x015E])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate_hz).limit_denominator(1000))
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "23", "preset": "veryfast"}
        for number in range(num_frames):
            image = draw(scene, number / rate_hz, *size)
            if camera_faults:
                image = degrade(
                    image, np.random.default_rng([scene.seed, 0xFA]), noise
                )  # the same lens in every frame, new noise in each
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            on_frame(number + 1, num_frames)
        container.mux(stream.encode(None))
