"""Open the memory of a data folder with the configured limits and the feature sizes of the model."""

from typing import TYPE_CHECKING

from agent.keep.caps import Machine, camera_caps, folder_caps, this_machine
from agent.settings.settings import Settings
from memory.limits import FolderLimits, Limits
from memory.store import MemoryStore

if TYPE_CHECKING:
    from model.clip_encoder import ClipEncoder
    from model.video_model import VideoModel


def open_memory(settings: Settings, model: "VideoModel | ClipEncoder") -> MemoryStore:
    """Open or create the memory in `settings.data_dir`, and return it. Raises memory.errors.StorageError."""
    info, machine = model.info, this_machine(settings.data_dir)
    together = folder_caps(settings, machine)
    return MemoryStore(
        settings.data_dir / "memory",
        embedding_dim=info.embedding_dim,
        limits=_limits(settings, "", machine),
        camera_limits={name: _limits(settings, name, machine) for name in settings.cameras},
        folder_limits=FolderLimits(together.frames, together.bytes),
        patch_shape=(info.patches_per_frame, info.patch_width),
        patch_dtype=info.patch_dtype,
        num_scalars=info.num_scalars,
        encoder=info.fingerprint,
    )


def _limits(settings: Settings, camera: str, machine: Machine) -> Limits:
    """Return the limits of one camera. The patches of frames before its newest `hot_frames` are recomputed when needed."""
    caps = camera_caps(settings, camera, machine)
    hot_frames = min(caps.frames, settings.camera(camera).hot_frames)
    return Limits(frames=caps.frames, bytes=caps.bytes, age_s=caps.keep_s, hot_frames=hot_frames)
