"""Publish only what the broker accepts, as far as its announced limits and earlier connections show.

An MQTT 3.1.1 broker cannot answer that it refuses a message: it closes the connection. `Refusals` learns from that. A
message that is unconfirmed when the connection ends is blamed for it. After a few such ends in a row the message is not
sent for a while ("set aside"), so that the others get through, and is then tried once more. The blame can be wrong, for
example when the broker was restarted, so nothing is deleted here. `Notes` holds what the broker does not accept, as
text for the operator. Does not decide what is published.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from paho.mqtt.properties import Properties

from agent.mqtt.wire import Client, Refused, Sent, packet_bytes

log = logging.getLogger(__name__)

TRIES = 2
EVENT_TRIES = 3
RETRY_S = 3600.0
EVENT_RETRY_S = 600.0
MAX_NAMES = 4096
EVENT = "event "  # beginning of the names of alert events, which get more tries than other messages
MAX_NOTES = 100
MAX_SHOWN = 200  # characters of a topic in a note


class TooLarge(Refused):
    """The packet is larger than the broker's announced limit."""


class SetAside(Refused):
    """The message is not sent for a while, because earlier connections ended when it was sent."""


@dataclass(slots=True)
class _Loss:
    count: int
    num_bytes: int  # size of the smallest message of this name that was blamed
    until: float  # the message is set aside until then (monotonic seconds)


class Refusals:
    """What the broker seems to refuse, learnt from connections that ended. `now` is an argument, in monotonic seconds.

    Worked example with two tries: lost(announcement of 3000 bytes) twice; `sets_aside` is then True for 3000 and for 1600
    bytes under that name, and False for 1500, which may be small enough; after RETRY_S it is False, for one more try.
    Overload policy: at most MAX_NAMES messages are remembered; beyond that the oldest is forgotten.
    """

    def __init__(self) -> None:
        self._losses: dict[str, _Loss] = {}
        self._retained_lost = 0  # retained messages blamed in a row, before any was confirmed
        self.retained_confirmed = False  # a retained message was confirmed
        self._unretained_until = float("-inf")

    def lost(self, sent: Sent, now: float) -> bool:
        """Record that the connection ended with this message unconfirmed.

        Return True if it will not be sent for a while.
        """
        if sent.retain and not self.retained_confirmed:
            self._retained_lost += 1
            if self._retained_lost >= TRIES:  # perhaps the broker accepts no retained message at all
                self._unretained_until = now + RETRY_S
                self._losses.pop(sent.name, None)
                return False
        event = sent.name.startswith(EVENT)
        loss = self._losses.setdefault(sent.name, _Loss(0, sent.num_bytes, now))
        loss.count, loss.num_bytes = loss.count + 1, min(loss.num_bytes, sent.num_bytes)
        if loss.count < (EVENT_TRIES if event else TRIES):
            return False
        loss.until = now + (EVENT_RETRY_S if event else RETRY_S)
        while len(self._losses) > MAX_NAMES:
            del self._losses[next(iter(self._losses))]
        return True

    def confirmed(self, sent: Sent) -> None:
        """Record that the broker answered the message, even with a refusal, so it is not blamed for lost connections.

        A message smaller than the one that was blamed proves nothing and changes nothing.
        """
        loss = self._losses.get(sent.name)
        if loss is not None and sent.num_bytes >= loss.num_bytes:
            del self._losses[sent.name]
        if sent.retain:
            self.retained_confirmed, self._retained_lost = True, 0
            self._unretained_until = float("-inf")

    def sets_aside(self, sent: Sent, now: float) -> bool:
        """Return True while the message is not sent, because connections ended when it was sent.

        A message of at most half the blamed size may be sent.
        """
        loss = self._losses.get(sent.name)
        return loss is not None and now < loss.until and sent.num_bytes > loss.num_bytes // 2

    def size_to_try(self, name: str, now: float) -> int | None:
        """Return the size in bytes to which a message of this name should be reduced, after larger ones were set aside.

        None: the size does not matter.
        """
        loss = self._losses.get(name)
        return loss.num_bytes // 4 if loss is not None and now < loss.until else None

    def retains(self, now: float) -> bool:
        """Return False while the broker seems to accept no retained messages."""
        return now >= self._unretained_until


class Notes:
    """What the broker does not accept, as text for the operator. Overload policy: beyond MAX_NOTES it is only counted."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts  # refusals by reason
        self._words: dict[str, str] = {}  # by subject, the oldest first

    def say(self, about: str, words: str, reason: str) -> None:
        """Count a refusal under `reason`, and store and log its text `words`, once for each subject `about`."""
        self.counts[reason] += 1
        if self._words.get(about) == words or (about not in self._words and len(self._words) >= MAX_NOTES):
            return
        self._words[about] = words
        log.warning("mqtt", extra={"error": words})

    def clear(self, about: str) -> None:
        """Delete the note on the subject `about`, because the broker accepts it now."""
        self._words.pop(about, None)

    @property
    def first(self) -> str | None:
        """The text of the oldest note, with the number of the others; None if there is no note."""
        if not self._words:
            return None
        more = f" (and {len(self._words) - 1} more)" if len(self._words) > 1 else ""
        return next(iter(self._words.values())) + more


class Publisher:
    """Publishes and subscribes over one connection, within what the broker accepts."""

    def __init__(self, client: Client, refusals: Refusals, notes: Notes, now: Callable[[], float]) -> None:
        """now: returns monotonic seconds."""
        self._client = client
        self._refusals = refusals
        self._notes = notes
        self._now = now

    @property
    def retains(self) -> bool:
        """True while the broker keeps retained messages, as far as known."""
        return self._client.limits.retain and self._refusals.retains(self._now())

    @property
    def wildcards(self) -> bool:
        """True when the broker accepts wildcards in subscriptions."""
        return self._client.limits.wildcards

    def room(self, topic: str) -> int | None:
        """Return the size in bytes of the largest payload that the broker accepts on `topic`; None: no limit."""
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
        """Publish a message and wait for the broker's confirmation.

        name: under which `Refusals` blames the message if the connection ends; by default the topic. Raises Refused
        (TooLarge, SetAside), after which the connection can still be used, or another MqttError.
        """
        limits = self._client.limits
        sent = Sent(topic if name is None else name, packet_bytes(topic, payload, properties), retain and self.retains)
        if limits.max_packet_bytes is not None and sent.num_bytes > limits.max_packet_bytes:
            raise TooLarge(
                f"{topic[:MAX_SHOWN]} is left out: it has {sent.num_bytes} bytes, and the broker accepts "
                f"at most {limits.max_packet_bytes}: raise its packet size limit"
            )
        self._raise_if_aside(sent, topic)
        await self._client.put(sent, topic, payload, qos=limits.max_qos, retain=sent.retain, properties=properties)
        self._refusals.confirmed(sent)
        if retain and not sent.retain:
            self._notes.say(
                "retain",
                "the broker keeps no retained messages: clients that subscribe later do not see the current states; "
                "allow retained messages there",
                "not_retained",
            )
        elif retain:
            self._notes.clear("retain")
        if limits.max_qos == 0:
            words = "the broker accepts only QoS 0: an event can be lost when the connection ends; allow QoS 1 there"
            self._notes.say("qos", words, "unconfirmed")
        else:
            self._notes.clear("qos")

    async def try_put(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool,
        name: str | None = None,
        properties: Properties | None = None,
    ) -> bool:
        """Publish like `put`. Return False, and note it for the operator, when the broker refuses the message."""
        try:
            await self.put(topic, payload, retain=retain, name=name, properties=properties)
        except Refused as refused:
            self.note(topic, refused)
            return False
        self._notes.clear(topic)
        return True

    def note(self, about: str, refused: Refused) -> None:
        """Store and count a refusal, as a note to the operator about the subject `about`."""
        reason = {TooLarge: "too_large", SetAside: "set_aside"}.get(type(refused), "refused")
        self._notes.say(about, str(refused), reason)

    async def subscribe(self, topic_filter: str) -> None:
        """Subscribe. A refusal is noted for the operator and not raised; other errors raise MqttError."""
        sent = Sent(f"the subscription to {topic_filter}", packet_bytes(topic_filter, b""))
        about = f"subscription {topic_filter}"
        try:
            self._raise_if_aside(sent, sent.name)
            await self._client.follow(sent, topic_filter)
            self._refusals.confirmed(sent)
            self._notes.clear(about)
        except Refused as refused:
            self.note(about, refused)

    def _raise_if_aside(self, sent: Sent, what: str) -> None:
        if self._refusals.sets_aside(sent, self._now()):
            raise SetAside(
                f"{what[:MAX_SHOWN]} is set aside for a while: the broker closes the connection over it "
                f"({sent.num_bytes} bytes); check its limits and access list"
            )
