"""One daemon thread for blocking calls on something that only one thread may touch (a PyAV container).

The event loop pulls: it submits one call and awaits its value, so cancellation falls between calls. A call that has
begun cannot be interrupted; nobody waits for it (the thread is a daemon and ends after it). Overload cannot happen:
callers submit one call at a time.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class WorkerStopped(Exception):
    """The source was closed while it was still being read."""


_Call = tuple[Callable[[], object], "asyncio.Future[object]", asyncio.AbstractEventLoop]


class Worker:
    """A thread that is started by the first call and stopped by `stop`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[_Call | Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopped = False

    async def run(self, call: Callable[[], T]) -> T:
        """The value of `call()`, made in the thread; its exception if it raises one, WorkerStopped after `stop`."""
        if self._stopped:
            raise WorkerStopped
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()
        self._calls.put((call, future, loop))
        return await future  # type: ignore[return-value]

    def stop(self, last_call: Callable[[], None]) -> None:
        """Ends the thread after what it is doing and `last_call` (releasing what it used). Does not wait."""
        if self._stopped:
            return
        self._stopped = True
        if self._thread is not None:
            self._calls.put(last_call)

    def _serve(self) -> None:
        while True:
            item = self._calls.get()
            if not isinstance(item, tuple):
                item()
                return
            _run_one(*item)


def _run_one(call: Callable[[], object], future: "asyncio.Future[object]", loop: asyncio.AbstractEventLoop) -> None:
    value: object = None
    error: BaseException | None = None
    try:
        value = call()
    except BaseException as raised:  # noqa: BLE001  it is carried to the awaiting task, whole
        error = raised
    try:
        loop.call_soon_threadsafe(_settle, future, value, error)
    except RuntimeError:
        return  # the loop has been closed meanwhile: nobody is waiting


def _settle(future: "asyncio.Future[object]", value: object, error: BaseException | None) -> None:
    if future.done():  # cancelled by the waiter
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)
