"""Structured logs: each line on stderr is one JSON object.

The values of a log call's `extra` become fields of the object. Passwords in URLs are redacted. Nothing else filters
secrets, so callers must never log the text of questions or tokens. Repeated lines are counted instead of written
(`agent/runtime/log_repeats.py`). Logging never raises and never waits for disk space: a line that cannot be written is
only counted.
"""

import logging
import sys
from datetime import UTC, datetime
from typing import Any

from agent.runtime.log_repeats import CountedLines
from agent.untrusted.plain import plain_json
from streaming.redact import redact_text

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}
_MAX_DEPTH = 8


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON: time, level, logger, message, then its extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message_of(record),
        }
        fields |= {name: value for name, value in vars(record).items() if name not in _OWN}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return plain_json(_plain(fields, _MAX_DEPTH))


def _message_of(record: logging.LogRecord) -> str:
    """Return the formatted message. If the arguments do not fit the format string, return both unformatted."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} {record.args}"


def _plain(value: Any, depth: int) -> Any:
    """Return `value` as JSON types, with passwords redacted and without lone surrogates.

    depth: how many levels of containers to convert. Containers nested deeper than `depth` levels, and other types,
    become their text.
    """
    match value:
        case None | bool() | int() | float():
            return value
        case dict() if depth:
            return {str(_plain(str(key), 0)): _plain(each, depth - 1) for key, each in value.items()}
        case list() | tuple() | set() | frozenset() if depth:
            return [_plain(each, depth - 1) for each in value]
    return redact_text(str(value)).encode("utf-8", "backslashreplace").decode()


def set_up_logs(level: str) -> None:
    """Write log lines of `level` and above to stderr as JSON. Of libraries, write only warnings and errors."""
    handler = CountedLines(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for library in (
        "aioice",
        "aiortc",
        "libav",
        "httpx",
        "httpcore",
        "asyncio",
        "faiss",
        "uvicorn.access",
        "mqtt",
        "amqtt",
    ):
        logging.getLogger(library).setLevel(logging.WARNING)
