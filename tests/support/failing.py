"""Exceptions of every kind that a task may meet, and a function that raises them one after the other."""

import asyncio
import errno
from collections.abc import Callable
from typing import Any

from aiomqtt import MqttError


def failures() -> list[BaseException]:
    """Return new exceptions of the system, of memory, of threads, of our code and of libraries."""
    return [
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.EOPNOTSUPP, "Operation not supported"),
        MemoryError(),
        RuntimeError("can't start new thread"),
        ValueError("odd"),
        AttributeError("'NoneType' object has no attribute 'decode'"),
        KeyError("gone"),
        MqttError("a library's own"),
        asyncio.CancelledError(),
    ]


class Failing:
    """A function that raises each of the failures once, then calls `inner`."""

    def __init__(self, inner: Callable[..., Any], given: list[BaseException] | None = None) -> None:
        self.left = failures() if given is None else given
        self._inner = inner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.left:
            raise self.left.pop(0)
        return self._inner(*args, **kwargs)
