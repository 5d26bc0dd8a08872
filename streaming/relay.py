"""Pass a camera's encoded pictures on to viewers, without decoding them. See `streaming/whep.py`."""

import asyncio
from collections import deque
from dataclasses import dataclass

CODECS = {"vp8": "VP8", "h264": "H264"}  # those that WebRTC viewers take, by FFmpeg's names
MAX_WAITING = 120  # pictures of one viewer
_CLOCK_RATE_HZ = 90_000
_LONGEST_STEP_TICKS = 5 * _CLOCK_RATE_HZ
_USUAL_STEP_TICKS = _CLOCK_RATE_HZ // 25
_WRAP_TICKS = 1 << 32


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture. `ticks`: its time in units of 1/90000 s."""

    data: bytes
    ticks: int
    is_key: bool


class Relay:
    """The encoded pictures of one source. `codec`: "VP8" or "H264", once a picture has come; "": it cannot be viewed.

    `put` may be called from any one thread, everything else on the event loop of the viewers.
    """

    def __init__(self) -> None:
        self.codec = ""
        self.wants_key = False  # a viewer waits for a key frame; the source requests one if it can
        self._views: tuple[View, ...] = ()

    @property
    def is_watched(self) -> bool:
        """Whether anybody views. Without viewers, pictures need not be put."""
        return bool(self._views)

    def put(self, picture: Picture) -> None:
        """Give a picture to all viewers."""
        for view in self._views:
            view.loop.call_soon_threadsafe(view.put, picture)

    def view(self) -> "View":
        """Return a new view, which begins with the next key frame. It must be closed."""
        view = View(self)
        self._views = (*self._views, view)
        self.wants_key = True
        return view

    def leave(self, view: "View") -> None:
        """Give no more pictures to a view."""
        self._views = tuple(each for each in self._views if each is not view)

    def close(self) -> None:
        """End all views, because the source has ended."""
        for view in self._views:
            view.close()


class View:
    """The pictures of a relay for one viewer.

    Overload policy: if MAX_WAITING pictures wait, all are dropped, and the view goes on with the next key frame.
    """

    def __init__(self, relay: Relay) -> None:
        self.loop = asyncio.get_running_loop()
        self.ended = asyncio.Event()
        self._relay = relay
        self._waiting: deque[Picture] = deque()
        self._changed = asyncio.Event()
        self._began = False
        self._last: int | None = None  # ticks of the source
        self._ticks = 0

    def put(self, picture: Picture) -> None:
        """Add a picture."""
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.clear()
            self._began, self._relay.wants_key = False, True
        self._began = self._began or picture.is_key
        if self._began and not self.ended.is_set():
            self._waiting.append(picture)
            self._changed.set()

    async def get(self) -> tuple[bytes, int] | None:
        """Wait for a picture. Return its data and its ticks from 0 on, without jumps; None when the view has ended."""
        while not self._waiting and not self.ended.is_set():
            self._changed.clear()
            await self._changed.wait()
        if not self._waiting:
            return None
        picture = self._waiting.popleft()
        step = 0 if self._last is None else (picture.ticks - self._last) % _WRAP_TICKS
        # a source that connects again starts its timestamps anew
        self._ticks += step if step <= _LONGEST_STEP_TICKS else _USUAL_STEP_TICKS
        self._last = picture.ticks
        return picture.data, self._ticks

    def close(self) -> None:
        """End the view. Idempotent."""
        self._relay.leave(self)
        self.ended.set()
        self._changed.set()
