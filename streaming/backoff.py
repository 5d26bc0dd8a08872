"""How long to wait before a retry."""

FIRST_S = 1.0
LONGEST_S = 60.0


def backoff_s(attempt: int, fraction: float, *, first_s: float = FIRST_S, longest_s: float = LONGEST_S) -> float:
    """Return the seconds before retry `attempt` (0, 1, ...): doubling up to `longest_s`, half fixed and half random.

    `fraction`: a random number from [0, 1), so that a hundred cameras behind one switch do not reconnect at once.
    attempt 0 -> 0.5 to 1 s, attempt 3 -> 4 to 8 s, attempt 10 -> 30 to 60 s.
    """
    full_s = min(longest_s, first_s * 2.0 ** min(attempt, 30))
    return full_s * (0.5 + 0.5 * fraction)
