"""Settings that earlier versions had, and what replaced each. Such a setting is ignored with a warning."""

from collections.abc import Iterator, Sequence
from typing import Any

_CHECKPOINT = "the checkpoint decides"

REMOVED = {
    "model.batch_size": "it is always 8",
    "answering.recent": _CHECKPOINT,
    "answering.tau": _CHECKPOINT,
    "answering.min_per_camera": "each camera asked about gets half of its share of the keyframes",
    "answering.visit_gap_s": "six seconds out of sight start a new visit, or three to six frame intervals of the camera",
    "answering.max_question_chars": "it is always 2000",
    "answerer.retries": "it is always 2",
    "answerer.max_image_bytes": "it is always 4 MiB; answerer.max_images and max_image_width limit what is sent",
    "answerer.limit_name": "the server's name for the token limit is found by asking",
    "mqtt.keepalive_s": "it is always 20",
    "mqtt.max_snapshot_bytes": "it is always 256 KiB",
    "mqtt.stats_interval_s": "it is always 30",
    "webhooks.*.timeout_s": "it is always 10",
    "webhooks.*.max_age_s": "it is always 86400, one day",
    "rules.*.gate.surge": "it is always 1.5",
    "rules.*.gate.open_factor": "it is always 4",
    "rules.*.gate.warm_up_frames": "it is always 30",
    "rules.*.gate.min_spread": "it is always 0.002",
    "alerts.max_rules": "it is always 64",
    "alerts.max_suppressed": "alerts.max_alerts limits these as well",
    "alerts.max_outbox": "it is always 1000",
    "alerts.max_waiting": "it is always 16",
    "alerts.late_s": "it is always 300",
}
"""Maps the dotted name of each removed setting to what replaced it. "*" stands for any name."""

RENAMED = {"cameras.*.max_age_s": "keep", "memory.max_age_s": "keep"}
"""Maps the dotted name of each renamed setting to its present key, which has the same meaning."""

Place = tuple[str | int, ...]


def take_removed(tree: dict[str, Any]) -> tuple[dict[str, Any], dict[Place, str]]:
    """Return `tree` without its removed and old names of settings, and a dict from the place of each to a warning.

    tree: nested settings, which are not changed. A place is a path of keys: ("rules", "door", "gate", "surge").
    """
    removed: dict[Place, str] = {}
    for name, replacement in REMOVED.items():
        for place in list(_places(tree, name.split("."), ())):
            removed[place] = f"was removed: {replacement}; delete this setting"
            tree = _without(tree, place)
    for name, key in RENAMED.items():
        for place in list(_places(tree, name.split("."), ())):
            removed[place] = f"is called {key} now, and is read as that: rename it"
            tree = _renamed(tree, place, key)
    return tree, removed


def _renamed(tree: dict[Any, Any], place: Place, key: str) -> dict[Any, Any]:
    """Return a copy of `tree` in which the value at `place` has another last key, unless that is there already."""
    first, *rest = place
    if rest:
        return {**tree, first: _renamed(tree[first], tuple(rest), key)}
    return {key: tree[first], **_without(tree, place)}


def _places(tree: Any, keys: Sequence[str], above: Place) -> Iterator[Place]:
    """Yield the paths of keys in `tree` that match `keys`, in which "*" matches any key.

    above: the path of `tree` itself.
    """
    if not isinstance(tree, dict):
        return
    for key in tree if keys[0] == "*" else [keys[0]] if keys[0] in tree else []:
        if keys[1:]:
            yield from _places(tree[key], keys[1:], (*above, key))
        else:
            yield (*above, key)


def _without(tree: dict[Any, Any], place: Place) -> dict[Any, Any]:
    """Return a copy of `tree` without the key at the path `place`. The copy shares the other values with `tree`."""
    first, *rest = place
    if not rest:
        return {key: value for key, value in tree.items() if key != first}
    return {**tree, first: _without(tree[first], tuple(rest))}
