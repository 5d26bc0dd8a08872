"""How long to wait before the next try. Pure: the random number comes in."""

FIRST_S = 1.0
LONGEST_S = 60.0


def backoff_s(attempt: int, fraction: float, *, first_s: float = FIRST_S, longest_s: float = LONGEST_S) -> float:
    """Seconds before try `attempt` (0, 1, ...): doubling up to `longest_s`, half of it fixed and half random.

    `fraction` is drawn from [0, 1), so that a hundred cameras behind one dead switch do not come back at once.
    attempt 0 -> 0.5 to 1 s, attempt 3 -> 4 to 8 s, attempt 10 -> 30 to 60 s.
    """
    full_s = min(longest_s, first_s * 2.0 ** min(attempt, 30))
    return full_s * (0.5 + 0.5 * fraction)
