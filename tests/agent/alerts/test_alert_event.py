"""An alert event's payload: canonical and complete."""

import json
from dataclasses import replace

import pytest

from agent.alerts.event import event_id, new_alert_id
from tests.support.events import EVENT


def test_a_payload_is_canonical_json_with_every_documented_field() -> None:
    payload = EVENT.payload()
    assert set(json.loads(payload)) == {
        *("event_type", "id", "rule", "camera", "condition", "message", "start_time", "time", "end_time"),
        *("confirmations", "score", "model", "latency_s", "frames", "clip_url", "image_topic"),
    }
    assert payload == EVENT.payload()
    assert b'"confirmations":[2,3],' in payload
    assert list(json.loads(payload)) == sorted(json.loads(payload))


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        replace(EVENT, score=float("nan")).payload()


def test_ids_differ_and_name_their_type() -> None:
    assert new_alert_id() != new_alert_id()
    assert event_id("9f", "off") == "9f-off"
