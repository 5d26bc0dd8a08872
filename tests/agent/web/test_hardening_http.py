"""A thousand odd requests; `make hardening` sends 200,000."""

from tests.hardening.http import complaint, fuzz
from tests.support.in_process import Reply


def test_odd_requests_get_an_error_with_a_message() -> None:
    counts = fuzz(1000, seed=1)
    assert counts["failures"] == []
    assert counts["status_200"] > 20
    assert counts["status_400"] > 100
    assert counts["socket_400"] > 5


def test_fuzzer_reports_bad_answers() -> None:
    assert complaint(Reply(200, {})) is None
    assert "status 500" in str(complaint(Reply(500, {})))
    assert "two lines" in str(complaint(Reply(200, {"x": "a\r\nb"})))
    assert "elsewhere" in str(complaint(Reply(307, {"location": "http://evil.example/"})))
    assert "without words" in str(complaint(Reply(404, {"content-type": "text/plain"}, b"Not Found")))
