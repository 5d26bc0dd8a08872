"""What does not work now, in words for an operator: the one place that the store's parts report to. Thread-safe."""

import threading


class Health:
    """Problems by the part or file that has them; a part that works again takes its own back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._problems: dict[str, str] = {}

    def failed(self, part: str, problem: str) -> None:
        """`part` does not work, for this reason."""
        with self._lock:
            self._problems[part] = problem

    def works(self, part: str) -> None:
        """`part` works, or is no more."""
        if self._problems:  # nearly always there is none: no lock then
            with self._lock:
                self._problems.pop(part, None)

    @property
    def problem(self) -> str | None:
        """None while everything works. Two problems at most are written out, oldest first, and the others counted."""
        with self._lock:
            found = list(dict.fromkeys(self._problems.values()))
        if not found:
            return None
        more = f"; and {len(found) - 2} more" if len(found) > 2 else ""
        return "; ".join(found[:2]) + more
