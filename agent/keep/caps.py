"""The limits of the memory that hold where the configuration leaves them open: shares of this machine's disk and memory.

Frames are kept as long as a tenth of the disk allows for all cameras together, at most CAMERA_BYTES each. What every
frame needs in memory (its embedding, summary and metadata; patches of the newest ones apart) is limited in the same
way. A camera with limits of its own comes on top of these shares.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from agent.settings.settings import Settings

SHARE = 0.1  # of the disk, and of the machine's memory, for all cameras together
CAMERA_BYTES = 50 * 10**9
FRAME_RAM_BYTES = 3_400  # of a frame without patches, at the largest published sizes (docs/operations.md)
_USUAL_RAM_BYTES = 8 * 2**30  # where the system does not say how much there is
_LEAST_BYTES, _LEAST_FRAMES = 64 << 20, 10_000


@dataclass(frozen=True, slots=True)
class Machine:
    """What the shares are taken of: bytes of the data folder's disk, and of the machine's memory."""

    disk_bytes: int
    ram_bytes: int


@dataclass(frozen=True, slots=True)
class Caps:
    """Limits of one camera, or of all together. *_name: the setting that gives the limit, or the share it is.

    keep_s: largest age in seconds; None: no limit.
    """

    frames: int
    bytes: int
    keep_s: float | None
    frames_name: str
    bytes_name: str


def this_machine(data_dir: Path) -> Machine:
    """Return the sizes of this machine. data_dir: the data folder, which need not exist yet."""
    folder = next(each for each in (data_dir, *data_dir.absolute().parents) if each.is_dir())
    try:
        ram_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        ram_bytes = _USUAL_RAM_BYTES
    return Machine(shutil.disk_usage(folder).total, ram_bytes)


def camera_caps(settings: Settings, camera: str, machine: Machine) -> Caps:
    """Return the limits of one camera."""
    own, ages = settings.camera(camera), [settings.camera(camera).keep, settings.memory.keep]
    return Caps(
        frames=own.max_frames or _shared_frames(machine),
        bytes=own.max_bytes or min(CAMERA_BYTES, _shared_bytes(machine)),
        keep_s=min((age for age in ages if age is not None), default=None),
        frames_name=f"cameras.{camera}.max_frames" if own.max_frames else "a share of the machine's memory",
        bytes_name=f"cameras.{camera}.max_bytes" if own.max_bytes else "a share of the disk",
    )


def folder_caps(settings: Settings, machine: Machine) -> Caps:
    """Return the limits of all cameras together."""
    own = settings.memory
    more_frames = sum(each.max_frames or 0 for each in settings.cameras.values())
    more_bytes = sum(each.max_bytes or 0 for each in settings.cameras.values())
    return Caps(
        frames=own.max_frames or _shared_frames(machine) + more_frames,
        bytes=own.max_bytes or _shared_bytes(machine) + more_bytes,
        keep_s=own.keep,
        frames_name="memory.max_frames" if own.max_frames else "a share of the machine's memory",
        bytes_name="memory.max_bytes" if own.max_bytes else "a share of the disk",
    )


def _shared_bytes(machine: Machine) -> int:
    return max(_LEAST_BYTES, int(SHARE * machine.disk_bytes))


def _shared_frames(machine: Machine) -> int:
    return max(_LEAST_FRAMES, int(SHARE * machine.ram_bytes) // FRAME_RAM_BYTES)
