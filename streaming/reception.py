"""Receive one video track: repair what was lost on the way, and tell damaged pictures from good ones.

After a loss that was not repaired, every picture is damaged until the next key frame, which is requested until it comes.
Of a simulcast, the largest layer is taken. This module reads no clock and no network: times are arguments, in monotonic
seconds.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from streaming.encoded import Codec, EncodedFrame, Unreadable, is_key, picture_size
from streaming.frame import SourceStats
from streaming.packets import Packet, PacketOrder, Picture
from streaming.relay import CODECS, Relay
from streaming.relay import Picture as Relayed

ASK_AGAIN_S = 0.5  # between two requests for a key frame
_ASK_SLOWLY_S = 2.0
DEAF_AFTER_S = 3.0  # without a key frame; later pictures are then worth keeping although they are damaged
_SILENT_S = 1.5  # a layer of which nothing came for so long is no longer taken
_MAX_LAYERS = 8
_MAX_TOLD = 512  # encoded pictures whose details are remembered until they are decoded


class Repair:
    """The wait for a key frame after a loss."""

    def __init__(self) -> None:
        self.num_asked = 0
        self.deaf = False  # the sender does not answer requests for a key frame
        self._since: float | None = None  # waiting for a key frame
        self._asked_at: float | None = None

    @property
    def waiting(self) -> bool:
        return self._since is not None

    def lose(self, now: float) -> None:
        """Note that pictures were lost: those that follow are damaged until the next key frame."""
        if self._since is None:
            self._since, self._asked_at = now, None

    def arrived(self, key: bool, now: float) -> None:
        """Note an encoded picture."""
        if self._since is None:
            return
        if now - self._since >= DEAF_AFTER_S:
            self.deaf = True
        if key:
            if self._asked_at is not None and now - self._since < ASK_AGAIN_S:
                self.deaf = False
            self._since = None

    def ask(self, now: float) -> bool:
        """Return whether to request a key frame now, and count it if so."""
        if self._since is None:
            return False
        pause_s = _ASK_SLOWLY_S if now - self._since > DEAF_AFTER_S else ASK_AGAIN_S
        if self._asked_at is not None and now - self._asked_at < pause_s:
            return False
        self._asked_at = now
        self.num_asked += 1
        return True


@dataclass(slots=True)
class Encoded:
    """An encoded picture for the decoder. `timestamp`: its number, which the decoder passes on to the frame as `pts`."""

    data: bytes
    timestamp: int


@dataclass(slots=True)
class Told:
    """What is known of a picture in front of the decoder. `layer`: the SSRC of its stream."""

    ticks: int
    layer: int
    damaged: bool
    kept_anyway: bool  # although it is damaged, as no key frame can be expected soon


@dataclass(slots=True)
class _Layer:
    """One stream of packets (SSRC) of the track."""

    repair: Repair
    order: PacketOrder = field(default_factory=PacketOrder)
    pixels: int = 0  # 0 until its first key frame
    heard_at: float = 0.0


class Reception:
    """Turns packets into encoded pictures for a decoder, and tells of each decoded frame where it came from."""

    def __init__(
        self, decode: Callable[[tuple[Codec, EncodedFrame]], None], stats: SourceStats, relay: Relay | None = None
    ) -> None:
        """`decode`: takes each encoded picture with its codec. `stats`: is updated. `relay`: gets undamaged pictures."""
        self.heard_at = -math.inf  # when the last packet arrived
        self._decode = decode
        self._stats = stats
        self._relay = relay or Relay()
        self._relayed_key_at = -math.inf  # when a viewer last requested a key frame
        self._layers: dict[int, _Layer] = {}
        self.taken: int | None = None  # SSRC of the layer that is decoded
        self._told: OrderedDict[int, Told] = OrderedDict()
        self._num_pictures = 0

    def add(self, ssrc: int, codec: Codec, packet: Packet, now: float) -> bool:
        """Take a packet of the stream `ssrc`. Return whether to request a key frame of this stream now."""
        self.heard_at = now
        layer = self._heard(ssrc, now)
        stats, order = self._stats, layer.order
        received, lost = order.num_received, order.num_lost
        for picture in order.add(packet, now):
            key = is_key(codec.name, picture.data)
            if key:
                layer.pixels = _pixels(codec.name, picture.data) or layer.pixels or 1
                taken = self._layers.get(-1 if self.taken is None else self.taken)
                if taken is None or layer.pixels > taken.pixels:
                    self.taken = ssrc
            if ssrc == self.taken:
                self._take(ssrc, layer, codec, picture, key, now)
            elif key:
                layer.repair.arrived(key, now)
        if ssrc == self.taken:
            stats.codec = codec.name.lower()
            stats.packets_received += order.num_received - received
            stats.packets_lost += order.num_lost - lost
        asks = (ssrc == self.taken or not layer.pixels) and layer.repair.ask(now)
        if ssrc == self.taken and self._relay.wants_key and now - self._relayed_key_at >= ASK_AGAIN_S:
            self._relayed_key_at, asks = now, True
        stats.key_frames_requested += asks
        return asks

    def missing(self, ssrc: int, now: float) -> list[int]:
        """Return the sequence numbers of the stream `ssrc` to request from the sender now."""
        layer = self._layers.get(ssrc)
        return [] if layer is None or (layer.pixels and ssrc != self.taken) else layer.order.missing(now)

    def lose(self, now: float) -> None:
        """Note that pictures were dropped undecoded, or could not be decoded."""
        if self.taken is not None:
            self._layers[self.taken].repair.lose(now)
        for told in self._told.values():
            told.damaged = True

    def decoded(self, number: int | None) -> Told | None:
        """Return what is known of the decoded frame with this `pts`; None if nothing is."""
        told = None if number is None else self._told.pop(number, None)
        if told is not None:
            self._stats.damaged += told.damaged
        return told

    def _heard(self, ssrc: int, now: float) -> _Layer:
        """Return the layer of a packet. The layer that is taken gives way when it has fallen silent."""
        taken = None if self.taken is None else self._layers[self.taken]
        if taken is not None and ssrc != self.taken and now - taken.heard_at > _SILENT_S:
            self._layers, self.taken = {}, None
        if ssrc not in self._layers:
            if len(self._layers) >= _MAX_LAYERS:
                others = [each for each in self._layers if each != self.taken]
                del self._layers[min(others, key=lambda each: self._layers[each].heard_at)]
            self._layers[ssrc] = _Layer(Repair())
            self._layers[ssrc].repair.lose(now)  # nothing can be decoded before the first key frame
        layer = self._layers[ssrc]
        layer.heard_at = now
        return layer

    def _take(self, ssrc: int, layer: _Layer, codec: Codec, picture: Picture, key: bool, now: float) -> None:
        repair = layer.repair
        if picture.after_loss:
            repair.lose(now)
        repair.arrived(key, now)
        self._num_pictures += 1
        self._told[self._num_pictures] = Told(picture.ticks, ssrc, repair.waiting, repair.deaf)
        while len(self._told) > _MAX_TOLD:
            self._told.popitem(last=False)
        self._decode((codec, Encoded(picture.data, self._num_pictures)))
        self._relay.codec = CODECS.get(codec.name.lower(), "")
        if not repair.waiting:
            self._relay.put(Relayed(picture.data, picture.ticks, key))
            self._relay.wants_key = self._relay.wants_key and not key


def _pixels(codec: str, data: bytes) -> int:
    """Return how many pixels a key frame declares, 0 if it declares none."""
    with suppress(Unreadable):
        size = picture_size(codec, data)
        return 0 if size is None else size[0] * size[1]
    return 0
