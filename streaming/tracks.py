"""Which video track of a medium is the video: not its cover art, nor a small preview, nor one that cannot be decoded."""

from collections.abc import Sequence
from fractions import Fraction

import av
from av.stream import Disposition

_ORNAMENT = Disposition.attached_pic | Disposition.timed_thumbnails  # beside a film or a piece of music, never the film
_ASIDE = _ORNAMENT | Disposition.still_image


def best_track(tracks: Sequence[av.VideoStream], duration_s: float | None) -> av.VideoStream | None:
    """The track to read: the one that shows most pixels over the length of the medium. None: none can be decoded.

    A track counts as often as once a second, so a sharp one at 1 Hz is preferred to a blurred one at 30, but not one of
    thumbnails every ten seconds. Of equals the default one is taken, then the first.
    """
    usable = [track for track in films(tracks) if track.codec_context is not None]
    return max(usable, key=lambda track: _rank(track, duration_s), default=None)


def films(tracks: Sequence[av.VideoStream]) -> list[av.VideoStream]:
    """The tracks without cover art and thumbnails."""
    return [track for track in tracks if not track.disposition & _ORNAMENT]


def _rank(track: av.VideoStream, duration_s: float | None) -> tuple[bool, bool, float, bool]:
    moving = track.frames != 1 or len(track.container.streams.video) == 1
    aside = bool(track.disposition & _ASIDE)
    rate = min(1.0, float(track.average_rate or 1))
    pixels = track.codec_context.width * track.codec_context.height
    default = bool(track.disposition & Disposition.default)
    return not aside, moving, pixels * rate * _covered(track, duration_s), default


def _covered(track: av.VideoStream, duration_s: float | None) -> float:
    """The part of the medium's length that the track covers; 1 where it does not say."""
    if not track.duration or not track.time_base or not duration_s or duration_s <= 0:
        return 1.0
    return min(1.0, max(0.0, float(track.duration * track.time_base) / duration_s))


class PixelAspect:
    """The shape of a track's pixels: what the container says, or the stream itself once that has changed."""

    def __init__(self, track: av.VideoStream) -> None:
        self._context = track.codec_context
        self._declared: Fraction | None = track.sample_aspect_ratio
        self._first: Fraction | None = None
        self._decoded = False

    def now(self) -> float:
        """Width of a pixel by its height, after a frame has been decoded. 1 where nothing is said."""
        current = self._context.sample_aspect_ratio
        if not self._decoded:
            self._first, self._decoded = current, True
        aspect = current if current != self._first else self._declared or current
        return float(aspect) if aspect else 1.0
