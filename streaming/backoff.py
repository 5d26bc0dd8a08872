"""How long to wait before a retry."""

from email.utils import parsedate_to_datetime

FIRST_S = 1.0
LONGEST_S = 60.0


def backoff_s(attempt: int, fraction: float, *, first_s: float = FIRST_S, longest_s: float = LONGEST_S) -> float:
    """Return the seconds before retry `attempt` (0, 1, ...): doubling up to `longest_s`, half fixed and half random.

    `fraction`: a random number from [0, 1), so that a hundred cameras behind one switch do not reconnect at once.
    attempt 0 -> 0.5 to 1 s, attempt 3 -> 4 to 8 s, attempt 10 -> 30 to 60 s.
    """
    full_s = min(longest_s, first_s * 2.0 ** min(attempt, 30))
    return full_s * (0.5 + 0.5 * fraction)


def retry_after_s(value: str, now: float) -> float:
    """Return the seconds that a Retry-After header (a number or a date) asks for; 0 if unreadable. now: unix seconds."""
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0
