"""Makes camera names from file names, whatever alphabet they are written in."""

import re
from collections.abc import Collection

from anyascii import anyascii

from agent.settings.types import check_slug

MAX_CHARS = 64
_OTHERWISE = "video"  # the camera name for a file name without letters and digits


def camera_name(stem: str, taken: Collection[str] = ()) -> str:
    """Return a valid camera name for a file. stem: its name without the extension. taken: names in use already.

    If the name is in use, a number is added, from 2 on.

    "My Gate" -> "my-gate"; "Камера у ворот" -> "kamera-u-vorot"; "1" -> "1-2" when "1" is taken.
    """
    slug = re.sub(r"[^a-z0-9_-]+", "-", anyascii(stem).lower()).strip("-_")[:MAX_CHARS].strip("-_") or _OTHERWISE
    if not _may_name_a_camera(slug):
        slug = f"{slug}-{_OTHERWISE}"
    name, number = slug, 1
    while name in taken:
        number += 1
        ending = f"-{number}"
        name = slug[: MAX_CHARS - len(ending)] + ending
    return name


def _may_name_a_camera(slug: str) -> bool:
    try:
        return bool(check_slug(slug))
    except ValueError:
        return False
