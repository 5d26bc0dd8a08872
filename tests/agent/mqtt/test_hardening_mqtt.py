"""The MQTT fuzzer, a short run: `python -m tests.hardening.mqtt` is the long one."""

from tests.hardening.mqtt import fuzz


def test_odd_messages_and_packets_do_not_stop_the_agent() -> None:
    counts = fuzz(200, seed=1)
    assert counts["failures"] == []
    assert counts["messages"] + counts["packets"] == 200
