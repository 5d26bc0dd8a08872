"""Home Assistant's discovery: one device per camera, with its numbers and, for every rule, what shows and steers it.

Pure: topics and names in, the JSON of `<discovery_prefix>/device/<object_id>/config` out. A component that was announced
before and is no more is announced once with its platform alone, which is how Home Assistant is told to remove it.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from agent.mqtt.topics import DISABLED, OFF, OFFLINE, ON, ONLINE, Topics

Component = dict[str, Any]


def config_topic(discovery_prefix: str, topics: Topics, camera: str) -> str:
    """Where the device of `camera` is announced: "homeassistant/device/vilamp_yard/config"."""
    return f"{discovery_prefix}/device/{_node(topics)}_{camera}/config"


def config_payload(
    topics: Topics, camera: str, rules: Iterable[str], *, version: str, snapshots: bool, announced: Mapping[str, str]
) -> bytes:
    """The announcement of `camera` with `rules`.

    `announced`: platforms by key of what was announced last time; what is missing now is removed.
    """
    components: dict[str, Component] = _camera_components(topics, camera)
    for rule in sorted(rules):
        components |= _rule_components(topics, camera, rule, snapshots)
    gone = {key: {"platform": platform} for key, platform in announced.items() if key not in components}
    payload = {
        "device": {
            "identifiers": [f"{topics.prefix}/{camera}"],
            "name": f"ViLaMP {camera}",
            "manufacturer": "ViLaMP Live",
            "model": "camera",
            "sw_version": version,
        },
        "origin": {"name": "vilamp-live", "sw_version": version},
        "components": components | gone,
        "availability": [_available(topics.status)],
        "qos": 1,
    }
    return json.dumps(payload, sort_keys=True).encode()


def agent_topic(discovery_prefix: str, topics: Topics) -> str:
    """Where the agent itself is announced: "homeassistant/device/vilamp/config"."""
    return f"{discovery_prefix}/device/{_node(topics)}/config"


def agent_payload(topics: Topics, *, version: str) -> bytes:
    """The announcement of the agent: whether something does not work, with what it is among the attributes."""
    problem: Component = {
        "platform": "binary_sensor",
        "unique_id": topics.health,
        "name": "Problem",
        "device_class": "problem",
        "entity_category": "diagnostic",
        "state_topic": topics.health,
        "value_template": f"{{{{ '{ON}' if value_json.degraded else '{OFF}' }}}}",
        "payload_on": ON,
        "payload_off": OFF,
        "json_attributes_topic": topics.health,
    }
    payload = {
        "device": {
            "identifiers": [topics.prefix],
            "name": "ViLaMP Live",
            "manufacturer": "ViLaMP Live",
            "model": "agent",
            "sw_version": version,
        },
        "origin": {"name": "vilamp-live", "sw_version": version},
        "components": {"problem": problem},
        "availability": [_available(topics.status)],
        "qos": 1,
    }
    return json.dumps(payload, sort_keys=True).encode()


def platforms(payload: bytes) -> dict[str, str]:
    """Platforms by key of the components that `payload` announces, without those that it removes."""
    components: dict[str, Component] = json.loads(payload)["components"]
    return {key: component["platform"] for key, component in components.items() if len(component) > 1}


def _node(topics: Topics) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]", "_", topics.prefix)


def _available(topic: str) -> dict[str, str]:
    return {"topic": topic, "payload_available": ONLINE, "payload_not_available": OFFLINE}


def _camera_components(topics: Topics, camera: str) -> dict[str, Component]:
    memory = topics.memory(camera)

    def sensor(field: str, name: str, **more: str) -> Component:
        shown = f"{{{{ value_json.{field} }}}}"
        given = {"platform": "sensor", "state_topic": memory, "value_template": shown, "entity_category": "diagnostic"}
        return {**given, "unique_id": f"{memory}/{field}", "name": name, **more}

    def moment(field: str, name: str) -> Component:
        template = f"{{{{ value_json.{field} | as_datetime if value_json.{field} else none }}}}"
        return sensor(field, name, device_class="timestamp", value_template=template)

    status = topics.camera_status(camera)
    return {
        "status": {
            "platform": "binary_sensor",
            "unique_id": status,
            "name": "Video",
            "device_class": "connectivity",
            "entity_category": "diagnostic",
            "state_topic": status,
            "value_template": f"{{{{ '{ON}' if value == '{ONLINE}' else '{OFF}' }}}}",
            "payload_on": ON,
            "payload_off": OFF,
        },
        "frames": sensor("frames", "Frames remembered", state_class="measurement"),
        "rate": sensor(
            "ingest_fps",
            "Frames per second",
            state_class="measurement",
            unit_of_measurement="fps",
            icon="mdi:filmstrip",
        ),
        "oldest": moment("oldest", "Oldest frame"),
        "newest": moment("newest", "Newest frame"),
    }


def _rule_components(topics: Topics, camera: str, rule: str, snapshots: bool) -> dict[str, Component]:
    place = (camera, rule)
    state, event = topics.state(*place), topics.event(*place)
    picture, enabled, snooze = topics.snapshot(*place), topics.enabled(*place), topics.snooze(*place)
    # without media the state of the world is not known, while the rule can still be switched
    seeing = [_available(topics.status), {**_available(topics.camera_status(camera)), "payload_not_available": OFFLINE}]
    seeing[1]["value_template"] = f"{{{{ '{OFFLINE}' if value == '{DISABLED}' else value }}}}"
    switched = {"command_topic": topics.set_enabled(*place), "payload_on": ON, "payload_off": OFF, "icon": "mdi:bell"}
    until = "{{ value | float | as_datetime if value | float(0) > 0 else none }}"
    shown: dict[str, Component] = {
        f"state_{rule}": {
            "platform": "binary_sensor",
            "unique_id": state,
            "name": rule,
            "state_topic": state,
            "payload_on": ON,
            "payload_off": OFF,
            "availability": seeing,
            "availability_mode": "all",
        },
        f"event_{rule}": {
            "platform": "event",
            "unique_id": event,
            "name": f"{rule} alert",
            "state_topic": event,
            "event_types": ["on", "off"],
        },
        f"enabled_{rule}": {
            "platform": "switch",
            "unique_id": enabled,
            "name": f"{rule} enabled",
            "entity_category": "config",
            "state_topic": enabled,
            **switched,
        },
        f"snooze_{rule}": {
            "platform": "sensor",
            "unique_id": snooze,
            "name": f"{rule} snoozed until",
            "entity_category": "diagnostic",
            "state_topic": snooze,
            "device_class": "timestamp",
            "value_template": until,
        },
    }
    if snapshots:
        shown[f"image_{rule}"] = {
            "platform": "image",
            "unique_id": picture,
            "name": f"{rule} picture",
            "image_topic": picture,
            "content_type": "image/jpeg",
        }
    return shown
