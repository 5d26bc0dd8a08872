"""Which pictures count as damaged, when key frames are requested, and which layer of a simulcast is taken."""

from dataclasses import dataclass

from streaming.frame import SourceStats
from streaming.packets import Packet
from streaming.reception import ASK_AGAIN_S, DEAF_AFTER_S, Reception


@dataclass
class Vp8:
    name: str = "VP8"


KEY = b"\x10\x00\x00\x9d\x01\x2a%b\xf0\x00rest"
BIG, SMALL = KEY % b"\x80\x02", KEY % b"\xa0\x00"  # 640x240 and 160x240
OTHER = b"\x11\x00\x00rest"


class Line:
    """Sends one-packet pictures of one stream, and decodes them at once."""

    def __init__(self, reception: Reception, decoded: list, ssrc: int = 1) -> None:
        self._reception, self._decoded, self._ssrc = reception, decoded, ssrc
        self._sequence = 0

    def lose(self, num: int = 600) -> None:
        """Lose so many packets that no repetition is waited for."""
        self._sequence += num

    def send(self, data: bytes, now: float) -> bool:
        """Send a picture. Return whether a key frame was requested."""
        self._sequence += 1
        packet = Packet(self._sequence % 65_536, self._sequence * 3000, data, True, True)
        return self._reception.add(self._ssrc, Vp8(), packet, now)


def setting() -> tuple[Reception, list, SourceStats]:
    passed: list = []
    stats = SourceStats()
    return Reception(passed.append, stats), passed, stats


def test_pictures_before_the_first_key_frame_are_damaged_and_one_is_requested() -> None:
    reception, passed, stats = setting()
    line = Line(reception, passed)
    assert line.send(OTHER, 0.0)
    assert not line.send(OTHER, 0.1)
    assert line.send(OTHER, ASK_AGAIN_S)
    line.send(BIG, 0.6)
    line.send(OTHER, 0.7)
    line.send(OTHER, 0.8)
    told = [reception.decoded(item[1].timestamp) for item in passed]
    assert [each.damaged for each in told] == [False, False, False]  # nothing was passed on before
    assert stats.key_frames_requested == 2


def test_after_a_loss_pictures_are_damaged_until_a_key_frame() -> None:
    reception, passed, stats = setting()
    line = Line(reception, passed)
    for at, data in enumerate([BIG, OTHER, OTHER]):
        line.send(data, at * 0.1)
    line.lose()
    asked = [line.send(data, 1.0 + at * 0.1) for at, data in enumerate([OTHER, OTHER, BIG, OTHER, OTHER])]
    told = [reception.decoded(item[1].timestamp) for item in passed]
    assert [each.damaged for each in told] == [False, False, False, True, True, False, False, False]
    assert not any(each.kept_anyway for each in told)
    assert asked.count(True) == 1
    assert stats.damaged == 2
    assert stats.packets_lost == 600
    assert reception.decoded(told[0].ticks + 10_000) is None


def test_damaged_pictures_are_worth_keeping_if_no_key_frame_comes() -> None:
    reception, passed, _ = setting()
    line = Line(reception, passed)
    for at, data in enumerate([BIG, OTHER]):
        line.send(data, at * 0.1)
    line.lose()
    asked = sum(line.send(OTHER, 1.0 + at * 0.1) for at in range(100))
    assert 6 + 3 <= asked <= 12  # seldom, later
    anyway = [reception.decoded(item[1].timestamp).kept_anyway for item in passed]
    assert anyway.index(True) == round(DEAF_AFTER_S / 0.1) + 1 + 1
    line.send(BIG, 12.0)
    line.lose()
    line.send(OTHER, 13.0)
    line.send(OTHER, 13.1)
    assert reception.decoded(passed[-1][1].timestamp).kept_anyway  # it is known by now
    line.send(BIG, 13.2)  # it did answer, this time
    line.send(OTHER, 13.3)
    line.lose()
    line.send(OTHER, 14.0)
    line.send(OTHER, 14.1)
    assert not reception.decoded(passed[-1][1].timestamp).kept_anyway


def test_pictures_that_wait_for_a_decoder_that_failed_are_damaged() -> None:
    reception, passed, _ = setting()
    line = Line(reception, passed)
    for at, data in enumerate([BIG, OTHER, OTHER, OTHER]):
        line.send(data, at * 0.1)
    assert not reception.decoded(passed[0][1].timestamp).damaged
    reception.lose(0.5)
    assert reception.decoded(passed[1][1].timestamp).damaged
    assert line.send(OTHER, 0.6)
    assert reception.decoded(passed[-1][1].timestamp).damaged


def test_the_largest_layer_is_taken_while_it_is_sent() -> None:
    reception, passed, _ = setting()
    small, big = Line(reception, passed, 1), Line(reception, passed, 2)

    def both(data: tuple[bytes, bytes], now: float) -> None:
        small.send(data[0], now)
        big.send(data[1], now)

    both((SMALL, BIG), 0.0)
    for at in range(1, 10):
        both((OTHER, OTHER), at * 0.1)
    told = [reception.decoded(item[1].timestamp) for item in passed]
    assert {each.layer for each in told[1:]} == {2}
    asked = [small.send(SMALL if at == 20 else OTHER, 1.0 + at * 0.1) for at in range(30)]  # the large one has stopped
    assert any(asked)
    assert reception.taken == 1
    both((OTHER, BIG), 5.0)
    both((OTHER, OTHER), 5.1)
    assert reception.taken == 2
