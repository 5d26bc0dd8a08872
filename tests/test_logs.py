"""One JSON object a line, with the extra fields, whatever they are."""

import asyncio
import json
import logging
from pathlib import Path

import httpx
import pytest

from agent.logs import JsonLines, set_up_logs
from tests.agents import remember, served


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
                "gate" in site.agent.intakes and (await http.get("/v1/cameras/gate")).json()["source"]["detail"]
            ):
                await asyncio.sleep(0.02)
    said = "\n".join(JsonLines().format(record) for record in caplog.records if record.name.partition(".")[0] in OURS)
    assert "camera connected" in said
    for private in ("sapphire", "s3cret", "guessed-wrongly", "sig=", *(token.secret for token in site.auth.tokens)):
        assert private not in said
