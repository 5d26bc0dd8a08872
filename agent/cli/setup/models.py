"""Checks of the encoder and of the answerer for a set-up."""

import time
from collections.abc import Iterator

import httpx

from agent.ask.capabilities import Capabilities, Prober, listed_in, remembered, words
from agent.ask.egress import Egress, system_resolver
from agent.ask.model import ModelUnusable, load_model
from agent.ask.remote_client import ChatClient
from agent.cli.setup.findings import Finding
from agent.cli.setup.servers import TIMEOUT_S, ask_server
from agent.errors import Problem
from agent.settings.settings import AnswererSettings, Settings

_TIMED = 3  # pictures whose encoding is timed
_BUSY = 0.8  # share of the time that encoding may take


def encoder_findings(settings: Settings) -> Iterator[Finding]:
    """Yield whether the encoder loads, works, and is fast enough for the cameras."""
    from model.hub import is_hub_id, on_disk

    path = settings.model.path
    if is_hub_id(path) and not on_disk(path):
        advice = f"vilamp model fetch {path}"
        yield Finding("encoder", "encoder", "warning", f"{path} is not on this machine yet", advice)
        return
    started = time.perf_counter()
    try:
        model = load_model(settings)
        model.self_test()
    except (ModelUnusable, RuntimeError) as error:
        yield Finding("encoder", "encoder", "error", f"{path}: {error}", "correct the section model")
        return
    loaded_s = time.perf_counter() - started
    frame_s = _frame_s(model)
    cameras = [each for each in settings.cameras.values() if each.enabled]
    needed = sum(each.rate_hz for each in cameras)
    said = f"{path} loads in {loaded_s:.1f} s and takes {1000 * frame_s:.0f} ms a frame"
    if needed * frame_s > _BUSY:
        advice = "lower cameras.<name>.rate_hz, set model.dtype or model.device, or use a smaller model"
        said += f"; the cameras send {needed:g} frames/s, so it would fall behind"
        yield Finding("encoder", "encoder", "warning", said, advice)
        return
    yield Finding("encoder", "encoder", "ok", f"{said}: {1 / frame_s:.1f} frames/s, {needed:g} needed")


def _frame_s(model: object) -> float:
    """Return the seconds that one 720p picture takes, the fastest of a few."""
    import numpy as np

    from model.clip_encoder import ClipEncoder
    from model.video_model import VideoModel

    assert isinstance(model, ClipEncoder | VideoModel)
    picture = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
    took = []
    for _ in range(_TIMED):
        started = time.perf_counter()
        model.encode([picture])
        took.append(time.perf_counter() - started)
    return min(took)


async def answerer_findings(settings: Settings) -> list[Finding]:
    """Return whether the answerer is there, has the model, and what the model can do."""
    answerer = settings.answerer
    if answerer.kind == "none":
        return [Finding("answerer", "answerer", "ok", "no language model: answers name the times that stood out")]
    if answerer.base_url is None or answerer.kind == "local":
        return [Finding("answerer", "answerer", "ok", "this machine's checkpoint answers")]
    async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as http:
        server = await ask_server(http, answerer.base_url, _key(answerer))
    if server is None:
        said = f"{answerer.base_url} lists no models"
        return [Finding("answerer", "answerer", "error", said, "start the server, or correct answerer.base_url")]
    names = [each.name for each in server.models]
    if not listed_in(names, answerer.model or ""):
        said = f"{answerer.base_url} has no model {answerer.model}; it lists {', '.join(names[:8]) or 'none'}"
        pull = f"ollama pull {answerer.model}, or " if server.kind == "Ollama" else ""
        return [Finding("answerer", "answerer", "error", said, f"{pull}correct answerer.model")]
    known = remembered(settings.data_dir / "server.json", settings=answerer, now=time.time())
    return [answerer_finding(answerer, known or await probe(settings))]


async def probe(settings: Settings) -> Capabilities:
    """Ask the configured server what it can do, with pictures of our own. Never fails."""
    rules = {each.egress for each in settings.cameras.values()}
    rule: Egress = "allowed" if "allowed" in rules else "local_only"
    client = ChatClient(settings.answerer, resolve=system_resolver)
    prober = Prober(client, settings.answerer, rule, now=time.time)
    try:
        return await prober.find_out(True)
    except Problem as problem:
        answerer = settings.answerer
        return Capabilities(
            answerer.base_url or "", answerer.model or "", answerer.max_images, time.time(), problem=problem.message
        )


def answerer_finding(answerer: AnswererSettings, found: Capabilities) -> Finding:
    """Return what was found out about the server as a finding."""
    said = "; ".join(words(found))
    if found.problem:
        advice = "set answerer.model to a vision model, or see docs/servers.md"
        return Finding("answerer", "answerer", "error", found.problem, advice)
    return Finding("answerer", "answerer", "warning" if found.warnings else "ok", f"{answerer.model}: {said}")


def _key(answerer: AnswererSettings) -> str | None:
    if answerer.api_key_file is not None:
        try:
            return answerer.api_key_file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
    return None if answerer.api_key is None else answerer.api_key.get_secret_value()
