"""Capture times: the sender's clock within bounds, else arrival; always rising."""

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from streaming.clock import CaptureClock, ticks_between
from streaming.tap import unix_from_ntp

NOW = 1_700_000_000.0
SECOND = 90_000


def reporting(sender_time: float, ticks: int, arrival: float, **options: float) -> CaptureClock:
    """Return a clock whose sender has reported three times in agreement, at last with these values."""
    clock = CaptureClock(**options)
    assert not clock.report(sender_time - 2, (ticks - 2 * SECOND) % 2**32, arrival - 2)
    assert not clock.report(sender_time - 1, (ticks - SECOND) % 2**32, arrival - 1)
    assert clock.report(sender_time, ticks, arrival)
    return clock


def test_without_reports_the_capture_time_is_the_arrival_time() -> None:
    clock = CaptureClock()
    assert clock.capture_time(0, NOW) == (NOW, "arrival")
    assert clock.capture_time(3000, NOW + 0.05) == (NOW + 0.05, "arrival")
    assert clock.capture_time(None, NOW + 0.10) == (NOW + 0.10, "arrival")


def test_reports_map_ticks_to_the_senders_clock() -> None:
    clock = reporting(NOW - 0.2, 5000, NOW)
    assert clock.capture_time(5000 + SECOND, NOW + 1.3) == (NOW + 0.8, "sender")


def test_ticks_may_wrap() -> None:
    clock = reporting(NOW, 2**32 - SECOND, NOW)
    assert clock.capture_time(SECOND, NOW + 2.05) == (NOW + 2.0, "sender")
    assert ticks_between(5, 2**32 - 5) == 10
    assert ticks_between(2**32 - 5, 5) == -10


def test_a_report_far_from_our_clock_is_rejected() -> None:
    clock = CaptureClock(max_skew_s=2.0)
    assert not clock.report(NOW + 3600, 0, NOW)
    assert not clock.report(NOW - 2.5, 0, NOW)
    assert not clock.report(-2_208_988_800.0, 0, NOW)  # NTP zero: a sender without a clock
    assert clock.capture_time(SECOND, NOW + 1) == (NOW + 1, "arrival")


def test_a_bad_report_cancels_earlier_good_ones() -> None:
    clock = reporting(NOW, 0, NOW)
    clock.report(NOW + 50, SECOND, NOW + 1)
    assert clock.capture_time(SECOND, NOW + 1)[1] == "arrival"


def test_a_late_frame_keeps_its_capture_time_up_to_a_limit() -> None:
    clock = reporting(NOW, 0, NOW, max_delay_s=30.0)
    assert clock.capture_time(SECOND, NOW + 11) == (NOW + 1, "sender")  # ten seconds in a stalled network
    assert clock.capture_time(2 * SECOND, NOW + 40) == (NOW + 40, "arrival")
    assert clock.capture_time(60 * SECOND, NOW + 41) == (NOW + 41, "arrival")  # ticks that jumped ahead


def test_a_report_that_would_set_time_back_slows_it_down_instead() -> None:
    clock = CaptureClock()
    for second in (-1, 0):
        clock.report(NOW + second - 1.5, second * SECOND % 2**32, NOW + second)
    times = [clock.capture_time(i * 9000, NOW + i * 0.1)[0] for i in range(10)]
    clock.report(NOW + 1.0 - 1.5, 10 * 9000, NOW + 1.0)  # 1.5 s behind our arrival clock
    times += [clock.capture_time(i * 9000, NOW + i * 0.1)[0] for i in range(10, 60)]
    assert all(later > earlier for earlier, later in itertools.pairwise(times))
    assert times[-1] == NOW + 5.9 - 1.5  # caught up
    slowed = [later - earlier for earlier, later in itertools.pairwise(times[10:30])]
    assert all(0.049 < step < 0.051 for step in slowed)


def test_times_of_a_new_session_follow_the_last_frame() -> None:
    clock = CaptureClock()
    clock.continue_after(NOW + 1.0)
    first = clock.capture_time(0, NOW)[0]
    second = clock.capture_time(9000, NOW + 0.1)[0]
    assert NOW + 1.0 < first < second < NOW + 1.1
    assert clock.capture_time(3 * SECOND, NOW + 3.0)[0] == NOW + 3.0


def test_times_restart_when_our_clock_is_set_back() -> None:
    clock = CaptureClock()
    for i in range(3):
        clock.capture_time(None, NOW + 3600 + i)  # an hour ahead
    assert [clock.capture_time(None, NOW + i)[0] for i in range(3, 6)] == [NOW + 3, NOW + 4, NOW + 5]
    again = CaptureClock()
    again.continue_after(NOW + 3600)  # the camera's last frame, from an earlier session
    assert again.capture_time(None, NOW + 6)[0] == NOW + 6


def test_restart_forgets_the_reports_but_not_the_time() -> None:
    clock = reporting(NOW, 0, NOW)
    clock.capture_time(SECOND, NOW + 1.1)
    clock.restart(1000.0)
    assert clock.capture_time(0, NOW + 2) == (NOW + 2, "arrival")
    clock.report(NOW + 2, 0, NOW + 2)
    clock.report(NOW + 3, 1000, NOW + 3)
    clock.report(NOW + 4, 2000, NOW + 4)
    assert clock.capture_time(2000, NOW + 4.1) == (NOW + 4, "sender")


def test_reports_whose_ticks_run_at_another_rate_are_not_used() -> None:
    """GStreamer 1.22 reports RTP times that advance by two seconds each second."""
    clock = CaptureClock()
    for second in range(20):
        assert not clock.report(NOW + second, 2 * second * SECOND, NOW + second)
        assert clock.capture_time(second * SECOND, NOW + second) == (NOW + second, "arrival")


def test_a_senders_clock_that_is_read_late_at_times_is_filtered() -> None:
    """Two of five reports show a time up to a second off."""
    clock = CaptureClock()
    errors = []
    for second in range(50):
        late_s = (0.0, 0.0, 0.0, 0.6, -1.0)[second % 5]
        clock.report(NOW + second + late_s, second * SECOND, NOW + second)
        time, name = clock.capture_time(second * SECOND, NOW + second)
        errors += [abs(time - NOW - second)] if second >= 5 else []
        assert name == "sender" or second < 5
    assert max(errors) < 1e-6


def test_a_senders_clock_that_is_always_read_late_is_not_used() -> None:
    """werift's reports are up to a second late, each by another time."""
    chance = random.Random(7)
    clock = CaptureClock()
    for second in range(300):
        clock.report(NOW + second - chance.random(), second * SECOND, NOW + second)
        assert clock.capture_time(second * SECOND, NOW + second) == (NOW + second, "arrival")


def test_a_senders_clock_that_drifts_or_is_set_is_followed() -> None:
    clock = CaptureClock()
    set_s = 0.0
    for second in range(60):
        set_s = 1.0 if second >= 30 else 0.0
        ticks = round(second * SECOND * 1.005)  # half a percent fast
        clock.report(NOW + second + set_s, ticks, NOW + second)
        time, _ = clock.capture_time(ticks, NOW + second)
        assert abs(time - NOW - second) < 1.1
    assert abs(time - NOW - 59 - set_s) < 0.05


def test_reports_with_every_frame_are_compared_over_half_a_second() -> None:
    clock = CaptureClock()
    told = [clock.report(NOW + frame / 25, frame * SECOND // 25, NOW + frame / 25) for frame in range(50)]
    assert told.index(True) == 26


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.integers(0, 2**33)),
            st.floats(-5, 5),
            st.one_of(st.none(), st.tuples(st.floats(-10, 10), st.integers(0, 2**32 - 1))),
        ),
        max_size=60,
    )
)
def test_times_rise_strictly_while_our_clock_is_not_set_back(
    events: list[tuple[int | None, float, tuple[float, int] | None]],
) -> None:
    clock = CaptureClock(max_skew_s=2.0)
    arrival, last = NOW, 0.0
    for ticks, step_s, report in events:
        arrival += step_s  # our own clock may be set back as well
        if last > arrival + 5.0:
            last = 0.0
        if report is not None:
            clock.report(arrival + report[0], report[1], arrival)
        time, _ = clock.capture_time(ticks, arrival)
        assert time > last
        assert abs(time - arrival) <= 30.0 + 5.0
        last = time


def test_ntp_timestamps() -> None:
    assert unix_from_ntp(2_208_988_800 << 32) == 0.0
    assert unix_from_ntp((2_208_988_801 << 32) + (1 << 31)) == 1.5
