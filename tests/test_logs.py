"""One JSON object a line, with the extra fields, whatever they are."""

import json
import logging
from pathlib import Path

import pytest

from agent.logs import JsonLines, set_up_logs


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
