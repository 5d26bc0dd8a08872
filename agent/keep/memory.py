"""Open the memory of a data folder with the configured limits and the feature sizes of the model."""

from typing import TYPE_CHECKING

from agent.settings.settings import CameraSettings, MemorySettings, Settings
from memory.limits import FolderLimits, Limits
from memory.store import MemoryStore

if TYPE_CHECKING:
    from model.clip_encoder import ClipEncoder
    from model.video_model import VideoModel


def open_memory(settings: Settings, model: "VideoModel | ClipEncoder") -> MemoryStore:
    """Open or create the memory in `settings.data_dir`, and return it. Raises memory.errors.StorageError."""
    info = model.info
    return MemoryStore(
        settings.data_dir / "memory",
        embedding_dim=info.embedding_dim,
        limits=_limits(CameraSettings(), settings.memory),
        camera_limits={name: _limits(camera, settings.memory) for name, camera in settings.cameras.items()},
        folder_limits=FolderLimits(settings.memory.max_frames, settings.memory.max_bytes),
        patch_shape=(info.patches_per_frame, info.patch_width),
        patch_dtype=info.patch_dtype,
        num_scalars=info.num_scalars,
        encoder=info.fingerprint,
    )


def _limits(camera: CameraSettings, memory: MemorySettings) -> Limits:
    """Return the limits of one camera. The patches of frames before its newest `hot_frames` are recomputed when needed."""
    hot_frames = min(camera.max_frames, camera.hot_frames)
    age_s = min((age for age in (camera.max_age_s, memory.max_age_s) if age is not None), default=None)
    return Limits(frames=camera.max_frames, bytes=camera.max_bytes, age_s=age_s, hot_frames=hot_frames)
