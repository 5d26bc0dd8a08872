"""Check regularly that the remote server that answers questions can be reached.

A check requests the server's list of models; it sends no picture and no question. Status 404 counts as reachable.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping

import httpx

from agent.ask.egress import Egress, EgressRefused, HostUnknown, Resolver, guarded_client
from agent.errors import Problem
from agent.runtime import pools
from agent.runtime.supervisor import contained, words_of

EVERY_S, WHILE_AWAY_S = 15.0, 5.0
TIMEOUT_S = 5.0
_REFUSALS = {401: "it refuses the key (see answerer.api_key)", 403: "it refuses the key (see answerer.api_key)"}


class Probe:
    """Checks one server. problem: why it could not answer at the last check; None: no problem is known."""

    def __init__(
        self, base_url: str, *, headers: Callable[[], Mapping[str, str]], egress: Egress, resolve: Resolver
    ) -> None:
        """headers: returns the headers of a request. It may block, and raises Problem if the API key is missing."""
        self.problem: str | None = None
        self._url = f"{base_url}/models"
        self._headers, self._egress, self._resolve = headers, egress, resolve
        self._verify = ssl.create_default_context()

    async def run(self) -> None:
        """Check for ever, and store each result in `problem`."""
        while True:
            self.problem = await self.look()
            await asyncio.sleep(EVERY_S if self.problem is None else WHILE_AWAY_S)

    async def look(self) -> str | None:
        """Check once. Return why the server cannot answer, or None if it can be reached."""
        problem: str | None = None
        with contained("looking for the server that answers") as outcome:
            problem = await self._look()
        return problem if outcome.error is None else f"the server that answers fails: {words_of(outcome.error)}"

    async def _look(self) -> str | None:
        timeout = httpx.Timeout(TIMEOUT_S)
        try:
            headers = await pools.questions(self._headers)
            async with (
                guarded_client(self._egress, resolve=self._resolve, verify=self._verify, timeout=timeout) as client,
                client.stream("GET", self._url, headers=headers) as response,
            ):
                status = response.status_code
        except Problem as error:
            return error.message
        except EgressRefused as error:
            return f"the server that answers may not be asked: {error}"
        except (HostUnknown, httpx.HTTPError, OSError) as error:
            return f"the server that answers cannot be reached: {str(error) or type(error).__name__}"
        if status in _REFUSALS:
            return f"the server that answers is there, but {_REFUSALS[status]}"
        if status >= 500:
            return f"the server that answers says {status}: it may be loading its model"
        return None
