"""Short forms of the fuzzers of WebRTC sessions; the long ones are in `tests/hardening`."""

from tests.hardening import channel, sdp


def test_mutated_offers_are_refused_or_answered() -> None:
    counts = sdp.fuzz(150, seed=7)
    assert counts["failures"] == []
    assert counts["POST 201"] > 20
    assert counts["POST 400"] > 20


def test_mutated_channel_messages_are_answered() -> None:
    counts = channel.fuzz(150, seed=7)
    assert counts["failures"] == []
    assert counts["invalid_request"] > 20
