"""Each fuzzer with few inputs; `make hardening` runs them with up to 200,000."""

from pathlib import Path

from tests.hardening import channel, http, media, mqtt, sdp
from tests.hardening.__main__ import KILLS
from tests.support.in_process import Reply
from tests.support.processes import ROOT


def test_mutated_offers_are_refused_or_answered() -> None:
    counts = sdp.fuzz(150, seed=7)
    assert counts["failures"] == []
    assert counts["POST 201"] > 20
    assert counts["POST 400"] > 20


def test_mutated_channel_messages_are_answered() -> None:
    counts = channel.fuzz(150, seed=7)
    assert counts["failures"] == []
    assert counts["invalid_request"] > 20


def test_odd_mqtt_messages_and_packets_do_not_stop_the_bridge() -> None:
    counts = mqtt.fuzz(200, seed=1)
    assert counts["failures"] == []
    assert counts["messages"] + counts["packets"] == 200


def test_odd_requests_get_an_error_with_a_message() -> None:
    counts = http.fuzz(1000, seed=1)
    assert counts["failures"] == []
    assert counts["status_200"] > 20
    assert counts["status_400"] > 100
    assert counts["socket_400"] > 5


def test_http_fuzzer_reports_bad_answers() -> None:
    assert http.complaint(Reply(200, {})) is None
    assert "status 500" in str(http.complaint(Reply(500, {})))
    assert "two lines" in str(http.complaint(Reply(200, {"x": "a\r\nb"})))
    assert "elsewhere" in str(http.complaint(Reply(307, {"location": "http://evil.example/"})))
    assert "without words" in str(http.complaint(Reply(404, {"content-type": "text/plain"}, b"Not Found")))


def test_mutated_files_give_frames_or_an_error_message() -> None:
    counts = media.fuzz(400, seed=1)
    assert counts["failures"] == []
    assert sum(counts["outcomes"].values()) == 400
    assert counts["outcomes"]["frames"] > 50
    assert counts["outcomes"]["MediaUnreadable"] > 50


def test_seed_files_of_the_media_fuzzer_are_readable(tmp_path: Path) -> None:
    (tmp_path / "seeds").mkdir()
    seeds = media.make_seeds(tmp_path / "seeds")
    assert len(seeds) >= 20
    assert {media.read(path) for path in (tmp_path / "seeds").iterdir()} == {"frames"}
    assert media.mutated(seeds, 1, 5) == media.mutated(seeds, 1, 5) != media.mutated(seeds, 2, 5)


def test_modules_of_the_kills_exist() -> None:
    assert [path for path in KILLS if not (ROOT / path).is_file()] == []
