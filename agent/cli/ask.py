"""`vilamp ask`: ask a running agent a question. Prints the answer while it is written, then its evidence frames."""

import argparse
import ipaddress
import os
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.ask.moments import moment_of
from agent.cli.client import Citation, Client, Reply, ServerError, Visit
from agent.cli.common import EXIT_USAGE, CliError, say, settings_of
from agent.settings.settings import Settings
from agent.settings.types import address_parts, check_slug, is_loopback
from agent.times import TimeError, format_clock, format_day, format_stretch, format_time, load_zone, local_zone_name
from agent.untrusted.plain import PlainText, plain_json, plain_line
from agent.web.auth import TokenFileError, local_token
from agent.web.tls import client_context
from agent.web.url import parse_place
from streaming.redact import redact

NUM_LISTED = 12
NUM_CAMERAS = 4  # most cameras named in the first line
NUM_VISITS = 8  # most visits printed after an answer


def run(args: argparse.Namespace) -> int:
    """Ask the question and print the answer and its evidence frames. Return the exit code. Raises CliError."""
    settings, now = settings_of(args), time.time()
    window_of(args, zone_of(args), now, settings)  # raises an error of usage before anything is sent
    if not args.question.strip():
        raise CliError("the question is empty", EXIT_USAGE)
    server = server_named(args) or server_of(settings)
    with connect(server, settings) as client:
        try:
            zone = zone_of(args, client)
            after, before = window_of(args, zone, now, settings)
            place = _place_of(args)
            stream = client.ask(
                args.question,
                cameras=args.camera or (),
                after=after,
                before=before,
                within=place,
                on_step=print_step,
                on_scope=(lambda scope: None) if args.json else (lambda scope: say(searched_line(scope, zone, now))),
            )
            reply = print_answer(stream, quiet=args.json)
            if args.sheet is not None:
                _save_sheet(args, client, reply, zone)
        except ServerError as error:
            raise CliError(advise(error, server)) from error
    print_reply(reply, zone, as_json=args.json, question=args.question, everything=args.all_evidence)
    return 0


def _place_of(args: argparse.Namespace) -> dict[str, float] | None:
    """Return the circle given with `--within x,y,radius` as JSON; None without the option. Raises CliError."""
    try:
        return None if args.within is None else asdict(parse_place(args.within))
    except ValueError as error:
        raise CliError(f"--within: {error}", EXIT_USAGE) from error


def zone_of(args: argparse.Namespace, client: Client | None = None, settings: Settings | None = None) -> str:
    """Return the IANA time zone for times read and printed. Raises CliError.

    It is `--timezone`, else that of the first camera asked about: as the agent says (client), or as configured on this
    machine (settings). Else it is this machine's.
    """
    try:
        if args.timezone:
            return load_zone(args.timezone).key
        if settings is not None and not server_named(args):
            return settings.camera(args.camera).timezone
        cameras = client.get_json("/v1/cameras")["data"] if client is not None else []
        named = [each for each in cameras if each["id"] in (args.camera or ())] or cameras
        return load_zone(named[0]["timezone"]).key if named else local_zone_name()
    except TimeError as error:
        raise CliError(f"--timezone: {error}", EXIT_USAGE) from error
    except (ServerError, LookupError, TypeError):
        return local_zone_name()  # the question itself will show what is wrong with the server


def window_of(args: argparse.Namespace, zone: str, now: float, settings: Settings) -> tuple[float | None, float | None]:
    """Return the times given with `--after` and `--before` in unix seconds, None where not given. Raises CliError."""
    after = time_of("--after", args.after, zone, now, settings)
    before = time_of("--before", args.before, zone, now, settings)
    if after is not None and before is not None and after >= before:
        times = f"{format_time(after, zone)} and {format_time(before, zone)}"
        raise CliError(f"--after is not before --before ({times})", EXIT_USAGE)
    return after, before


def time_of(option: str, text: str | None, zone: str, now: float, settings: Settings) -> float | None:
    """Return the time given with `option` in unix seconds, None when it was not given. Raises CliError."""
    try:
        parts = settings.answering.parts_of_day.ranges()
        return None if text is None else moment_of(text, now=now, zone=zone, parts=parts, latest=option == "--before")
    except TimeError as error:
        raise CliError(f"{option}: {error}", EXIT_USAGE) from error


def server_named(args: argparse.Namespace) -> str | None:
    """Return the agent's URL if it was given with `--server` or $VILAMP_SERVER, else None."""
    return args.server or os.environ.get("VILAMP_SERVER")


def checked_camera(name: str) -> str:
    """Return `name` unchanged. Raises CliError if a camera cannot have this name."""
    try:
        return check_slug(name)
    except ValueError as error:
        raise CliError(str(error), EXIT_USAGE) from error


def server_of(settings: Settings) -> str:
    """Return the URL at which an agent with these settings can be reached from its own machine."""
    host = settings.host.removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 or socket.has_dualstack_ipv6() else "::1"
    except ValueError:
        pass  # `host` is a name, not an address
    return f"{'https' if settings.tls.enabled else 'http'}://{f'[{host}]' if ':' in host else host}:{settings.port}"


def connect(server: str, settings: Settings, scope: str = "ask") -> Client:
    """Return a client of the agent at the URL `server`. Raises CliError.

    Its token is $VILAMP_TOKEN, or else, for an agent on this machine, a token from the data folder that allows `scope`.
    """
    parts = address_parts(server)
    if parts is None or not server.isprintable() or " " in server:
        raise CliError(f'"{redact(server)}" is not a server: give a URL such as http://127.0.0.1:8080', EXIT_USAGE)
    token = os.environ.get("VILAMP_TOKEN")
    if not token and (is_loopback(parts.hostname or "") or server == server_of(settings)):
        # a token from this machine's data folder is never sent to another machine
        try:
            token = local_token(settings.data_dir, scope)
        except TokenFileError as error:
            raise CliError(str(error)) from error
    verify: ssl.SSLContext | bool = client_context(settings.data_dir) or True
    return Client(server, token, verify=verify)


def advise(error: ServerError, server: str) -> str:
    """Return the error's message for the user. If the agent refused the token, advice on how to give one is added."""
    if error.status in (401, 403):
        advice = "set VILAMP_TOKEN, or --data-dir to the agent's data folder on its own machine"
        return f"{redact(server)}: {plain_line(error)} ({advice})"
    return f"{redact(server)}: {plain_line(error)}"


def print_step(text: str) -> None:
    """Print what is being done for an answer to standard error, so that it is not taken for the answer."""
    say(f"... {plain_line(text)}", file=sys.stderr)


def searched_line(scope: Mapping[str, Any], zone: str, now: float) -> str:
    """Return a line that says which cameras and times were searched: "searched gate, Sun 18:00-24:00"."""
    cameras = [plain_line(name) for name in scope["cameras"]]
    names = ", ".join(cameras) if len(cameras) <= NUM_CAMERAS else f"{len(cameras)} cameras"
    return f"searched {names}, {format_stretch(scope['after'], scope['before'], zone, now)}"


def print_answer(stream: Iterator[str | Reply], *, quiet: bool) -> Reply:
    """Print the pieces of an answer as they arrive, unless `quiet`. Return the complete reply. Raises ServerError."""
    written = PlainText()
    for part in stream:
        if isinstance(part, Reply):
            if not quiet:
                say()
            return part
        if not quiet:
            say(written.feed(part), end="", flush=True)
    raise ServerError("the answer is incomplete")


def print_reply(reply: Reply, zone: str, *, as_json: bool, question: str, everything: bool) -> None:
    """Print the notes, evidence frames and timings of an answer, one per line.

    as_json: print one JSON object instead, which includes the question and the answer. everything: print all evidence
    frames, not only the best ones.
    """
    if as_json:
        named = [{**asdict(each), "local_time": format_time(each.time, zone)} for each in reply.citations]
        say(plain_json({"question": question, **asdict(reply), "citations": named}))
        return
    if line := visits_line(reply.visits, zone):
        say(line)
    for note in reply.notes:
        if note not in reply.text:
            say(f"note: {plain_line(note)}")
    shown = best(reply.citations, len(reply.citations) if everything else NUM_LISTED)
    if shown:
        say(f"\nevidence, {len(reply.citations)} of {reply.num_frames} frames (times in {zone}):")
    for each in shown:
        where = " ".join(f"{name} {plain_line(each.metadata[name])}" for name in ("x", "y") if name in each.metadata)
        origin = f"{plain_line(each.camera)}  {plain_line(each.kind):<8}"
        line = f"  {format_time(each.time, zone)}  {origin}  {each.score:6.3f}  #{each.frame_id}"
        say(f"{line}  {where}".rstrip())
    if len(shown) < len(reply.citations):
        say(f"  and {len(reply.citations) - len(shown)} more (--all-evidence)")
    say(timings_line(reply))


def best(citations: Sequence[Citation], count: int) -> list[Citation]:
    """Return the `count` best citations, ordered by camera and time.

    Citations of the kind "filling" (frames that only fill gaps in time) are worse than all others. Among the rest,
    those with a higher score are better.
    """
    ranked = sorted(citations, key=lambda each: (each.kind == "filling", -each.score))
    return sorted(ranked[:count], key=lambda each: (each.camera, each.time))


def visits_line(visits: Sequence[Visit], zone: str) -> str:
    """Return a line that lists the clear visits in time order: "Stood out: 14:02:10-14:02:31, 15:30:05-15:30:20".

    A visit is a stretch of time relevant to the question; a clear one is clearly stronger than the others. At most
    NUM_VISITS are listed, the strongest. Times have a date unless all are on the same day, and the camera's name if
    there are several cameras. Without clear visits, return "".
    """
    clear = [visit for visit in visits if visit.is_clear]
    shown = sorted(sorted(clear, key=lambda each: -each.strength)[:NUM_VISITS], key=lambda each: each.start)
    if not shown:
        return ""
    one_day = len({format_day(time, zone) for each in shown for time in (each.start, each.end)}) == 1
    one_camera = len({visit.camera for visit in clear}) == 1
    parts = []
    for each in shown:
        start, end = format_clock(each.start, zone), format_clock(each.end, zone)
        first_day, last_day = format_day(each.start, zone), format_day(each.end, zone)
        end = end if last_day == first_day else f"{last_day} {end}"
        words = [] if one_camera else [plain_line(each.camera)]
        words += [] if one_day else [first_day]
        parts.append(" ".join([*words, start if start == end else f"{start}-{end}"]))
    more = f" and {len(clear) - len(shown)} more" if len(clear) > len(shown) else ""
    return f"Stood out: {', '.join(parts)}{more}"


def timings_line(reply: Reply) -> str:
    """Return one line with the duration of each stage of the answer: "ms: embed 3.1, select 0.8"."""
    return "ms: " + ", ".join(f"{plain_line(stage)} {ms:.1f}" for stage, ms in reply.timings_ms.items())


def _save_sheet(args: argparse.Namespace, client: Client, reply: Reply, zone: str) -> None:
    from agent.cli.sheet import Section, Tile, write_sheet

    tiles = [
        Tile(client.get_bytes(each.url), f"{format_time(each.time, zone)} {each.kind} {each.score:.2f}", each.boxes)
        for each in best(reply.citations, NUM_LISTED)
    ]
    path: Path = args.sheet
    try:
        write_sheet(path, [Section(args.question, reply.text, tiles)])
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror}") from error
    say(f"contact sheet: {path}", file=sys.stderr)
