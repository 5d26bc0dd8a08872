"""Open a video file or a live camera with PyAV and decode its frames.

This module chooses the video track, and distinguishes damage from the regular end of a file. All calls block; they run
in the thread of a `Worker`. `media.py` adds pacing, reconnecting and wall-clock times. A medium is a file or a camera.
"""

import errno
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av
from av.stream import Disposition

from streaming.clock import FileClock, in_seconds
from streaming.errors import (
    FAULTS,
    MediaDamaged,
    MediaError,
    MediaLost,
    MediaNotFound,
    MediaStalled,
    MediaUnreadable,
    PictureTooLarge,
    in_words,
    reason,
    shown,
)
from streaming.http_input import HttpOpener
from streaming.picture import MAX_PIXELS, PixelAspect
from streaming.redact import hint
from streaming.relay import CODECS, Picture, Relay

_PRFT = struct.Struct("=q")  # AVProducerReferenceTime begins with the wall clock in microseconds
_ENDS_EARLY_S = 1.0  # a file that lacks more than this and 2 % of its declared length is truncated
_ENDS_EARLY_PART = 0.02
_GENERATE_PTS = 0x1  # AVFMT_FLAG_GENPTS, set by PyAV: it guesses wrong timestamps for reordered frames
_MAY_STEP = 0x200  # AVFMT_TS_DISCONT: formats of broadcasts, whose timestamps may jump
_RTP_CLOCK_HZ = 90_000
_START_CODES = (b"\x00\x00\x01", b"\x00\x00\x00\x01")  # H.264 in the form of Annex B
_NO_TIMESTAMPS = 0x80  # AVFMT_NOTIMESTAMPS
_SMALL_BYTES = 64 << 20
_GAP_S, _GAP_WHERE_TIMES_JUMP_S = 10.0, 3.0
_ORNAMENT = Disposition.attached_pic | Disposition.timed_thumbnails  # cover art and previews, never the video
_ASIDE = _ORNAMENT | Disposition.still_image


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded frame. `media_s`: seconds since a file's first frame, or the camera's own time; None if unknown."""

    frame: av.VideoFrame
    ticks: int | None
    media_s: float | None
    pixel_aspect: float
    reference: tuple[float, int] | None  # (unix seconds, ticks) from the sender's clock


class Input:
    """An open video file or live camera. `frames()` may be iterated once. It and the constructor raise MediaErrors.

    `live`: whether it has no end.
    """

    def __init__(
        self, url: str, *, live: bool | None, format: str | None = None, options: Mapping[str, str] | None = None,  # noqa: A002
        timeout_s: float | None = None, opener: HttpOpener | None = None, relay: Relay | None = None,
    ) -> None:  # fmt: skip
        """`url`: a file's path, or an address that FFmpeg can open. `opener`: fetches the data instead of FFmpeg.

        `live`: None means that it is live unless it declares a length. `relay`: gets the encoded pictures.
        """
        self._opener = opener
        self._relay = relay
        self._shown = shown(url)
        self.live = live is not False
        here = not self.live and opener is None
        self.num_frames = 0
        self.remarks: dict[str, str] = {}  # sentences about errors in the file that were corrected, by subject
        self._decode_errors = 0
        if "\0" in url:  # FFmpeg would read the part before it
            raise MediaNotFound(f"{self._shown}: no such file; check the path")
        try:
            self._container = av.open(
                f"file:{url}" if here else url,  # so that no part of a file's name is taken for a protocol
                format=format,
                options={**FILE_OPTIONS, **(options or {})} if here else dict(options or {}),
                timeout=timeout_s,
                metadata_errors="replace",
                io_open=opener,
            )
        except (MediaError, *FAULTS) as error:
            if opener is not None:
                opener.close()
            raise _opening_error(url, not here, error) from None
        try:
            with in_words(f"{self._shown} cannot be read as video"):
                self._prepare()
            self.live = self.declared_s() is None if live is None else live
        except MediaError:
            self.close()
            raise

    def _prepare(self) -> None:
        """Choose the video track and set up its decoder."""
        tracks = self._container.streams.video
        if not films(tracks):
            cover = ", only a cover picture" if tracks else ""
            raise MediaUnreadable(f"{self._shown} has no video track{cover}; name a medium that has one")
        stream = best_track(tracks, self._container.duration and self._container.duration / av.time_base)
        if stream is None:
            raise MediaUnreadable(
                f"{self._shown}: the codec of its video is not known here; "
                + ("set the camera to H.264" if self.live else "convert it: ffmpeg -i FILE -c:v libx264 NEW.mp4")
            )
        context = stream.codec_context
        if context.width * context.height > MAX_PIXELS:
            raise PictureTooLarge(
                f"{self._shown}: {context.width}x{context.height} is more than {MAX_PIXELS} pixels; "
                "lower the resolution"
            )
        # Frame threads delay frames by the number of threads, which is fine for a file only. And a hundred cameras with
        # a thread per core would be too many threads.
        context.thread_type = "SLICE" if self.live else "AUTO"
        context.thread_count = 1 if self.live else 0
        context.options = {"max_pixels": str(MAX_PIXELS)}  # refuses a larger frame later on
        self._container.flags &= ~_GENERATE_PTS
        self._stream = stream
        self._aspect = PixelAspect(stream)

    @property
    def codec(self) -> str:
        """The name of the video's codec, such as "h264"."""
        return str(self._stream.codec_context.name)

    @property
    def timed(self) -> bool:
        """Whether the medium has timestamps of its own."""
        return not self._container.format.flags & _NO_TIMESTAMPS

    @property
    def clock_rate_hz(self) -> float:
        """The number of ticks per second of the frames' timestamps."""
        base = self._stream.time_base
        return base.denominator / base.numerator if base else 90_000.0

    def take_decode_errors(self) -> int:
        """Return the number of packets that could not be decoded, counted from the last call of this method on."""
        taken, self._decode_errors = self._decode_errors, 0
        return taken

    def declared_s(self) -> float | None:
        """Return the length that the medium declares in seconds, None if it does not. Raises MediaUnreadable."""
        with in_words(f"{self._shown} cannot be read as video"):
            length_s = in_seconds(self._stream.duration or None, self._stream.time_base)
            if length_s is None and self._container.duration:
                length_s = self._container.duration / av.time_base
        return length_s if length_s is None or length_s > 0 else None

    @property
    def knows_its_length(self) -> bool:
        """Whether `declared_s` is exact. For raw streams and broadcast recordings, FFmpeg guesses the length."""
        return self.declared_s() is not None and not self._container.format.flags & _MAY_STEP

    def measured_s(self) -> float | None:
        """Return the length in seconds from the packets' timestamps, without decoding; None without packets.

        Reads the file to its end.
        """
        clock, num_packets = self._clock(), 0
        with suppress(*FAULTS):  # damage is reported when frames are read
            for packet in self._container.demux(self._stream):
                if packet.size:
                    num_packets += 1
                    clock.place(packet.dts, packet.duration, packet.time_base)
        return clock.shown_s if num_packets else None

    def frames(self) -> Iterator[Decoded]:
        """Yield every frame that can be decoded, in order.

        After the last frame, raises MediaDamaged if a file ended before its declared length, MediaLost for a camera.
        """
        clock = None if self.live else self._clock()
        failure = ""
        packets = self._container.demux(self._stream)
        while True:
            try:
                if self._opener is not None:
                    self._opener.begin()
                packet = next(packets)
                reference = _reference_time(packet)
            except (StopIteration, av.EOFError):
                break
            except FAULTS as error:
                if self.live and isinstance(error, av.ExitError):
                    raise MediaStalled(f"{self._shown}: {reason(error)}") from None
                failure = reason(error)
                break
            if self._relay is not None:
                self._pass_on(packet, self._relay)
            for frame in self._decode(packet):
                media_s = in_seconds(frame.pts, frame.time_base) if clock is None else clock.next(frame)
                self.num_frames += 1
                if self._opener is not None:
                    self._opener.playing()
                yield Decoded(frame, frame.pts, media_s, self._aspect.now(), reference)
        if clock is None:
            raise MediaLost(f"{self._shown}: {failure or 'the camera ended the stream'}")
        self._judge_end(failure, clock)

    def _pass_on(self, packet: av.Packet, relay: Relay) -> None:
        """Give an encoded picture to viewers, a key frame with the parameter sets that RTSP cameras send apart."""
        relay.codec = CODECS.get(self.codec, "")
        if not (relay.codec and relay.is_watched and packet.size and packet.pts is not None and packet.time_base):
            return
        data, header = bytes(packet), bytes(self._stream.codec_context.extradata or b"")
        if packet.is_keyframe and header.startswith(_START_CODES) and header not in data:
            data = header + data
        relay.put(Picture(data, round(packet.pts * packet.time_base * _RTP_CLOCK_HZ), packet.is_keyframe))

    def _decode(self, packet: av.Packet) -> list[av.VideoFrame]:
        """Return the frames decoded from a packet. If decoding fails, count an error and return none.

        The decoder recovers at the next key frame.
        """
        try:
            return packet.decode()  # type: ignore[no-any-return]
        except av.EOFError:
            return []
        except FAULTS:
            self._decode_errors += 1
            return []

    def _clock(self) -> FileClock:
        rates = [float(rate) for rate in (self._stream.guessed_rate, self._stream.average_rate) if rate]
        gap_s = _GAP_WHERE_TIMES_JUMP_S if self._container.format.flags & _MAY_STEP else _GAP_S
        return FileClock(rates, gap_s, self.remarks)

    def _judge_end(self, failure: str, clock: FileClock) -> None:
        if self.num_frames == 0:
            raise MediaUnreadable(
                f"{self._shown}: no frame could be decoded ({failure or 'damaged or empty'}). Copy the file "
                "again, or convert it: ffmpeg -i FILE -c:v libx264 NEW.mp4"
            )
        failure = failure or self._missing_end(clock)
        if failure:
            raise MediaDamaged(
                f"{self._shown} is truncated or damaged ({failure}). The {self.num_frames} frames "
                f"({clock.covered_s:.1f} s) before the damage were kept. Copy the file again, "
                "or repair it: ffmpeg -i FILE -c copy NEW.mp4"
            )

    def _missing_end(self, clock: FileClock) -> str:
        """Return a text that says how much of the declared length is missing, "" if nothing is.

        The lengths of other tracks are ignored.
        """
        declared_s = self.declared_s()
        if declared_s is None or clock.joined or (not self._stream.duration and len(self._container.streams) > 1):
            return ""
        interval_s = clock.covered_s / max(1, self.num_frames - 1)
        missing_s = declared_s - max(clock.covered_s + interval_s, clock.reached_s + interval_s, clock.shown_s)
        if missing_s <= _ENDS_EARLY_S + interval_s + _ENDS_EARLY_PART * declared_s:
            return ""
        return f"{missing_s:.1f} of {declared_s:.1f} s are missing"

    def close(self) -> None:
        """Close the medium. Idempotent."""
        self._container.close()
        if self._opener is not None:
            self._opener.close()


def best_track(tracks: Sequence[av.VideoStream], duration_s: float | None) -> av.VideoStream | None:
    """Return the track with the most pixels per second, None if no track can be decoded.

    Frame rates above one a second count as one. So a high resolution at 1 Hz wins over a low one at 30 Hz, but pictures
    every ten seconds do not. Among equal tracks, the default track wins, then the first.
    """
    usable = [track for track in films(tracks) if track.codec_context is not None]
    return max(usable, key=lambda track: _rank(track, duration_s), default=None)


def films(tracks: Sequence[av.VideoStream]) -> list[av.VideoStream]:
    """Return the tracks that show the video, without cover art and thumbnails."""
    return [track for track in tracks if not track.disposition & _ORNAMENT]


def _rank(track: av.VideoStream, duration_s: float | None) -> tuple[bool, bool, float, bool]:
    moving = track.frames != 1 or len(track.container.streams.video) == 1
    aside = bool(track.disposition & _ASIDE)
    rate = min(1.0, float(track.average_rate or 1))
    pixels = track.codec_context.width * track.codec_context.height
    default = bool(track.disposition & Disposition.default)
    return not aside, moving, pixels * rate * _covered(track, duration_s), default


def _covered(track: av.VideoStream, duration_s: float | None) -> float:
    """Return the share of the medium's length that the track covers, 1 if it is unknown."""
    if not track.duration or not track.time_base or not duration_s or duration_s <= 0:
        return 1.0
    return min(1.0, max(0.0, float(track.duration * track.time_base) / duration_s))


def length_s(path: str) -> float | None:
    """Return the length of a video file in seconds, without gaps in its timestamps; None if unknown.

    Reads small files to their end. Large files are read to their end only if their length would otherwise be a guess.
    Raises MediaNotFound, MediaUnreadable.
    """
    medium = Input(path, live=False)
    try:
        declared_s = medium.declared_s()
        if medium.knows_its_length and Path(path).stat().st_size > _SMALL_BYTES:
            return declared_s
        return medium.measured_s() or declared_s
    except OSError as error:
        raise _opening_error(path, False, error) from None
    finally:
        medium.close()


# demuxers that read other files, addresses or devices: a file that is a playlist must not make us open what it lists
_INDIRECT = frozenset({
    "hls", "dash", "concat", "sdp", "rtsp", "rtp", "sap", "imf", "image2", "image2pipe", "lavfi", "vobsub",
    "webm_dash_manifest", "smoothstreaming", "hds", "alsa", "oss", "fbdev", "kmsgrab", "x11grab", "v4l2", "video4linux2",
    "pulse", "jack", "libcdio", "iec61883", "dvdvideo", "vapoursynth", "avisynth",
})  # fmt: skip
_TEXT = frozenset({"tty", "bin", "xbin", "adf", "idf"})  # draw text as pictures


def direct_formats(*others: str) -> str:
    """Return an allow list of demuxers for FFmpeg: those that read nothing but the file itself, and `others`."""
    names = {part for name in av.formats_available for part in name.split(",")}
    return ",".join(sorted((names - _INDIRECT - _TEXT) | set(others)))


FILE_OPTIONS: Mapping[str, str] = {"protocol_whitelist": "file", "format_whitelist": direct_formats()}


def _reference_time(packet: av.Packet) -> tuple[float, int] | None:
    if packet.pts is None or not packet.has_sidedata("prft"):
        return None
    data = bytes(packet.get_sidedata("prft"))
    if len(data) < _PRFT.size:
        return None
    return _PRFT.unpack_from(data)[0] / 1e6, packet.pts


def _opening_error(url: str, live: bool, error: BaseException) -> MediaError:
    if isinstance(error, MediaError):
        return error
    name, why = shown(url), reason(error)
    if live:
        advice = hint(url)
        if isinstance(error, OSError) and error.errno == errno.EPROTONOSUPPORT:
            advice = "the camera refuses this transport; transport: auto tries TCP and UDP"
        return MediaLost(f"{name}: {why}{f' ({advice})' if advice else ''}")
    if isinstance(error, FileNotFoundError):
        return MediaNotFound(f"{name}: no such file; check the path")
    if isinstance(error, PermissionError | IsADirectoryError):
        return MediaUnreadable(f"{name}: {why}; name a video file this user may read")
    if isinstance(error, av.ArgumentError):
        why = "it is a playlist, another list of files or a text, which are not supported, or damaged"
    elif _is_empty(url):
        why = "the file is empty"
    return MediaUnreadable(
        f"{name} cannot be read as video ({why}). If it was still being copied or recorded, wait for its end and "
        "copy it again; otherwise convert it: ffmpeg -i FILE -c:v libx264 NEW.mp4"
    )


def _is_empty(path: str) -> bool:
    try:
        return Path(path).is_file() and Path(path).stat().st_size == 0
    except (OSError, ValueError):
        return False
