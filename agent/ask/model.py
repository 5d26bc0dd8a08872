"""Load the configured model."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from agent.settings.settings import Settings

if TYPE_CHECKING:
    from model.clip_encoder import ClipEncoder
    from model.video_model import VideoModel


class ModelUnusable(ValueError):
    """The configured checkpoint cannot be loaded. The message tells the operator why."""


def load_model(settings: Settings) -> "VideoModel | ClipEncoder":
    """Load the configured checkpoint; a hub id that is not in the cache is downloaded. Takes seconds: imports torch.

    Raises ModelUnusable.
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
            raise ModelUnusable("this is CLIP, which chooses frames but cannot answer: set answerer (docs/laptop.md)")
        return ClipEncoder.load(folder, name=name, device=chosen.device, dtype=chosen.dtype, num_threads=threads)
    except (OSError, ValueError) as error:  # the folder is absent, or its files contradict one another
        raise ModelUnusable(str(error)) from error
