"""Run a real agent, and list the source files that one frame, one question and one alert pass through (a "walk" each).

`python -m agent.walk` prints the three lists; `python -m agent.walk --svg PATH` draws them. The agent runs with the
built-in model and a temporary data folder. Its camera is a video file of a drawn street.
"""

import argparse
import asyncio
import dis
import itertools
import sys
import tempfile
import textwrap
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from html import escape
from pathlib import Path
from types import CodeType, FrameType

import httpx
from starlette.types import ASGIApp

from agent.app import Agent, opened
from agent.settings.settings import Settings
from agent.web.app import build_app
from agent.web.auth import Auth
from model.world.draw import draw
from model.world.scene import Scene
from streaming.clip import ClipWriter
from streaming.frame import Frame, FrameSettings
from streaming.media import FileSource

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("agent", "streaming", "memory", "model")

CAMERA = "street"
SEED = 7  # of the drawn street
SIZE = (320, 180)  # of its pictures
EMPTY_S = [36.0 + 0.6 * number for number in range(34)]  # moments at which nothing moves there
BALL_S = 60.0  # moment at which a yellow ball lies there
CONDITION = "a yellow ball comes"
QUESTION = "How many times did a yellow ball come?"

# Beginnings of the names of the agent's tasks and threads that work on a frame, on a question and on an alert.
FRAME_WORK = ("camera", "encoding", "file", "storage", "pictures", "vision")
QUESTION_WORK = ("question", "answer", "Task-", "web", "vision", "language")
ALERT_WORK = ("encoding", "alerts: rules", "alerts: judge", "alerts_", "questions", "vision", "language")

COLOURS = {"agent": "#dbeafe", "streaming": "#dcfce7", "memory": "#fef3c7", "model": "#fce7f3"}
WIDTH_PX, LINE_PX, CHARACTERS = 300, 16, 44  # of a column of the picture

Walk = list[str]  # source files in the order of the first call into them, such as "memory/store.py"


class Recorder:
    """Records the source files whose functions are called during a walk, in the order of the first call.

    Only calls in the tasks and threads named for the walk count. The resumption of a coroutine that was called before
    the walk does not count.
    """

    def __init__(self) -> None:
        self._walk: Walk = []
        self._files: dict[str, None] | None = None
        self._first = ""
        self._only: tuple[str, ...] = ()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Context manager: profile this thread and all threads started in the block, so that their calls can be
        recorded.
        """
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    @contextmanager
    def walk(self, only: tuple[str, ...], first: str = "") -> Iterator[Walk]:
        """Context manager: record which source files are entered in the block (a "walk"). Yields the list of files.

        The list is filled when the walk ends.

        only: beginnings of the names of the tasks and threads that count. first: qualified name of the function whose
        call begins the walk; "" begins it at once.
        """
        walk: Walk = []
        self._first, self._only, self._files = first, only, {}
        self._walk = walk
        yield walk
        self.stop()

    def stop(self) -> None:
        """End the current recording ("walk"), if it has not ended, and fill its list of source files."""
        self._walk += self._files or {}
        self._files = None

    def _profile(self, frame: FrameType, event: str, arg: object) -> None:
        files = self._files
        if files is None or event != "call":
            return
        file = _product_file(frame.f_code)
        if file is None or file in files or frame.f_lasti > _entry(frame.f_code):
            return
        if (files or self._first in ("", frame.f_code.co_qualname)) and self._belongs():
            files[file] = None

    def _belongs(self) -> bool:
        thread = threading.current_thread()
        if thread is not threading.main_thread():
            return thread.name.startswith(self._only)
        try:
            task = asyncio.current_task()
        except RuntimeError:
            return False
        return task is not None and task.get_name().startswith(self._only)


@cache
def _product_file(code: CodeType) -> str | None:
    """Return the path, from the project's root, of the file that contains `code`.

    None: the code belongs to a library, to this file, or to a module's top level, which runs at import.
    """
    path = Path(code.co_filename)
    if code.co_name == "<module>" or not path.is_relative_to(ROOT):
        return None
    name = path.relative_to(ROOT).as_posix()
    return name if name.startswith(tuple(f"{part}/" for part in PARTS)) and name != "agent/walk.py" else None


@cache
def _entry(code: CodeType) -> int:
    """Return the offset of the instruction at which a call of `code` begins. A resumed coroutine is at a larger offset."""
    return next((each.offset for each in dis.get_instructions(code) if each.opname == "RESUME"), -1)


async def record() -> dict[str, Walk]:
    """Run an agent that watches the drawn street, ask it a question, and return the three walks by title."""
    recorder = Recorder()
    with tempfile.TemporaryDirectory(prefix="vilamp-walk-") as folder, recorder.installed():
        rule = {"condition": CONDITION, "confirm": {"n": 1, "m": 1}}
        settings = Settings.model_validate({"data_dir": folder, "rules": {"ball": rule}})
        async with opened(settings) as agent:
            app = build_app(agent, Auth.open(settings.data_dir, enabled=False), settings)
            async with showing(agent, folder, EMPTY_S):
                pass
            with recorder.walk(FRAME_WORK, first="Input.__init__") as frame:
                async with showing(agent, folder, EMPTY_S[:1]):
                    recorder.stop()
            with recorder.walk(QUESTION_WORK) as question:
                await asyncio.create_task(ask(app), name="question")
            with recorder.walk(ALERT_WORK, first="Engine.frame") as alert:
                async with showing(agent, folder, [BALL_S]):
                    recorder.stop()
            if not agent.alert_store.events(0):
                raise RuntimeError("the rule raised no alert: choose another SEED or CONDITION in agent/walk.py")
    return {"One frame": frame, "One question": question, "One alert": alert}


class HeldFile:
    """A source that plays a video file and stays open after the last frame, so that its end is not part of a walk."""

    def __init__(self, path: Path, settings: FrameSettings, start: float) -> None:
        self.camera = CAMERA
        self._file = FileSource(str(path), CAMERA, settings, pace="fast", start_time=start)
        self.stats = self._file.stats
        self._closed = asyncio.Event()

    async def frames(self) -> AsyncIterator[Frame]:
        """Yield every frame of the file, then wait for `close`."""
        async for frame in self._file.frames():
            yield frame
        await self._closed.wait()

    async def close(self) -> None:
        """Close the file."""
        self._closed.set()
        await self._file.close()


@asynccontextmanager
async def showing(agent: Agent, folder: str, moments_s: Sequence[float]) -> AsyncIterator[None]:
    """Context manager: let the camera send pictures of the drawn street at these moments, one picture a second.

    The block begins when all of them are encoded and the rules have judged them.
    """
    stats = agent.store.stats(CAMERA)
    start = agent.clock() - 90.0 if stats.newest is None else stats.newest + 1.0
    path = Path(folder, f"{stats.frames}.mp4")
    await asyncio.to_thread(_film, path, moments_s)
    source = HeldFile(path, agent.cameras.frame_settings(CAMERA), start)
    watching = asyncio.create_task(agent.cameras.watch(CAMERA, source), name=f"camera {CAMERA}")
    while agent.store.stats(CAMERA).encoded < stats.encoded + len(moments_s):  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.05)
    await agent.encoded()
    await agent.alerts.settled()
    yield
    await source.close()
    await watching


def _film(path: Path, moments_s: Sequence[float]) -> None:
    street = Scene.from_seed(SEED, duration_s=120.0, style="fixed", split="eval")
    with ClipWriter(path) as writer:
        for second, moment_s in enumerate(moments_s):
            writer.add(draw(street, moment_s, *SIZE), float(second))


async def ask(app: ASGIApp) -> None:
    """Ask QUESTION over the HTTP API of `app`, without a network connection."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://agent", timeout=300) as client:
        body = {"messages": [{"role": "user", "content": QUESTION}]}
        (await client.post("/v1/chat/completions", json=body)).raise_for_status()


def grouped(walk: Walk) -> list[tuple[str, list[str]]]:
    """Return the source files of a walk, in the order in which they are entered, grouped by folder.

    Example: ["memory/store.py", "memory/codec.py", "model/merge.py"] -> [("memory", ["store", "codec"]), ("model", ["merge"])].
    """
    return [
        (folder, [Path(file).stem for file in files])
        for folder, files in itertools.groupby(walk, lambda file: str(Path(file).parent))
    ]


def as_text(walks: dict[str, Walk]) -> str:
    """Return the walks (lists of source files, by title) as Markdown lists, in the form of docs/architecture.md."""
    blocks = []
    for name, walk in walks.items():
        lines = [f"- `{folder}/` {', '.join(files)}" for folder, files in grouped(walk)]
        blocks.append("\n".join([f"**{name}** passes {len(walk)} files:", "", *map(_wrapped, lines)]))
    return "\n\n".join(blocks)


def _wrapped(line: str) -> str:
    return textwrap.fill(line, 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def as_svg(walks: dict[str, Walk]) -> str:
    """Return an SVG picture with a column for each walk (list of source files).

    A box is a folder with its files, coloured by its part of PARTS.
    """
    parts, height = [], 0
    for column, (name, walk) in enumerate(walks.items()):
        x, y = 10 + column * (WIDTH_PX + 20), 24
        parts.append(f'<text x="{x}" y="{y}" font-weight="bold">{escape(name)}</text>')
        y += 12
        for folder, files in grouped(walk):
            lines = textwrap.wrap(", ".join(files), CHARACTERS)
            box = LINE_PX * (len(lines) + 1) + 8
            colour = COLOURS[folder.partition("/")[0]]
            parts.append(f'<rect x="{x}" y="{y}" width="{WIDTH_PX}" height="{box}" rx="5" fill="{colour}"/>')
            for number, text in enumerate([folder + "/", *lines]):
                weight = ' font-weight="bold"' if number == 0 else ""
                parts.append(f'<text x="{x + 8}" y="{y + LINE_PX * (number + 1)}"{weight}>{escape(text)}</text>')
            y += box + 6
        height = max(height, y)
    width = 10 + len(walks) * (WIDTH_PX + 20)
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    ground = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, ground, *parts, "</svg>", ""])


def main() -> None:
    """Print the source files that frame, question and alert pass through, or write them as a picture (--svg)."""
    parser = argparse.ArgumentParser(prog="python -m agent.walk", description=__doc__)
    parser.add_argument("--svg", type=Path, help="write a picture to this path instead of printing the lists")
    options = parser.parse_args()
    walks = asyncio.run(record())
    if options.svg is None:
        sys.stdout.write(as_text(walks) + "\n")
    else:
        options.svg.write_text(as_svg(walks), encoding="utf-8")


if __name__ == "__main__":
    main()
