"""`vilamp init`: find servers and cameras, write `vilamp.yaml`, and answer one question from a live camera."""

import argparse
import asyncio
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from agent.cli.client import Client, Reply, ServerError
from agent.cli.common import EXIT_FAILED, EXIT_USAGE, CliError, say
from agent.cli.demo.server import serving
from agent.cli.setup.config_text import Choice, config_text
from agent.cli.setup.findings import Finding
from agent.cli.setup.look import Look, camera_finding, look_at
from agent.cli.setup.models import answerer_finding, probe
from agent.cli.setup.onvif import find_onvif
from agent.cli.setup.servers import Model, Server, find_servers
from agent.runtime.files import replace_private
from agent.settings.settings import CameraSettings, Settings
from agent.settings.source import ConfigError, load_settings
from agent.settings.types import check_slug
from agent.times import format_span
from agent.untrusted.plain import plain_line
from streaming.redact import redact

QUESTION = "What can be seen now?"
QUESTION_WITHOUT_WORDS = "Was there a person?"  # of a kind that visits alone can answer
FIRST_FRAME_S = 60.0
ANSWER_TIMEOUT_S = 300.0
_PORTS = range(8080, 8100)
_POLL_S = 0.5


def run(args: argparse.Namespace) -> int:
    """Set up an agent. Return 0 if a question was answered from a live camera, else 1. Raises CliError."""
    started = time.monotonic()
    path: Path = args.file
    if path.exists() and not args.force:
        raise CliError(f"{path} is there already: choose another name, or --force to replace it", EXIT_USAGE)
    given = [_named(text) for text in args.camera]
    server, model = _server(args)
    if server is not None and model is not None:
        _probe(args, server, model)
    cameras = _cameras(args, given)
    looks = asyncio.run(_look(cameras))
    for finding in _seen(cameras, looks):
        say(f"  {finding.part}: {finding.words}" + (f" -> {finding.advice}" if finding.advice else ""))
    choice = _choice(args, server, model, cameras, looks)
    _write(path, choice)
    say(f"\nwrote {path}; change it with any editor, check it with: vilamp doctor --config {path}")
    live = [name for name, look in zip(cameras, looks, strict=True) if not look.problem]
    question = args.question or (QUESTION if choice.base_url else QUESTION_WITHOUT_WORDS)
    answered = bool(live) and _try_out(path, choice, live[0], question)
    say(f"\nset up in {format_span(time.monotonic() - started)}. Run it: vilamp serve --config {path}")
    return 0 if answered else EXIT_FAILED


# --- what to use ---


def _server(args: argparse.Namespace) -> tuple[Server, Model] | tuple[None, None]:
    """Return the vision server and the model to use; (None, None): there is none. Raises CliError if one was named."""
    hosts = ["127.0.0.1", *args.server]
    say(f"looking for vision servers on {', '.join(map(redact, hosts))} ...")
    offers = [
        (server, model)
        for server in asyncio.run(find_servers(hosts, key=_key(args)))
        for model in server.vision_models()
        if args.model in (None, model.name)
    ]
    for number, (server, model) in enumerate(offers, 1):
        remark = "" if model.sees else ", if it sees pictures"
        say(f"  {number}. {plain_line(model.name)} on {server.kind} at {server.base_url}{remark}")
    if not offers:
        advice = "start one, such as Ollama (ollama pull qwen2.5vl:3b), or name another machine with --server"
        if args.model is not None or args.server:
            named = "" if args.model is None else f" {args.model}"
            raise CliError(f"no server with a vision model{named} was found: {advice}")
        say(f"  none with a vision model, so answers will name times and show pictures only. For words {advice}")
        return None, None
    best = next((number for number, (_, model) in enumerate(offers, 1) if model.sees and not model.thinks), 1)
    return offers[_number(args, "which one writes the answers?", best, len(offers)) - 1]


def _key(args: argparse.Namespace) -> str | None:
    """Return the key for servers that want one. Raises CliError if its file cannot be read."""
    try:
        return args.key_file.read_text(encoding="utf-8").strip() if args.key_file else None
    except (OSError, ValueError) as error:
        raise CliError(f"{args.key_file} cannot be read: {error}", EXIT_USAGE) from error


def _probe(args: argparse.Namespace, server: Server, model: Model) -> None:
    """Ask the model about pictures of our own and print what it can do. Raises CliError if it cannot answer."""
    say(f"asking {plain_line(model.name)} what it can do; the first request may load it ...")
    told = {"kind": "openai", "base_url": server.base_url, "model": model.name, "timeout_s": ANSWER_TIMEOUT_S}
    told |= {"api_key_file": args.key_file} if args.key_file else {}
    cameras = {"any": {"egress": "allowed" if args.allow_egress else "local_only"}}
    settings = Settings.model_validate({"answerer": told, "cameras": cameras, "model": {"allow_builtin_encoder": True}})
    finding = answerer_finding(settings.answerer, asyncio.run(probe(settings)))
    if finding.level == "error":
        raise CliError(f"{finding.words}: {finding.advice}")
    say(f"  {finding.words}")


def _cameras(args: argparse.Namespace, given: list[tuple[str, str]]) -> dict[str, str]:
    """Return the addresses of the cameras by name: those given, those found, or one that is asked for.

    given: (name or "", address) of each `--camera`. Raises CliError.
    """
    if args.onvif is not None:
        say("looking for ONVIF cameras ...")
        password = os.environ.get("ONVIF_PASSWORD", "")
        for found in asyncio.run(find_onvif(args.onvif, args.user, password)):
            problem = found.problem or _problem_of(found.url)
            say(f"  {plain_line(found.host)}: {plain_line(problem or redact(found.url))}")
            given += [] if problem else [("", found.url)]
    if not given and not args.yes:
        url = _asked("address of a camera, such as rtsp://user:password@192.168.1.20/stream (Enter: none): ")
        given += [_named(url)] if url else []
    cameras: dict[str, str] = {}
    for name, url in given:
        name = name or _free_name(url, cameras)
        if name in cameras:
            raise CliError(f"two cameras are called {name}: give each its own name", EXIT_USAGE)
        cameras[name] = url
    return cameras


def _named(text: str) -> tuple[str, str]:
    """Return name and address of "gate=rtsp://..."; the name is "" where none is given. Raises CliError."""
    name, found, url = text.partition("=")
    if not found or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        name, url = "", text
    try:
        problem, name = _problem_of(url), check_slug(name.lower()) if name else ""
    except ValueError as error:
        problem = str(error)
    if problem:
        raise CliError(f"{redact(url)}: {problem}", EXIT_USAGE)
    return name, url


def _problem_of(url: str) -> str:
    """Return what is wrong with a camera's address, without its login; "" if nothing is."""
    try:
        CameraSettings(url=url)
        urlsplit(url)
    except ValidationError as error:
        return str(error.errors()[0]["msg"])
    except ValueError:  # of urlsplit; its text may hold the login
        return "this address has no valid host"
    return ""


def _free_name(url: str, taken: dict[str, str]) -> str:
    """Return a name for a camera without one: the last word of its address that can be a name, else camera-1."""
    parts = urlsplit(url)
    words = [*re.findall(r"[a-z][a-z0-9_-]{2,30}", (parts.hostname or "").partition(".")[0].lower())]
    name = next((word for word in words if word not in ("localhost", "ask", "answer", "status")), "camera")
    if name not in taken and name != "camera":
        return name
    return next(f"{name}-{number}" for number in range(1, 1000) if f"{name}-{number}" not in taken)


async def _look(cameras: dict[str, str]) -> list[Look]:
    if cameras:
        say(f"looking at {len(cameras)} camera{'s' * (len(cameras) > 1)} ...")
    return list(await asyncio.gather(*(look_at(name, CameraSettings(url=url)) for name, url in cameras.items())))


def _seen(cameras: dict[str, str], looks: Sequence[Look]) -> list[Finding]:
    max_skew_s = Settings().streaming.max_skew_s
    return [
        camera_finding(name, CameraSettings(url=url), look, max_skew_s)
        for (name, url), look in zip(cameras.items(), looks, strict=True)
    ]


def _choice(
    args: argparse.Namespace,
    server: Server | None,
    model: Model | None,
    cameras: dict[str, str],
    looks: Sequence[Look],
) -> Choice:
    from model.hub import RECOMMENDED, RECOMMENDED_MB, is_hub_id, on_disk

    encoder = args.encoder or RECOMMENDED
    if is_hub_id(encoder) and not on_disk(encoder):
        size = f" ({RECOMMENDED_MB} MB)" if encoder == RECOMMENDED else ""
        if not _agreed(args, f"the encoder {encoder}{size} is not on this machine. Fetch it now?"):
            raise CliError(f"without an encoder there are no answers: vilamp model fetch {encoder}, or give --encoder")
        _fetch(encoder)
    if not _agreed(args, f"write {args.file}?"):
        raise CliError("nothing was written")
    notes = {
        name: look.problem or f"{look.codec} {look.width}x{look.height}".strip()
        for name, look in zip(cameras, looks, strict=True)
    }
    return Choice(
        cameras=cameras,
        notes=notes,
        base_url="" if server is None else server.base_url,
        model="" if model is None else model.name,
        thinks=model is not None and model.thinks,
        encoder=encoder,
        key_file="" if args.key_file is None else str(args.key_file.absolute()),
        far=args.allow_egress,
        port=args.port or _free_port(),
        data_dir="" if args.data_dir is None else str(args.data_dir),
    )


def _fetch(encoder: str) -> None:
    from model.config import ConfigError as ModelConfigError
    from model.hub import resolve

    try:
        resolve(encoder)
    except ModelConfigError as error:
        raise CliError(str(error)) from error


def _free_port() -> int:
    """Return the first port from 8080 on that nothing listens on; llama.cpp and LocalAI use 8080 too."""
    for port in _PORTS:
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise CliError("the ports 8080 to 8099 are all taken: give --port")


def _write(path: Path, choice: Choice) -> None:
    """Write the configuration and read it back. Raises CliError."""
    try:
        replace_private(path, config_text(choice).encode())
        load_settings(path, environ={})
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror or error}") from error
    except ConfigError as error:
        raise CliError(f"{path} has a mistake, please correct it:\n{error}") from error


# --- the first answer ---


def _try_out(path: Path, choice: Choice, camera: str, question: str) -> bool:
    """Run the agent until it has answered a question from a live camera, and return whether it has."""
    say(f"\nasking {camera}: {question}")
    descriptor, name = tempfile.mkstemp(".log", f"{path.stem}-init-", path.parent)
    os.close(descriptor)
    try:
        reply = asyncio.run(_first_answer(path, Path(name), camera, question))
    except (CliError, ServerError) as error:
        say(f"no answer yet: {error}; the agent's log: {name}", file=sys.stderr)
        return False
    Path(name).unlink(missing_ok=True)
    say(f"  {reply.text.strip() or '(no words)'}")
    for note in reply.notes:
        if note not in reply.text:
            say(f"  note: {plain_line(note)}")
    if reply.citations:
        age_s = time.time() - max(each.time for each in reply.citations)
        count = len(reply.citations)
        say(f"  from {count} picture{'s' * (count > 1)}, the newest {format_span(age_s)} old")
    return bool(reply.text.strip())


async def _first_answer(path: Path, log_file: Path, camera: str, question: str) -> Reply:
    """Run the agent, wait for the camera's first frames, and ask. Raises CliError, ServerError."""
    settings = load_settings(path, environ=os.environ)
    async with serving(["--config", str(path)], settings.data_dir, log_file, os.environ) as server:
        return await asyncio.to_thread(_ask, server.url, server.ask_token, camera, question)


def _ask(url: str, token: str, camera: str, question: str) -> Reply:
    with Client(url, token) as client:
        limit = time.monotonic() + FIRST_FRAME_S
        while client.get_json(f"/v1/cameras/{camera}")["encoded"] < 1:
            if time.monotonic() > limit:
                raise CliError(f"no picture of {camera} was stored within {FIRST_FRAME_S:.0f} s")
            time.sleep(_POLL_S)
        *_, reply = client.ask(question, cameras=[camera])
    assert isinstance(reply, Reply)
    return reply


# --- the terminal ---


def _asked(question: str) -> str:
    """Return what the user types. Raises CliError without a terminal."""
    try:
        return input(question).strip()
    except EOFError:
        raise CliError("there is nobody to ask: give --yes, and --camera for each camera", EXIT_USAGE) from None


def _agreed(args: argparse.Namespace, question: str) -> bool:
    return args.yes or _asked(f"{question} [Y/n] ").lower() in ("", "y", "yes")


def _number(args: argparse.Namespace, question: str, best: int, count: int) -> int:
    """Return the chosen number, `best` without another choice."""
    if args.yes or count == 1:
        return best
    typed = _asked(f"{question} [{best}] ")
    if not typed:
        return best
    if not typed.isdigit() or not 1 <= int(typed) <= count:
        raise CliError(f"{typed} is not a number from 1 to {count}", EXIT_USAGE)
    return int(typed)
