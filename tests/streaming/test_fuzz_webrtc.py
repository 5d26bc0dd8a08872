"""Short forms of the fuzzers of WebRTC sessions; the long ones are in `tests/hardening`."""

from tests.hardening import channel, sdp


def test_offers_that_nobody_means() -> None:
    counts = sdp.fuzz(150, seed=7)
    assert counts["failures"] == []
    assert counts["POST 201"] > 20
    assert counts["POST 400"] > 20


def test_messages_that_nobody_means() -> None:
    counts = channel.fuzz(150, seed=7)
    assert counts["failures"] == []
    assert counts["invalid_request"] > 20
