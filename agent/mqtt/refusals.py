"""What a broker does not take, learnt from connections that end: MQTT 3.1.1 has no words for it but hanging up.

A message that is unconfirmed when the connection ends gets the blame. After some such ends in a row it is set aside for a
while, so that the others get through; then it is tried once more. Blame can be wrong (the broker was restarted), so nothing
is thrown away here. Pure: monotonic seconds come in as arguments.

Worked example with two tries: lost(announcement of 3000 bytes) twice; `sets_aside` is then true for 3000 and for 1600 bytes under
that name, and false for 1500, which may be small enough; after RETRY_S it is false once.
"""

from dataclasses import dataclass

from agent.mqtt.wire import Sent

TRIES = 2
EVENT_TRIES = 3
RETRY_S = 3600.0
EVENT_RETRY_S = 600.0
MAX_NAMES = 4096
EVENT = "event "  # begins the name of an alert event: it is worth more tries


@dataclass(slots=True)
class _Loss:
    count: int
    num_bytes: int  # the smallest that was lost
    until: float  # set aside until then


class Refusals:
    """See the module. Overload policy: beyond MAX_NAMES the oldest blame is forgotten."""

    def __init__(self) -> None:
        self._losses: dict[str, _Loss] = {}
        self._retained_lost = 0  # in a row, before any retained message was confirmed
        self._retained_confirmed = False
        self._unretained_until = float("-inf")

    def lost(self, sent: Sent, now: float) -> bool:
        """The connection ended over this. True when it is set aside by that."""
        if sent.retain and not self._retained_confirmed:
            self._retained_lost += 1
            if self._retained_lost >= TRIES:  # perhaps it is not this one: no retained message is taken
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
        """The broker took it (or refused it in words): no blame on it any more, nor on smaller ones."""
        loss = self._losses.get(sent.name)
        if loss is not None and sent.num_bytes >= loss.num_bytes:
            del self._losses[sent.name]
        if sent.retain:
            self._retained_confirmed, self._retained_lost = True, 0
            self._unretained_until = float("-inf")

    def sets_aside(self, sent: Sent, now: float) -> bool:
        """True while it is not to be sent."""
        loss = self._losses.get(sent.name)
        return loss is not None and now < loss.until and sent.num_bytes > loss.num_bytes // 2

    def size_to_try(self, name: str, now: float) -> int | None:
        """How large a message of this name may be to be tried; None: as large as it likes."""
        loss = self._losses.get(name)
        return loss.num_bytes // 4 if loss is not None and now < loss.until else None

    def retains(self, now: float) -> bool:
        """False while the broker seems to take no retained messages."""
        return now >= self._unretained_until

    @property
    def retained_confirmed(self) -> bool:
        """True once a retained message was confirmed."""
        return self._retained_confirmed
