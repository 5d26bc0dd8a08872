"""Load the configured checkpoint, and make the configured answerer: a local model, a remote server or none.

All other files use the `Answerer` protocol and do not depend on which of the two it is.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.ask.answerer import Answerer
from agent.ask.egress import Egress, Resolver
from agent.ask.nobody import Nobody
from agent.ask.tools import frames_window
from agent.runtime.lanes import Lane
from agent.settings.settings import Settings
from memory.store import MemoryStore

if TYPE_CHECKING:
    from model.clip_encoder import ClipEncoder
    from model.video_model import VideoModel


class ModelUnusable(ValueError):
    """The configured checkpoint cannot be loaded. The message tells the operator why."""


def load_model(settings: Settings) -> "VideoModel | ClipEncoder":
    """Load and return the configured checkpoint. Takes seconds, as it imports torch.

    A checkpoint that is named by its Hugging Face Hub id is downloaded if it is not in the cache. Raises ModelUnusable.
    """
    chosen = settings.model
    # The vision and the language lane share the cores; on a busy machine each operation waits for its slowest thread.
    threads = chosen.num_threads or max(1, (os.cpu_count() or 1) // 2)
    from model.clip_encoder import ClipEncoder, is_clip
    from model.hub import resolve
    from model.video_model import VideoModel

    name = Path(chosen.path).name
    try:
        folder = resolve(chosen.path)
        if not is_clip(folder):
            return VideoModel.load(
                folder,
                device=chosen.device,
                dtype=chosen.dtype,
                num_threads=threads,
                patch_dtype=chosen.patch_storage,
                language_4bit=chosen.language_4bit,
                name=name,
            )
        if settings.answerer.kind == "local":
            raise ModelUnusable(
                "this is CLIP, which chooses frames but cannot answer: set answerer (docs/real-cameras.md)"
            )
        return ClipEncoder.load(folder, name=name, device=chosen.device, dtype=chosen.dtype, num_threads=threads)
    except (OSError, ValueError) as error:  # the folder is absent, or its files contradict one another
        raise ModelUnusable(str(error)) from error


def make_answerer(
    settings: Settings,
    store: MemoryStore,
    model: "VideoModel | ClipEncoder",
    *,
    vision: Lane,
    language: Lane,
    zone_of: Callable[[str], str],
    resolve: Resolver,
    now: Callable[[], float],
) -> Answerer[Any]:
    """Return the answerer that `settings.answerer` names. Imports torch only for one that runs on this machine.

    now: returns unix seconds.
    """
    if settings.answerer.kind == "none":
        return Nobody()
    if settings.answerer.kind == "local":
        from agent.ask.local import LocalAnswerer
        from model.clip_encoder import ClipEncoder

        if isinstance(model, ClipEncoder):
            raise ValueError("this checkpoint has no language model")
        return LocalAnswerer(
            model,
            vision=vision,
            language=language,
            settings=settings.answering,
            zone_of=zone_of,
            frame_at=lambda camera, time: store.window((camera,), time, time),
        )
    from agent.ask.remote import RemoteAnswerer

    def egress_of(camera: str) -> Egress:
        return settings.camera(camera).egress

    # the probe carries no pictures: one camera that allows any address is enough
    probe_egress = "allowed" if "allowed" in map(egress_of, settings.cameras) else egress_of("")
    return RemoteAnswerer(
        settings.answerer,
        max_new_tokens=settings.answering.max_new_tokens,
        egress_of=egress_of,
        probe_egress=probe_egress,
        zone_of=zone_of,
        resolve=resolve,
        frames_of=partial(frames_window, store),
        file=settings.data_dir / "server.json",
        now=now,
    )
