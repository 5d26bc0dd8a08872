"""Fuzz every HTTP route of the application: each request gets an answer with a message, never a status 500.

Most requests are given to the application in this process, every twentieth as bytes to a server. Paths, parameters, headers
and bodies are valid ones with mistakes in them, or random.
"""

import asyncio
import gzip
import json
import logging
import random
import re
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import quote, urlsplit

from starlette.routing import Route

from agent.alerts import rules
from agent.web import guard
from tests.hardening.command import Counts, main
from tests.hardening.fuzzing import ODD_NUMBERS, ODD_TEXTS, Errors, Growth, Outcome, mangled, odd_json
from tests.support.agents import START, Served, remember, served
from tests.support.in_process import Reply, ask, scope_of
from tests.support.streams import OFFER

MOST_GROWN_BYTES = 96 << 20
ANSWER_S = 60.0
SOCKET_SHARE = 20  # one in so many goes over a real socket
FRAMES = 6
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW")
# What may be answered with a status above 499: shortages, each with its words.
SHORTAGES = {503}
PLACES = {"camera": "door", "model": "vilamp", "frame_id": "1", "id": "none", "file": "app.js", "name": "bag"}
NAMES = (
    "after", "before", "limit", "order", "within", "all", "width", "rule", "camera", "kind", "cursor", "points", "keyframes",
    "question", "exp", "sig", "camra", "befor", "",
)  # fmt: skip
VALUES = (
    "1795363445", "2026-11-22T16:04", "1795363445000", "-1", "0", "nan", "inf", "1e400", "true", "desc", "suppressed", "door",
    "1,2,3", "nan,1,1", "1,2,-3", "0001-01-01", "9999-12-31T23:59:59+23:59", "2026-10-25T02:40", "%00", "%ff%fe", "%ed%a0%80",
    "%0d%0aX:%20y", "a" * 3000, "9" * 5000, "+", "&&&", "=",
)  # fmt: skip
HEADERS = (
    ("Content-Type", "application/json"), ("Content-Type", "application/sdp"), ("Content-Type", "multipart/form-data"),
    ("Content-Type", "application/json; charset=utf-16"), ("Content-Type", "\xff"), ("Content-Encoding", "gzip"),
    ("Content-Encoding", "deflate"), ("Content-Encoding", "br, gzip"), ("Content-Length", "9" * 30), ("Content-Length", "-1"),
    ("Range", "bytes=0-0"), ("Range", "bytes=" + "0-1," * 200), ("Range", "bytes=9-2"), ("Range", "bytes=" + "9" * 5000 + "-"),
    ("If-Range", '"x"'), ("If-None-Match", "*"), ("If-None-Match", 'W/"x", "y'), ("If-Modified-Since", "yesterday"),
    ("If-Match", "*"), ("Last-Event-ID", "9" * 5000), ("Last-Event-ID", "\xb2"), ("Last-Event-ID", "3"), ("Host", "evil.example"),
    ("Host", "["), ("Host", "[::1"), ("Host", "a b"), ("Host", ""), ("Host", "x:99999999"), ("Host", "\xff"), ("Host", "a@b/c"),
    ("Origin", "null"), ("X-Forwarded-For", "::1"), ("X-Forwarded-Prefix", "//evil"), ("Authorization", "Bearer vt_admin.9.x"),
    ("Authorization", "Bearer vt_publish:door." + "9" * 5000 + ".x"), ("Authorization", "Bearer \xff"),
    ("Expect", "100-continue"),
    ("Authorization", "Basic eDp5"), ("Upgrade", "websocket"), ("Access-Control-Request-Method", "GET"), ("Cookie", "\x01"),
)  # fmt: skip
CHAT = {"messages": [{"role": "user", "content": "Did a red car come?"}], "camera": "door", "max_tokens": 1}
BODIES: tuple[dict[str, Any], ...] = (
    CHAT,
    {
        **CHAT,
        "stream": True,
        "stream_options": {"include_usage": True},
        "after": START,
        "before": "2026-11-22T16:05:00Z",
    },
    {**CHAT, "within": {"x": 1, "y": 2, "radius_m": 3}, "cameras": ["door"], "temperature": 0.5, "n": 1},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Who?"}]}], "tools": [], "response_format": {}},
    {
        "name": "bag",
        "condition": "a bag is left",
        "cameras": ["door"],
        "gate": {"on": 5, "off": 2},
        "confirm": {"n": 2, "m": 3},
    },
    {"condition": "a dog", "judge": {"every_s": 1}, "schedule": [{"days": ["mon"], "start": "22:00", "end": "06:00"}]},
    {"enabled": False},
    {"minutes": 5, "camera": "door"},
    {"until": START},
    {"rule": {"condition": "a red car"}, "cameras": ["door"], "after": START, "sweep": False, "max_judgements": 1},
    {"rule": "bag", "stream": True, "max_judgements": 0},
    {"x": 1, "y": 2, "zone": "hall", "heading": 90},
)
SOUND_SHARE = 0.03  # requests with nothing wrong in them: they cost most


def fuzz(count: int, seed: int) -> Counts:
    """Send `count` requests, then check the memory and the answer to a valid request."""
    return asyncio.run(_fuzz(count, seed)).told(MOST_GROWN_BYTES)


async def _fuzz(count: int, seed: int) -> Outcome:
    rng, outcome, growth, errors = random.Random(seed), Outcome(), Growth(count), Errors()
    logging.getLogger().addHandler(errors)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # a line for each request that is none
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            patch.object(guard, "MAX_WRONG", 10**9),
            patch.object(rules, "MAX_RULES", 8),
        ):
            async with served(Path(folder)) as site:
                await remember(site.agent, "door", FRAMES)
                for number in range(count):
                    await _one(site, rng, number, outcome)
                    growth.note(number)
                await _still_well(site, outcome)
    finally:
        logging.getLogger().removeHandler(errors)
    outcome.grown_bytes = growth.bytes()
    outcome.failures += errors.texts
    return outcome


async def _one(site: Served, rng: random.Random, number: int, outcome: Outcome) -> None:
    if number % 2000 == 1999:  # some requests erase
        await remember(site.agent, "door", FRAMES, start=START + number)
    method, target, headers, body = request(site, rng)
    told = f"{method} {target[:200]} {headers} {body[:300]!r}"
    if number % SOCKET_SHARE == 0:
        await _over_a_socket(site, rng, method, target, headers, body, outcome)
        return
    client = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    endless = "alerts" in target and "stream" in target
    try:
        async with asyncio.timeout(ANSWER_S):
            reply = await ask(site.app, scope_of(method, target, headers, client), body, whole=not endless)
    except Exception as error:  # noqa: BLE001 - whatever comes out of the application is what is looked for
        outcome.failures.append(f"{type(error).__name__}: {error}: {told}")
        return
    outcome.counts[f"status_{reply.status}"] += 1
    wrong = complaint(reply)
    if wrong is not None:
        outcome.failures.append(f"{wrong}: {told}")


def complaint(reply: Reply) -> str | None:
    """Return what is wrong with an answer, or None."""
    if reply.status >= 500 and reply.status not in SHORTAGES:
        return f"status {reply.status}: {reply.body[:300]!r}"
    if any(re.search(r"[\r\n\x00]", value) for value in reply.headers.values()):
        return f"a header of two lines: {reply.headers}"
    if "evil" in reply.headers.get("location", ""):
        return f"leads elsewhere: {reply.headers['location']}"
    is_json = reply.headers.get("content-type", "").startswith(("application/json", "application/problem+json"))
    if reply.status >= 400 and not is_json and reply.body and reply.status != 416:
        return f"an error without words: {reply.body[:100]!r}"
    if is_json and reply.body:
        json.loads(reply.body.decode())
    return None


async def _over_a_socket(
    site: Served,
    rng: random.Random,
    method: str,
    target: str,
    headers: list[tuple[str, str]],
    body: bytes,
    outcome: Outcome,
) -> None:
    """Send a request as bytes, often damaged. The server may answer or close the connection."""
    lines = [f"{method} {target[:8000]} HTTP/1.1", "Host: here", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines += rng.choice(
        ([f"Content-Length: {len(body)}"], ["Transfer-Encoding: chunked"], [f"Content-Length: {len(body) + 5}"])
    )
    text = "\r\n".join(lines)
    if rng.random() < 0.5:
        text = mangled(rng, text, ["\r\n".join(f"{name}: {value}" for name, value in HEADERS)])
    raw = text.encode("latin-1", "replace") + b"\r\n\r\n" + body
    address = urlsplit(site.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    heard = b""
    with suppress(ConnectionError):
        writer.write(raw)
        writer.write_eof()
        async with asyncio.timeout(ANSWER_S):
            heard = await reader.read(64)
            while await reader.read(65_536):
                pass
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    status = heard[9:12].decode("latin-1") if heard.startswith(b"HTTP/1.1 ") else "closed"
    outcome.counts[f"socket_{status}"] += 1
    if status.startswith("5") and int(status) not in SHORTAGES:
        outcome.failures.append(f"socket: {heard!r}: {raw[:400]!r}")


async def _still_well(site: Served, outcome: Outcome) -> None:
    """Check that the agent still answers a question."""
    await remember(site.agent, "door", FRAMES, start=START + 10**7)
    token = [("Authorization", f"Bearer {site.token()}")]
    reply = await ask(site.app, scope_of("POST", "/v1/chat/completions", token), json.dumps(CHAT).encode())
    if reply.status != 200:
        outcome.failures.append(f"a sound question is no longer answered: {reply.status} {reply.body!r}")


# --- what is asked ---


def request(site: Served, rng: random.Random) -> tuple[str, str, list[tuple[str, str]], bytes]:
    """Draw a request to one of the routes: method, target, headers, body."""
    routes = [route for route in site.app.routes if isinstance(route, Route)]
    if rng.random() < 0.5:  # more of those that read a body
        routes = [route for route in routes if (route.methods or set()) & {"POST", "PUT", "PATCH"}]
    route = rng.choice(routes)
    method = rng.choice(METHODS) if rng.random() < 0.1 else rng.choice(sorted(route.methods or METHODS))
    is_sound = rng.random() < SOUND_SHARE
    path = re.sub(r"\{(\w+)(:\w+)?\}", lambda place: _place(rng, place[1], is_sound), route.path)
    target = path if is_sound else _odd_path(rng, path) + _query(rng)
    headers = [("Authorization", f"Bearer {_token(site, rng, route.path)}")]
    if not is_sound:
        headers = headers[: rng.random() < 0.95] + rng.sample(HEADERS, rng.choice((0, 0, 1, 2, 4)))
    if route.path.startswith("/whip") and rng.random() < 0.7:
        headers.append(("Content-Type", "application/sdp"))
    return method, target, headers, _body(rng, route.path, is_sound)


def _token(site: Served, rng: random.Random, path: str) -> str:
    return site.token("owner" if rng.random() < 0.9 else rng.choice(("asker", "publisher")))


def _place(rng: random.Random, name: str, is_sound: bool) -> str:
    if is_sound or rng.random() < 0.6:
        return PLACES[name]
    odd = rng.choice((*ODD_NUMBERS, *ODD_TEXTS, *VALUES))
    return odd if "%" in odd else quote(odd.encode("utf-8", "surrogatepass"), safe="/:.@")


def _odd_path(rng: random.Random, path: str) -> str:
    match rng.randrange(30):
        case 0:
            return path + "/"
        case 1:
            return path.replace("/", "//")
        case 2:
            return path.replace("/", "%2F")
        case 3:
            return path + rng.choice(("%00", "%ff", "%0d%0a", ";x", "/..", "/%2e%2e", "?", "#x"))
        case 4:
            return "/" + "a/" * 3000
        case 5:
            return "http://evil.example" + path
        case 6:
            return rng.choice(("*", "", "//evil.example" + path, "/" + quote("日本"), "/\\evil"))
        case _:
            return path


def _query(rng: random.Random) -> str:
    given = [f"{rng.choice(NAMES)}={rng.choice((*VALUES, *ODD_NUMBERS))}" for _ in range(rng.choice((0, 0, 1, 2, 4)))]
    return "?" + "&".join(given) if given else ""


def _body(rng: random.Random, path: str, is_sound: bool) -> bytes:
    if path.startswith("/whip"):  # sound offers are another fuzzer's
        return mangled(rng, OFFER[: rng.randint(0, 400)], [OFFER]).encode("utf-8", "surrogatepass")
    sound = rng.choice(BODIES)
    if is_sound:
        return json.dumps(sound).encode()
    match rng.randrange(10):
        case 0:
            text = odd_json(rng)
        case 1:
            text = mangled(rng, json.dumps(sound, indent=1).replace("\n", "\r\n"), ["NaN"])
        case 2:
            text = ""
        case _:
            text = _spoilt(rng, sound)
    body = text.encode("utf-8", "surrogatepass")
    match rng.randrange(12):
        case 0:
            return gzip.compress(body)
        case 1:
            return zlib.compress(body)[: rng.choice((None, -3))]
        case 2:
            return rng.randbytes(rng.randint(0, 300))
        case _:
            return body


def _spoilt(rng: random.Random, sound: dict[str, Any]) -> str:
    """Return `sound` as JSON with up to three values or keys replaced, not always by valid JSON."""
    odd = {f"@{number}@": odd_json(rng, 2) for number in range(rng.randint(1, 3))}
    spoilt: Any = json.loads(json.dumps(sound))
    for mark in odd:
        inside = spoilt
        while isinstance(inside, dict | list) and inside:
            key: Any = rng.choice(list(inside)) if isinstance(inside, dict) else rng.randrange(len(inside))
            if isinstance(inside[key], dict | list) and inside[key] and rng.random() < 0.6:
                inside = inside[key]
                continue
            if isinstance(inside, dict) and rng.random() < 0.3:
                inside[rng.choice((key[:-1], key.upper(), key + "_id", rng.choice(ODD_TEXTS)))] = mark
            else:
                inside[key] = mark
            break
    text = json.dumps(spoilt)
    for mark, value in odd.items():
        text = text.replace(f'"{mark}"', value)
    return text


if __name__ == "__main__":
    main(fuzz, count=200_000, about=__doc__ or "")
