"""Where the evidence clip of an alert is: the export of one camera's seconds around it. Pure; signs nothing."""

from urllib.parse import urlencode

CLIP_BEFORE_S, CLIP_AFTER_S = 10.0, 5.0
MAX_CLIP_S = 600.0  # at 30 frames a second still below what one export may hold


def clip_path(camera: str, start_time: float, end_time: float) -> str:
    """Path and query of the clip, of MAX_CLIP_S at most: an alert that lasted longer shows its beginning.

    clip_path("yard", 1000.0, 1002.0) is "/v1/cameras/yard/export?after=990.000&before=1007.000".
    """
    after = start_time - CLIP_BEFORE_S
    before = min(end_time + CLIP_AFTER_S, after + MAX_CLIP_S)
    return f"/v1/cameras/{camera}/export?" + urlencode({"after": f"{after:.3f}", "before": f"{before:.3f}"})
