"""Structured logs: one JSON object a line on stderr.

What is given as `extra` becomes fields. Nothing here filters secrets: callers never log question text, tokens or URLs
with passwords.
"""

import logging
import sys
from datetime import UTC, datetime

from agent.plain import plain_json

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, then its extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {name: value for name, value in vars(record).items() if name not in _OWN}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return plain_json(fields, default=str)


def set_up_logs(level: str) -> None:
    """Send everything from `level` up to stderr as JSON lines; the libraries' chatter only from warnings up."""
    handler = logging.StreamHandler(sys.stderr)
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
