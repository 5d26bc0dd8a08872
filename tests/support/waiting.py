"""Wait in a test for something that happens elsewhere."""

import asyncio
from collections.abc import Callable
from typing import Any


async def until(condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
    """Wait until `condition` is true. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)
