"""Home Assistant discovery: announce a device for the agent and one for each camera.

A camera's device has sensors for the numbers of its memory and, for every rule, a state, events, a switch and a picture
(these are its components). Pure functions: they take topics and names and return the JSON for
`<discovery_prefix>/device/<object_id>/config`. A component that was announced before and no longer exists is announced
once more with only its platform, which makes Home Assistant remove it.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from agent.mqtt.topics import DISABLED, OFF, OFFLINE, ON, ONLINE, Topics

Component = dict[str, Any]

_ON_OFF = {"payload_on": ON, "payload_off": OFF}
_DIAGNOSTIC = {"entity_category": "diagnostic"}


def config_topic(discovery_prefix: str, topics: Topics, camera: str) -> str:
    """Return the topic that announces `camera`: "homeassistant/device/vilamp_yard/config"."""
    return f"{discovery_prefix}/device/{_node(topics)}_{camera}/config"


def config_payload(
    topics: Topics, camera: str, rules: Iterable[str], *, version: str, snapshots: bool, announced: Mapping[str, str]
) -> bytes:
    """Return the announcement of `camera` with `rules`.

    announced: the components of the last announcement, as `platforms` returns them. Home Assistant is made to remove
    those that no longer exist.
    """
    components: dict[str, Component] = _camera_components(topics, camera)
    for rule in sorted(rules):
        components |= _rule_components(topics, camera, rule, snapshots)
    gone = {key: {"platform": platform} for key, platform in announced.items() if key not in components}
    identity = {"identifiers": [f"{topics.prefix}/{camera}"], "name": f"ViLaMP {camera}", "model": "camera"}
    return _payload(topics, identity, version, components | gone)


def agent_topic(discovery_prefix: str, topics: Topics) -> str:
    """Return the topic that announces the agent: "homeassistant/device/vilamp/config"."""
    return f"{discovery_prefix}/device/{_node(topics)}/config"


def agent_payload(topics: Topics, *, version: str) -> bytes:
    """Return the announcement of the agent: one sensor that is on while something does not work. Its attributes say what."""
    problem: Component = {
        "platform": "binary_sensor",
        "unique_id": topics.health,
        "name": "Problem",
        "device_class": "problem",
        "state_topic": topics.health,
        "value_template": f"{{{{ '{ON}' if value_json.degraded else '{OFF}' }}}}",
        "json_attributes_topic": topics.health,
        **_ON_OFF,
        **_DIAGNOSTIC,
    }
    identity = {"identifiers": [topics.prefix], "name": "ViLaMP Live", "model": "agent"}
    return _payload(topics, identity, version, {"problem": problem})


def platforms(payload: bytes) -> dict[str, str]:
    """Return the platform of each component that the announcement `payload` contains, by key, without removed ones."""
    components: dict[str, Component] = json.loads(payload)["components"]
    return {key: component["platform"] for key, component in components.items() if len(component) > 1}


def _payload(topics: Topics, identity: Component, version: str, components: Mapping[str, Component]) -> bytes:
    payload = {
        "device": {"manufacturer": "ViLaMP Live", "sw_version": version, **identity},
        "origin": {"name": "vilamp-live", "sw_version": version},
        "components": components,
        "availability": [_available(topics.status)],
        "qos": 1,
    }
    return json.dumps(payload, sort_keys=True).encode()


def _node(topics: Topics) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]", "_", topics.prefix)


def _available(topic: str) -> dict[str, str]:
    return {"topic": topic, "payload_available": ONLINE, "payload_not_available": OFFLINE}


def _component(platform: str, topic: str, name: str, topic_key: str = "state_topic", **more: Any) -> Component:
    """Return a component whose unique id is its topic."""
    return {"platform": platform, "unique_id": topic, "name": name, topic_key: topic, **more}


def _camera_components(topics: Topics, camera: str) -> dict[str, Component]:
    memory, status = topics.memory(camera), topics.camera_status(camera)

    def sensor(field: str, name: str, **more: str) -> Component:
        template = f"{{{{ value_json.{field} }}}}"
        return {
            **_component("sensor", memory, name, value_template=template, **_DIAGNOSTIC),
            "unique_id": f"{memory}/{field}",
            **more,
        }

    def moment(field: str, name: str) -> Component:
        template = f"{{{{ value_json.{field} | as_datetime if value_json.{field} else none }}}}"
        return sensor(field, name, device_class="timestamp", value_template=template)

    measured = {"state_class": "measurement"}
    video = f"{{{{ '{ON}' if value == '{ONLINE}' else '{OFF}' }}}}"
    return {
        "status": _component(
            "binary_sensor",
            status,
            "Video",
            device_class="connectivity",
            value_template=video,
            **_ON_OFF,
            **_DIAGNOSTIC,
        ),
        "frames": sensor("frames", "Frames remembered", **measured),
        "rate": sensor("ingest_fps", "Frames per second", unit_of_measurement="fps", icon="mdi:filmstrip", **measured),
        "oldest": moment("oldest", "Oldest frame"),
        "newest": moment("newest", "Newest frame"),
    }


def _rule_components(topics: Topics, camera: str, rule: str, snapshots: bool) -> dict[str, Component]:
    place = (camera, rule)
    # Without video it is unknown whether the condition is true, so the state is unavailable; the switch still works.
    video = {
        **_available(topics.camera_status(camera)),
        "value_template": f"{{{{ '{OFFLINE}' if value == '{DISABLED}' else value }}}}",
    }
    seeing: Component = {"availability": [_available(topics.status), video], "availability_mode": "all"}
    switch = {"command_topic": topics.set_enabled(*place), "entity_category": "config", "icon": "mdi:bell"}
    until = "{{ value | float | as_datetime if value | float(0) > 0 else none }}"
    shown = {
        f"state_{rule}": _component("binary_sensor", topics.state(*place), rule, **_ON_OFF, **seeing),
        f"event_{rule}": _component("event", topics.event(*place), f"{rule} alert", event_types=["on", "off"]),
        f"enabled_{rule}": _component("switch", topics.enabled(*place), f"{rule} enabled", **_ON_OFF, **switch),
        f"snooze_{rule}": _component(
            "sensor",
            topics.snooze(*place),
            f"{rule} snoozed until",
            device_class="timestamp",
            value_template=until,
            **_DIAGNOSTIC,
        ),
    }
    if snapshots:
        picture = topics.snapshot(*place)
        shown[f"image_{rule}"] = _component(
            "image", picture, f"{rule} picture", "image_topic", content_type="image/jpeg"
        )
    return shown
