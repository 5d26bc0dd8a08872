"""What holds for every test: examples that hypothesis draws are judged by what they show, never by how long they took."""

import os
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.database import InMemoryExampleDatabase

# Where the checkout cannot be written, the examples that failed are not kept for the next run.
kept: dict[str, Any] = {} if os.access(Path(__file__).parent, os.W_OK) else {"database": InMemoryExampleDatabase()}
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow], **kept)
settings.load_profile("untimed")
