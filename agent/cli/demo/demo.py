"""`vilamp demo`: publish a drawn world to a real server over WebRTC, ask about it over HTTP, compare with the truth.

The world's clock runs fast, so that minutes of it pass in one; the camera is sampled at a higher rate to match. The
truth is known because the world is drawn.
"""

import argparse
import asyncio
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from agent.cli.ask import best, timings_line
from agent.cli.client import Client, Reply, ServerError
from agent.cli.common import EXIT_FAILED, CliError
from agent.cli.demo.alerts import (
    HORIZON_S,
    Received,
    Subscriber,
    alert_line,
    alerts_config,
    free_port,
    listen,
    pick_rules,
    rules_line,
    truth_of,
)
from agent.cli.demo.server import DemoServer, demo_config, running_server
from agent.cli.demo.world import (
    Show,
    came_lately,
    judge,
    lately,
    on_our_clock,
    overview,
    pick_questions,
    pick_world,
    spans_in_words,
    unanswerable,
)
from agent.cli.sheet import Section, Tile, write_sheet
from agent.evaluation.alert_truth import Armed
from agent.times import format_clock, format_span, local_zone_name
from agent.untrusted.plain import plain, plain_line
from model.world.answers import Question
from streaming.publisher import FramesTrack, PublishError, publish

CAMERA = "world"
RATE_HZ = 12.0  # pictures published per second
NUM_QUESTIONS = 9
MIN_QUESTIONS = 6
ASKING_S = 300.0  # world seconds after the fast part, while questions are asked
STAY_S = 6 * 3600.0
CATCH_UP_S = 40.0
POLL_S = 0.4
NUM_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Result:
    """One question, its answer (None: there was none), and the truth."""

    question: Question
    reply: Reply | None
    right: bool
    truth: str


def run(args: argparse.Namespace) -> int:
    """Return 0 when every question was answered, else 1. Raises CliError when the demo cannot run."""
    started = time.monotonic()
    console = Console(highlight=False, markup=False, soft_wrap=True)
    _prepare(args.out)
    try:
        code = asyncio.run(_demo(args, console))
    except asyncio.CancelledError:  # SIGTERM; the server has been stopped
        return EXIT_FAILED
    except (PublishError, ServerError) as error:
        raise CliError(f"{error} (see {args.out / 'server.log'})") from error
    console.print(f"the demo took {time.monotonic() - started:.0f} s")
    return code


def _prepare(out: Path) -> None:
    """Remove memory and tokens of an earlier demo."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if (out / "data").exists():
            shutil.rmtree(out / "data")
    except OSError as error:
        raise CliError(f"{out}: {error.strerror}") from error


async def _demo(args: argparse.Namespace, console: Console) -> int:
    this = asyncio.current_task()
    if this is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    show = await asyncio.to_thread(_show, args)
    zone = local_zone_name()
    config = demo_config(CAMERA, min(args.speed, RATE_HZ), zone, args.model, args.port or (8080 if args.stay else 0))
    rules = await asyncio.to_thread(pick_rules, show.scene, show.fast_until)
    broker = free_port()
    config |= alerts_config(rules, args.speed, broker)
    console.print("starting the server ...")
    async with running_server(args.out, config) as server:
        track = FramesTrack(show.pictures(), rate_hz=RATE_HZ)
        async with publish(f"{server.url}/whip/{CAMERA}", server.publish_token, track) as publication:
            await publication.wait_connected()
            console.print(_explanation(args, show, server))
            console.print(rules_line(rules, broker))
            with (
                Client(server.url, server.ask_token) as client,
                _subscribed(args.out, broker, rules, show, console) as subscriber,
            ):
                if args.stay:
                    console.print(_invitation(args, show, server))
                    await publication.wait_ended()
                    return 0
                await _watch(console, client, show)
                picked = await asyncio.to_thread(_questions, show)
                results = []
                for number, each in enumerate(picked, 1):
                    console.print(f"\n[{number}/{len(picked)}] {each.family}: {each.text}")
                    results.append(await _put(console, client, each, show, zone))
                    show.go_on.set()  # the question about the present was the first
                await asyncio.to_thread(_save_sheet, args.out / "evidence.png", client, results, zone)
    console.print(f"\n{subscriber.summary()}")
    return _conclude(console, results, args.out / "evidence.png")


def _questions(show: Show) -> list[Question]:
    """Return what to ask: about the things that came, about the last seconds, about everything, and about no camera."""
    scene, until = show.scene, show.fast_until
    picked = pick_questions(scene, until, NUM_QUESTIONS)
    recent = lately(scene, picked, until)
    return [*picked, *([recent] if recent else []), overview(scene, until), unanswerable()]


@contextmanager
def _subscribed(
    out: Path, broker: int, rules: Mapping[str, Armed], show: Show, console: Console
) -> Iterator[Subscriber]:
    """Print every alert of the embedded broker as it arrives."""
    subscriber = Subscriber(out)

    def on_alert(alert: Received) -> None:
        world = show.clock.world(alert.time)
        known = world < show.fast_until + HORIZON_S
        truth = truth_of(rules[alert.rule], world) if known else None
        subscriber.num_correct += truth is not None and truth[0]
        console.print(alert_line(alert, truth, world))

    listening = asyncio.create_task(listen(broker, subscriber, on_alert))
    try:
        yield subscriber
    finally:
        listening.cancel()


def _show(args: argparse.Namespace) -> Show:
    """Return the scene to play: fast until something is in view near the wanted time, then at normal speed."""
    fast_s = args.seconds * args.speed
    after_s = STAY_S if args.stay else ASKING_S
    scene, until = pick_world(args.seed, fast_s=fast_s, after_s=after_s, enough=MIN_QUESTIONS)
    show = Show(scene, rate_hz=RATE_HZ, speed=args.speed, fast_until=until)
    if args.stay:
        show.go_on.set()
    return show


def _explanation(args: argparse.Namespace, show: Show, server: DemoServer) -> str:
    kept_hz = min(args.speed, RATE_HZ)
    return (
        f"server ready at {server.url}\n"
        f"publishing a drawn world over WebRTC (WHIP, loopback). Its clock runs {args.speed:g} times as fast as ours:\n"
        f"{format_span(show.fast_until)} of world in {format_span(show.fast_until / args.speed)}, sampled at "
        f"{kept_hz:g} frames/s, so that a kept frame is {args.speed / kept_hz:.2g} s of world.\n"
        f"Then it {'' if args.stay else 'stands still for a question about the present, and '}goes on at our pace.\n"
        f"The model was never trained on this world (seed {show.scene.seed}). Clock times below are ours."
    )


def _invitation(args: argparse.Namespace, show: Show, server: DemoServer) -> str:
    started_as = Path(sys.argv[0])  # `make run` starts .venv/bin/vilamp, which is not on the PATH
    vilamp = started_as if started_as.name == "vilamp" else "vilamp"
    return (
        f"\nwatch and ask it in a browser:\n  {server.url}/#token={server.owner_token}\n"
        f"or ask it here, for example:\n"
        f'  {vilamp} ask "what can you see at the moment?" --server {server.url} --data-dir {args.out / "data"}\n'
        f"after {format_span(show.fast_until / args.speed)} the world's clock slows down to ours. Ctrl-C ends it."
    )


async def _watch(console: Console, client: Client, show: Show) -> None:
    """Show how many frames the server has stored, until the fast part is over and encoded."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[frames]}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("watching", total=show.fast_until, frames="")
        rounds = 0
        while True:
            camera = await asyncio.to_thread(client.get_json, f"/v1/cameras/{CAMERA}")
            world = show.clock.worlds[-1] if show.clock.worlds else 0.0
            frames = f"{camera['frames']} frames remembered, {camera['encoded']} encoded"
            progress.update(bar, completed=min(world, show.fast_until), frames=frames)
            if show.standing.is_set():
                # at least three rounds: the last fast frames are still on their way
                rounds += 1
                behind = camera["frames"] - camera["encoded"]
                if (rounds > 3 and behind <= 1) or rounds * POLL_S > CATCH_UP_S:
                    return
            await asyncio.sleep(POLL_S)


async def _put(console: Console, client: Client, question: Question, show: Show, zone: str) -> Result:
    """Ask one question and print the answer as it is written, then truth, evidence and timings."""
    began = time.time()
    try:
        reply = await asyncio.to_thread(_ask, console, client, question.text)
    except ServerError as error:
        console.print(f"  no answer: {plain_line(error)}", markup=False)
        return Result(question, None, False, "")
    asked = on_our_clock(question, show.clock, zone)
    if question.family == "lately":
        asked = replace(asked, answer=came_lately(question, show, began))
    right, truth = judge(asked, reply)
    proof = spans_in_words(question.spans)
    console.print(f"  truth     {truth}  {f'({proof})' if proof else ''} -> {'right' if right else 'wrong'}")
    console.print(f"  evidence  {len(reply.citations)} of {reply.num_frames} frames, best: {_cited(reply, zone)}")
    console.print(f"  {timings_line(reply)}")
    return Result(question, reply, right, truth)


def _ask(console: Console, client: Client, text: str) -> Reply:
    """Print one answer as it is written. Blocks. Raises ServerError."""
    console.print("  answer    ", end="")
    for part in client.ask(text, cameras=[CAMERA]):
        if isinstance(part, Reply):
            console.print()
            return part
        console.print(plain(part).replace("\n", " "), end="", markup=False)
    raise ServerError("the answer is incomplete")


def _cited(reply: Reply, zone: str) -> str:
    shown = best(reply.citations, NUM_SHOWN)
    return ", ".join(f"{format_clock(each.time, zone)} {each.kind} {each.score:.2f}" for each in shown)


def _save_sheet(path: Path, client: Client, results: Sequence[Result], zone: str) -> None:
    """Save the best evidence of every answer as one picture. Raises CliError, ServerError."""
    sections = []
    for result in results:
        reply = result.reply or Reply(text="no answer")
        tiles = [
            Tile(
                client.get_bytes(each.url), f"{format_clock(each.time, zone)} {each.kind} {each.score:.2f}", each.boxes
            )
            for each in best(reply.citations, NUM_SHOWN)
        ]
        verdict = f"truth: {result.truth}" if result.reply else ""
        sections.append(Section(result.question.text, f"{reply.text.strip()}\n{verdict}", tiles))
    try:
        write_sheet(path, sections)
    except OSError as error:
        raise CliError(f"{path}: {error.strerror}") from error


def _conclude(console: Console, results: Sequence[Result], sheet: Path) -> int:
    answered = [result for result in results if result.reply is not None and result.reply.text.strip()]
    right = sum(result.right for result in results)
    console.print(f"\n{len(answered)} of {len(results)} questions answered, {right} right. Evidence frames: {sheet}")
    return 0 if len(answered) == len(results) > 0 else EXIT_FAILED
