"""Check regularly that the remote server that answers questions can be reached, and find out once what it can do.

A check requests the server's list of models; it sends no picture and no question. Status 404 counts as reachable. What
the server can do is found out by `agent.ask.capabilities`, with pictures of the agent's own.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx

from agent.ask.capabilities import Capabilities, Prober, listed_in, remember, remembered
from agent.ask.egress import Egress, EgressRefused, HostUnknown
from agent.ask.remote_client import ChatClient
from agent.ask.remote_wire import body_of, parse
from agent.errors import AnswererAway, Problem
from agent.runtime import pools
from agent.runtime.supervisor import contained, words_of
from agent.settings.settings import AnswererSettings

EVERY_S, WHILE_AWAY_S = 15.0, 5.0
UNFIT_S = 60.0  # between two looks at what a server can do that cannot answer
TIMEOUT_S = 5.0
MAX_LIST_BYTES = 1 << 20
_REFUSALS = {401: "it refuses the key (see answerer.api_key)", 403: "it refuses the key (see answerer.api_key)"}


class Probe:
    """Checks one server. found: what it can do; None: not known yet."""

    def __init__(
        self, client: ChatClient, settings: AnswererSettings, *, egress: Egress, file: Path, now: Callable[[], float]
    ) -> None:
        """egress: where the requests may go. file: keeps what was found out. now: returns unix seconds. Blocks."""
        self.found: Capabilities | None = None
        self._client, self._settings, self._egress, self._file, self._now = client, settings, egress, file, now
        self._url = f"{settings.base_url}/models"
        self._away: str | None = None
        self._listed: bool | None = None
        self._asked_at = 0.0  # of the event loop
        if settings.probe:
            known = remembered(file, settings=settings, now=now())
            if known is not None:
                self._know(known)

    @property
    def problem(self) -> str | None:
        """Why the server cannot answer; None: no problem is known."""
        unfit = self.found.problem if self.found is not None else ""
        return self._away or (f"the server that answers cannot be used: {unfit}" if unfit else None)

    async def run(self) -> None:
        """Check for ever, and find out what the server can do when it is first reached."""
        while True:
            self._away = await self.look()
            if self._away is None and self._settings.probe and self._is_due():
                with contained("asking the server what it can do", AnswererAway):
                    await self.find_out()
            await asyncio.sleep(EVERY_S if self._away is None else WHILE_AWAY_S)

    def _is_due(self) -> bool:
        if self.found is None:
            return True
        return bool(self.found.problem) and asyncio.get_running_loop().time() - self._asked_at >= UNFIT_S

    async def find_out(self) -> None:
        """Ask the server what it can do, and keep it. Raises AnswererAway."""
        self._asked_at = asyncio.get_running_loop().time()
        prober = Prober(self._client, self._settings, self._egress, now=self._now)
        found = await prober.find_out(self._listed)
        self._know(found)
        if not found.problem:
            await pools.questions(remember, self._file, found)

    def _know(self, found: Capabilities) -> None:
        self.found = found
        found.teach(self._client.traits)

    async def look(self) -> str | None:
        """Check once. Return why the server cannot answer, or None if it can be reached."""
        problem: str | None = None
        with contained("looking for the server that answers") as outcome:
            problem = await self._look()
        return problem if outcome.error is None else f"the server that answers fails: {words_of(outcome.error)}"

    async def _look(self) -> str | None:
        try:
            headers = await pools.questions(self._client.headers)
            async with (
                self._client.guarded(self._egress) as client,
                client.stream("GET", self._url, headers=headers, timeout=TIMEOUT_S) as response,
            ):
                status = response.status_code
                self._listed = await self._lists_model(response)
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

    async def _lists_model(self, response: httpx.Response) -> bool | None:
        """Return whether the server's list has the configured model; None if there is no list that can be read."""
        try:
            told = parse(await body_of(response, MAX_LIST_BYTES))
            listed = [each["id"] for each in told["data"]]
        except (ValueError, RecursionError, TypeError, KeyError):
            return None
        return listed_in(listed, self._client.model) if response.is_success else None
