"""The order of packets: pictures from packets that come late, twice, in disorder or never."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.packets import NACK_AGAIN_S, PATIENCE_S, Packet, PacketOrder, Picture, begins_picture

FRAME = 3000  # ticks between pictures


def packets(num: int, parts: int = 3, first: int = 65_530) -> list[Packet]:
    """Return the packets of `num` pictures, with sequence numbers that wrap soon."""
    return [
        Packet((first + at) % 65_536, at // parts * FRAME, bytes([at % 256]), at % parts == 0, (at + 1) % parts == 0)
        for at in range(num * parts)
    ]


def fed(order: PacketOrder, sent: list[Packet], start: float = 0.0, step_s: float = 0.01) -> list[Picture]:
    return [picture for at, packet in enumerate(sent) for picture in order.add(packet, start + at * step_s)]


def test_pictures_come_out_whole_and_in_order() -> None:
    pictures = fed(PacketOrder(), packets(5))
    assert [picture.ticks for picture in pictures] == [0, 3000, 6000, 9000, 12_000]
    assert pictures[1].data == bytes([3, 4, 5])
    assert [picture.after_loss for picture in pictures] == [True, False, False, False, False]


@pytest.mark.parametrize("ends", [False, True])
def test_pictures_come_out_whole_if_their_last_packets_are_not_marked_rightly(ends: bool) -> None:
    """Some senders mark no packet, others the last one of each unit of a picture."""
    pictures = fed(PacketOrder(), [replace(packet, ends=ends) for packet in packets(6)])
    assert [picture.data for picture in pictures][-4:] == [bytes(range(at, at + 3)) for at in (3, 6, 9, 12)]


def test_packets_that_fill_the_line_are_no_part_of_a_picture() -> None:
    sent = packets(4, 1)
    sent[2] = replace(sent[2], ticks=sent[1].ticks, data=b"", begins=False)
    order = PacketOrder()
    assert [picture.ticks for picture in fed(order, sent)] == [0, 3000, 9000]
    assert [picture.after_loss for picture in fed(order, [])] == []
    assert order.num_lost == 0


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_disorder_and_repetition_change_nothing(seed: int, parts: int) -> None:
    sent = packets(20, parts)
    chance = random.Random(seed)
    shuffled = sent[:1] + sorted(sent[1:], key=lambda each: sent.index(each) + chance.uniform(0, 12))
    shuffled += chance.choices(sent, k=10)
    order = PacketOrder()
    assert [each.data for each in fed(order, shuffled)] == [each.data for each in fed(PacketOrder(), sent)]
    assert order.num_lost == 0


def test_a_missing_packet_is_waited_for_and_asked_for_again() -> None:
    order = PacketOrder()
    sent = packets(100)
    assert len(fed(order, sent[:10])) == 3
    assert order.add(sent[11], 0.11) == []
    assert order.missing(0.11) == [sent[10].sequence]
    assert order.missing(0.12) == []
    assert order.missing(0.11 + NACK_AGAIN_S) == [sent[10].sequence]
    assert fed(order, sent[12:20], 0.2) == []
    pictures = order.add(sent[10], 0.6)
    assert [picture.ticks for picture in pictures] == [9000, 12_000, 15_000]  # at once
    assert not any(picture.after_loss for picture in pictures)
    assert order.missing(1.0) == []


def test_a_hole_is_skipped_after_a_while_with_the_pictures_it_touches() -> None:
    order = PacketOrder()
    sent = packets(100)
    fed(order, sent[:10])  # three pictures, and the first packet of the fourth
    assert fed(order, sent[11:40], 0.1, 0.001) == []
    pictures = order.add(sent[40], 0.1 + PATIENCE_S + 0.001)
    assert [picture.ticks for picture in pictures][:2] == [12_000, 15_000]
    assert [picture.after_loss for picture in pictures][:2] == [True, False]
    assert order.num_lost == 1
    assert order.add(sent[10], 1.0) == []  # too late
    assert len(fed(order, sent[41:], 1.0)) == 100 - 1 - len(pictures) - 3


def test_after_a_hole_a_picture_without_its_first_packet_is_dropped() -> None:
    order = PacketOrder()
    sent = packets(100)
    fed(order, sent[:8])
    pictures = fed(order, sent[10:19], 2.0, 1.0)  # lost: the end of picture 2, and the start of picture 3
    assert [picture.ticks for picture in pictures] == [12_000, 15_000]
    assert order.num_lost == 2


def test_an_outage_is_skipped_at_once() -> None:
    order = PacketOrder()
    sent = packets(1000)
    fed(order, sent[:9])
    pictures = fed(order, sent[1500:1506], 3.0)
    assert [picture.ticks for picture in pictures] == [500 * FRAME, 501 * FRAME]
    assert pictures[0].after_loss
    assert order.missing(3.1) == []
    assert order.num_lost == 1491


def test_a_sender_that_numbers_anew_is_followed() -> None:
    order = PacketOrder()
    fed(order, packets(10, first=40_000))
    again = packets(60, first=20_000)
    assert len(fed(order, again, 1.0)) == 60
    nearby = packets(100, first=20_100)  # just behind: these look late at first
    assert len(fed(order, nearby, 3.0)) > 50


def test_first_packets_of_pictures() -> None:
    assert begins_picture("VP8", b"\x10rest")
    assert begins_picture("VP8", b"\x90\x80\x01rest")
    assert not begins_picture("VP8", b"\x00rest")
    assert not begins_picture("VP8", b"\x11rest")  # the second partition
    assert begins_picture("H264", b"\x67\x42")  # a parameter set
    assert begins_picture("H264", b"\x65\x88")  # a key slice of macroblock 0
    assert not begins_picture("H264", b"\x61\x40")  # a slice of another macroblock
    assert begins_picture("H264", b"\x78\x00\x02\x67\x42")  # aggregated
    assert begins_picture("H264", b"\x7c\x85\x88")  # the first fragment of a key slice
    assert not begins_picture("H264", b"\x7c\x05\x88")
    assert not begins_picture("H264", b"")
    assert not begins_picture("H264", b"\x7c")
