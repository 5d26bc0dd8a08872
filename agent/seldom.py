"""Log lines that others can cause: each kind at most once a minute, with how many there were."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

EVERY_S = 60.0


class Seldom:
    """Warnings to `log`. `message` is the kind: it must not hold what others send."""

    def __init__(self, log: logging.Logger, now: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._now = now
        self._said: dict[str, float] = {}
        self._kept: Counter[str] = Counter()

    def warning(self, message: str, **extra: Any) -> None:
        """Log it, with the fields of the newest, or only count it."""
        now = self._now()
        if now - self._said.get(message, float("-inf")) < EVERY_S:
            self._kept[message] += 1
            return
        unsaid = self._kept.pop(message, 0)
        self._said[message] = now
        self._log.warning(message, extra={**extra, **({"not_logged_before": unsaid} if unsaid else {})})
