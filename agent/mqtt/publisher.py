"""Publishing within what the broker takes: its own limits, and what connections have ended over before.

`Notes` keeps in words what it does not take, until it does. Does not know what is published, or why.
"""

import logging
from collections import Counter
from collections.abc import Callable

from paho.mqtt.properties import Properties

from agent.mqtt.refusals import Refusals
from agent.mqtt.wire import Client, Refused, Sent, packet_bytes

log = logging.getLogger(__name__)

MAX_NOTES = 100
MAX_SHOWN = 200  # characters of a topic


class TooLarge(Refused):
    """The broker has said that it takes no packets of this size."""


class SetAside(Refused):
    """Connections have ended over this: the others go first."""


class Notes:
    """What an operator should know of what the broker does not take. Overload policy: beyond MAX_NOTES only counted."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts  # what was not done, by reason
        self._words: dict[str, str] = {}  # by what it is about, the oldest first

    def say(self, about: str, words: str, reason: str) -> None:
        """Count it; log it unless that was done already."""
        self.counts[reason] += 1
        if self._words.get(about) == words or (about not in self._words and len(self._words) >= MAX_NOTES):
            return
        self._words[about] = words
        log.warning("mqtt", extra={"error": words})

    def clear(self, about: str) -> None:
        """It is well now."""
        self._words.pop(about, None)

    @property
    def first(self) -> str | None:
        """The oldest in words, and how many there are besides; None: all is well."""
        if not self._words:
            return None
        more = f" (and {len(self._words) - 1} more)" if len(self._words) > 1 else ""
        return next(iter(self._words.values())) + more


class Publisher:
    """Publishes over one connection. `now`: monotonic seconds."""

    def __init__(self, client: Client, refusals: Refusals, notes: Notes, now: Callable[[], float]) -> None:
        self._client = client
        self._refusals = refusals
        self._notes = notes
        self._now = now

    @property
    def retains(self) -> bool:
        """True while the broker keeps retained messages, as far as is known."""
        return self._client.limits.retain and self._refusals.retains(self._now())

    @property
    def wildcards(self) -> bool:
        """True when one subscription may match many topics."""
        return self._client.limits.wildcards

    def room(self, topic: str) -> int | None:
        """Bytes that a payload may have; None: as many as it likes."""
        limit = self._client.limits.max_packet_bytes
        return None if limit is None else max(0, limit - packet_bytes(topic, b""))

    async def put(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool,
        name: str | None = None,
        properties: Properties | None = None,
    ) -> None:
        """Publish and wait for the broker's word. `name`: what is blamed when the connection ends; the topic, if not given.

        Raises Refused (TooLarge and SetAside among them), after which the connection goes on, or another MqttError.
        """
        limits = self._client.limits
        sent = Sent(topic if name is None else name, packet_bytes(topic, payload, properties), retain and self.retains)
        if limits.max_packet_bytes is not None and sent.num_bytes > limits.max_packet_bytes:
            raise TooLarge(
                f"{topic[:MAX_SHOWN]} is left out: it has {sent.num_bytes} bytes, and the broker takes "
                f"{limits.max_packet_bytes} at most: raise its limit of the packet size"
            )
        self._raise_if_aside(sent, topic)
        await self._client.put(sent, topic, payload, qos=limits.max_qos, retain=sent.retain, properties=properties)
        self._refusals.confirmed(sent)
        if retain and not sent.retain:
            self._notes.say(
                "retain",
                "the broker keeps no retained messages: states are seen only by those who listen when they change; "
                "allow retained messages there",
                "not_retained",
            )
        elif retain:
            self._notes.clear("retain")
        if limits.max_qos == 0:
            words = "the broker takes QoS 0 only: an event can be lost when the connection ends; allow QoS 1 there"
            self._notes.say("qos", words, "unconfirmed")
        else:
            self._notes.clear("qos")

    async def follow(self, topic_filter: str) -> None:
        """Subscribe. Raises as `put`."""
        sent = Sent(f"the subscription to {topic_filter}", packet_bytes(topic_filter, b""))
        self._raise_if_aside(sent, sent.name)
        await self._client.follow(sent, topic_filter)
        self._refusals.confirmed(sent)

    def _raise_if_aside(self, sent: Sent, what: str) -> None:
        if self._refusals.sets_aside(sent, self._now()):
            raise SetAside(
                f"{what[:MAX_SHOWN]} is set aside for a while: the broker ends the connection over it "
                f"({sent.num_bytes} bytes); look at its limits and access list"
            )
