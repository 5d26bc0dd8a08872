"""One JSON object a line, with the extra fields, whatever they are."""

import asyncio
import io
import json
import logging
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from agent.runtime.log_repeats import CountedLines
from agent.runtime.logs import JsonLines, set_up_logs
from tests.support.agents import remember, served


def line(**extra: object) -> dict[str, object]:
    record = logging.makeLogRecord({"name": "agent.x", "levelname": "WARNING", "msg": "frame %s", "args": ("lost",)})
    vars(record).update(extra)
    written: dict[str, object] = json.loads(JsonLines().format(record))
    return written


def test_a_record_is_one_object() -> None:
    written = line(camera="door", path=Path("x"))
    assert written["message"] == "frame lost"
    assert written["level"] == "warning"
    assert (written["camera"], written["path"]) == ("door", "x")
    assert set(written) == {"time", "level", "logger", "message", "camera", "path"}


def test_exceptions_are_fields() -> None:
    try:
        raise ValueError("why")
    except ValueError as error:
        written = line(exc_info=(type(error), error, error.__traceback__))
    assert "ValueError: why" in str(written["exception"])


def test_levels(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        set_up_logs("info")
        logging.getLogger("agent").debug("no")
        logging.getLogger("aiortc").info("no")
        logging.getLogger("agent").info("yes")
    finally:
        root.handlers[:], level = before
        root.setLevel(level)
    (only,) = capsys.readouterr().err.splitlines()
    assert json.loads(only)["message"] == "yes"


OURS = ("agent", "streaming", "memory", "model", "uvicorn", "aiortc", "aioice", "libav", "starlette")


async def test_nothing_private_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every level of everything that serves, through answers, refusals and a camera that cannot be reached."""
    caplog.set_level(logging.DEBUG)
    cameras = {"gate": {"url": "rtsp://ann:s3cret@127.0.0.1:9/live?password=s3cret"}}
    async with served(tmp_path, cameras=cameras) as site:
        await remember(site.agent, "door", 3)
        async with httpx.AsyncClient(base_url=site.url, headers=site.headers(), timeout=30) as http:
            asked = {"messages": [{"role": "user", "content": "Where is the sapphire?"}], "camera": "door"}
            answer = await http.post("/v1/chat/completions", json=asked)
            await http.get(answer.json()["choices"][0]["message"]["annotations"][0]["url"])
            await http.post("/v1/chat/completions", json={**asked, "after": 4e9})
            await http.post("/v1/chat/completions", json=asked, headers={"Authorization": "Bearer guessed-wrongly"})
            while not (
                "gate" in site.agent.cameras.intakes and (await http.get("/v1/cameras/gate")).json()["source"]["detail"]
            ):
                await asyncio.sleep(0.02)
    said = "\n".join(JsonLines().format(record) for record in caplog.records if record.name.partition(".")[0] in OURS)
    assert "camera connected" in said
    for private in ("sapphire", "s3cret", "guessed-wrongly", "sig=", *(token.secret for token in site.auth.tokens)):
        assert private not in said


# --- lines that repeat, or cannot be written ---


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def flooding(stream: io.TextIOBase, clock: Clock) -> tuple[logging.Logger, CountedLines]:
    handler = CountedLines(stream, clock=clock)  # type: ignore[arg-type]
    handler.setFormatter(JsonLines())
    logger = logging.Logger("lib")
    logger.addHandler(handler)
    return logger, handler


def test_lines_that_repeat_are_counted() -> None:
    stream, clock = io.StringIO(), Clock()
    logger, handler = flooding(stream, clock)
    for number in range(1000):
        logger.error("error while decoding MB %d", number)
        logger.warning(f"packet {number} lost at 0x{number:x}")  # as libraries do
    for camera in ("door", "yard"):  # of each camera its own
        for _ in range(7):
            logger.error("source failed", extra={"camera": camera})
    assert len(stream.getvalue().splitlines()) == 4 * 5
    clock.now = 61
    logger.error("another line")
    written = [json.loads(each) for each in stream.getvalue().splitlines()[20:]]
    assert [each["message"] for each in written] == [
        "said 995 more times within a minute: error while decoding MB %d",
        "said 995 more times within a minute: packet # lost at #",
        "said 2 more times within a minute: source failed",
        "said 2 more times within a minute: source failed",
        "another line",
    ]
    assert [each.get("camera") for each in written] == [None, None, "door", "yard", None]
    assert [each["level"] for each in written] == ["error", "warning", "error", "error", "error"]
    handler.close()


def test_kinds_of_lines_are_bounded_and_the_last_counts_are_written() -> None:
    stream, clock = io.StringIO(), Clock()
    logger, handler = flooding(stream, clock)
    for number in range(5000):
        logger.error("x" * (number % 97) + "y" * (number // 97))
    assert len(handler._window.counts) <= 501
    assert len(stream.getvalue().splitlines()) < 520
    handler.close()
    assert "more times within a minute: (lines of many kinds)" in stream.getvalue().splitlines()[-1]


async def test_counts_are_written_also_when_nobody_says_more() -> None:
    stream = io.StringIO()
    handler = CountedLines(stream, window_s=0.05)
    logger = logging.Logger("lib")
    logger.addHandler(handler)
    for _ in range(100):
        logger.error("again")
    while "more times" not in stream.getvalue():  # the test's time limit is the judge
        await asyncio.sleep(0.01)
    handler.close()


def test_no_thread_for_the_counts_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    written, now = io.StringIO(), 0.0
    handler = CountedLines(written, clock=lambda: now)
    record = logging.makeLogRecord({"msg": "frame waits"})
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for _ in range(9):
            handler.handle(record)
    now = 61.0
    handler.handle(record)
    assert "said 4 more times" in written.getvalue()
    handler.close()


def test_what_cannot_be_written_raises_nothing() -> None:
    closed = io.StringIO()
    closed.close()
    full = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115 - closing it fails
    for stream in (closed, full):
        logger, handler = flooding(stream, Clock())
        logger.error("one")
        logger.error("%d and %s", "fits not")
        assert handler.num_lost == 2
        handler.close()
    with suppress(OSError):
        full.close()


def test_arguments_that_do_not_fit_are_written_as_they_are() -> None:
    assert line(msg="%d frames", args=("no number",))["message"] == "%d frames ('no number',)"
    deep: list[object] = []
    for _ in range(50):
        deep = [deep]
    assert line(deep=deep, half="\ud800", number=float("nan"), odd={1: {2}})["half"] == "\\ud800"
