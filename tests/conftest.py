"""What holds for every test: examples that hypothesis draws are judged by what they show, never by how long they took."""

import functools
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.database import InMemoryExampleDatabase

# Where the checkout cannot be written, the examples that failed are not kept for the next run.
kept: dict[str, Any] = {} if os.access(Path(__file__).parent, os.W_OK) else {"database": InMemoryExampleDatabase()}
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow], **kept)
settings.load_profile("untimed")

WAITS = re.compile(r"\b(until|sleep|wait|wait_for|expect|Popen|timeout)\(")


@functools.cache
def waits(path: Path) -> bool:
    """Whether a test module waits for other tasks, threads, processes or pages."""
    return WAITS.search(path.read_text(encoding="utf-8")) is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that must pass beside busy processes, too (`make test-loaded`)."""
    for item in items:
        if waits(item.path):
            item.add_marker(pytest.mark.waits)
