"""Fuzz the WebRTC data channel of a whole agent: every message is answered, and the session goes on.

It sends 100 messages a second, the rate at which a channel is read. Accepted metadata is stored with the frames.
"""

import asyncio
import json
import logging
import random
import tempfile
import time
from pathlib import Path

from tests.hardening.command import Counts, main
from tests.hardening.fuzzing import ODD_TEXTS, Errors, Growth, Outcome, mangled, odd_json
from tests.support.agents import Served, served
from tests.support.robots import Robot, robot
from tests.support.waiting import until

MOST_GROWN_BYTES = 96 << 20  # frames are stored meanwhile
BATCH = 50
MOST_SENT = 60_000  # characters or bytes; the sending library refuses more than 256 KiB
SECRET = "a-robot-that-asks-and-publishes"
SETTINGS = {
    "security": {"tokens": [{"name": "robot", "token": SECRET, "scopes": ["publish:robot", "ask"]}]},
    "cameras": {"robot": {"rate_hz": 2, "max_frames": 200}},
    "streaming": {"stall_timeout_s": 120},  # tolerate a busy machine
}
SOUND = (
    '{"type": "metadata", "data": {"x": 1.5, "y": 0.2, "heading": 90}}',
    '{"type": "ask", "id": "q", "question": "what is there?", "camera": "robot"}',
    '{"type": "ask", "id": "q", "question": "when?", "after": 5, "before": "2026-11-22T16:04:05Z", "within": {"x": 1}}',
    '{"type": "cancel", "id": "q"}',
)
FIELDS = ("type", "id", "data", "time", "question", "camera", "cameras", "after", "before", "within", "model", "stream")


def fuzz(count: int, seed: int) -> Counts:
    """Send `count` messages on one channel."""
    return asyncio.run(_fuzz(count, seed)).told(MOST_GROWN_BYTES)


def message(rng: random.Random) -> str | bytes:
    """Draw a damaged valid message, JSON with valid fields and odd values, or random data."""
    kind = rng.randrange(12)
    if kind == 0:
        return rng.randbytes(rng.choice((0, 1, 100, 20_000)))
    if kind == 1:
        return rng.choice((*ODD_TEXTS, "x" * 17_000, "\U0001f600" * 5000)).encode(errors="replace").decode()
    if kind < 5:
        return mangled(rng, rng.choice(SOUND), SOUND, most=2).encode(errors="replace").decode()
    said = {name: odd_json(rng) for name in rng.sample(FIELDS, rng.randint(0, 4))}
    if kind < 10:
        said["type"] = json.dumps(rng.choice(("metadata", "metadata", "ask", "cancel")))
    if kind < 8:
        odd = json.dumps(rng.choice(ODD_TEXTS))
        said["data"] = '{"x": ' + f"{odd_json(rng)}, {odd}: {odd_json(rng)}" + "}"
        said.pop("time", None)
    return "{" + ", ".join(f'"{name}": {value}' for name, value in said.items()) + "}"


async def _fuzz(count: int, seed: int) -> Outcome:
    rng, outcome, growth, errors = random.Random(seed), Outcome(), Growth(count), Errors()
    logging.getLogger().addHandler(errors)
    try:
        with tempfile.TemporaryDirectory() as folder:
            async with served(Path(folder), **SETTINGS) as at, robot(f"{at.url}/whip/robot", SECRET) as it:
                await it.hear("ready")
                await until(
                    lambda: at.agent.cameras.names() == ("robot",) and at.agent.store.stats("robot").encoded > 1
                )
                for first in range(0, count, BATCH):
                    await _batch(it, rng, range(first, min(first + BATCH, count)), outcome)
                    growth.note(first)
                await _still_works(at, it, outcome)
                outcome.grown_bytes = growth.bytes()
    finally:
        logging.getLogger().removeHandler(errors)
    outcome.failures += errors.texts
    return outcome


async def _batch(it: Robot, rng: random.Random, numbers: range, outcome: Outcome) -> None:
    """Send a batch, then a valid message; its answer shows that the batch has been read."""
    began = time.monotonic()
    for _ in numbers:
        said = message(rng)
        it.channel.send(said[:MOST_SENT])
    last = f"sync {numbers.start}"
    it.say(type="cancel", id=last)
    while True:
        heard = await it.hear()
        outcome.counts[heard["type"] if heard["type"] != "error" else str(heard["code"])] += 1
        if heard.get("id") == last:
            break
    await asyncio.sleep(
        max(0.0, (len(numbers) + 1) / 95 - (time.monotonic() - began))
    )  # not faster than the channel is read


async def _still_works(at: Served, it: Robot, outcome: Outcome) -> None:
    intake = at.agent.cameras.intakes["robot"]
    before = intake.counters.remembered
    it.say(type="metadata", data={"still": "here"})
    await until(lambda: intake.counters.remembered > before + 3)
    newest = at.agent.store.records("robot")[-1]
    if newest.metadata.get("still") != "here":
        outcome.failures.append(f"metadata is not kept any more: {newest.metadata}")
    if intake.counters.lost or intake.counters.sessions != 1:
        outcome.failures.append(f"frames lost: {intake.counters.lost}, sessions: {intake.counters.sessions}")


if __name__ == "__main__":
    main(fuzz, count=50_000, about=__doc__ or "")
