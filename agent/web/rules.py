"""Alert rules over HTTP: list, create, change, delete and snooze them, or try one on the stored history (a dry run).

Reading rules and dry runs need the scope `ask`, everything else the scope `admin`. docs/alerts.md describes the JSON.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent.alerts.dryrun import Trial, describe
from agent.app import Agent
from agent.ask.request import Moment, parse_span
from agent.errors import BadRequest, StorageFailed
from agent.runtime import pools
from agent.settings.rules import RuleSettings
from agent.settings.types import check_slug
from agent.times import MAX_UNIX_S
from agent.untrusted.fields import wrong_field
from agent.untrusted.strict_json import parse_object, without_nulls
from agent.untrusted.wire import JsonResponse
from agent.web.body import read_body
from agent.web.guard import Guard, origin_of
from agent.web.streams import SSE_DONE, LongResponses, sse
from agent.web.url import check_names
from memory.errors import StorageError

MAX_BODY_BYTES = 64 << 10
PROGRESS_S = 0.5  # shortest time between two progress events that a dry run sends
MAX_SNOOZE_MINUTES = 366 * 24 * 60
# Fields of a rule's JSON that are not settings; they are ignored when a client sends them
_READ_ONLY = ("object", "source", "state", "snoozed_until", "problem", "warning")

Handler = Callable[[Request], Awaitable[Response]]
Model = TypeVar("Model", bound=BaseModel)


class Snooze(BaseModel):
    """The body of a request to snooze a rule, which silences it for a time.

    The time is either `minutes` from now or ends at `until` (unix seconds). Without `camera`, all cameras are meant.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    minutes: float | None = None
    until: float | None = Field(default=None, ge=0, le=MAX_UNIX_S)
    camera: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "Snooze":
        if (self.minutes is None) == (self.until is None):
            raise ValueError("send either minutes or until")
        if self.minutes is not None and not 0 <= self.minutes <= MAX_SNOOZE_MINUTES:
            raise ValueError(f"minutes is a number from 0 to {MAX_SNOOZE_MINUTES}")
        return self


class TryOut(BaseModel):
    """The body of a request for a dry run: a rule, as its settings or its name, and the history to try it on."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    rule: dict[str, Any] | str
    cameras: list[str] | None = None
    after: Moment | None = None
    before: Moment | None = None
    sweep: bool = False
    max_judgements: int = Field(default=500, ge=0, le=100_000)
    stream: bool = False


class RuleRoutes:
    """Endpoints for rules."""

    def __init__(self, agent: Agent, guard: Guard, responses: LongResponses) -> None:
        self.guard = guard
        self.responses = responses
        self.engine, self.cameras, self.clock = agent.alerts, agent.cameras, agent.clock

    def routes(self) -> list[Route]:
        return [
            Route("/v1/rules", self._by_method(GET=self.list, POST=self.create), methods=["GET", "POST"]),
            Route("/v1/rules/dry-run", self._by_method(write="ask", POST=self.try_out), methods=["POST"]),
            Route("/v1/rules/{name}/snooze", self._by_method(POST=self.snooze), methods=["POST"]),
            Route(
                "/v1/rules/{name}",
                self._by_method(GET=self.read, PUT=self.replace, PATCH=self.change, DELETE=self.remove),
                methods=["GET", "PUT", "PATCH", "DELETE"],
            ),
        ]

    def _by_method(self, write: str = "admin", **handlers: Handler) -> Handler:
        """Return one endpoint that calls the handler of the request's method.

        GET needs the scope `ask`, every other method the scope `write`.
        """

        async def handle(request: Request) -> Response:
            method = "GET" if request.method == "HEAD" else request.method
            self.guard.check(request, "ask" if method == "GET" else write)
            try:
                return await handlers[method](request)
            except StorageError as error:
                raise StorageFailed(f"This cannot be kept: {error}.") from error

        return handle

    async def list(self, request: Request) -> Response:
        check_names(request)
        rules = await pools.alerts(self.engine.watcher.rules)
        described = [await self.engine.describe(rule.name) for rule in rules]
        return JsonResponse({"object": "list", "data": described})

    async def read(self, request: Request) -> Response:
        return JsonResponse(await self.engine.describe(request.path_params["name"]))

    async def create(self, request: Request) -> Response:
        body = await read_json(request)
        name = body.pop("name", None)
        if not isinstance(name, str):
            raise BadRequest("A rule needs a name, beside its settings.", param="name")
        await self.engine.put(checked_name(name), settings_from(body), new=True)
        described = await self._described(name)
        return JsonResponse(described, status_code=201, headers={"Location": f"{self.guard.prefix}/v1/rules/{name}"})

    async def replace(self, request: Request) -> Response:
        name = checked_name(request.path_params["name"])
        await self.engine.put(name, settings_from(await read_json(request), name))
        return JsonResponse(await self._described(name))

    async def change(self, request: Request) -> Response:
        """Change only the settings in the body. Of rules in the configuration file, only `enabled` can be changed."""
        name, body = request.path_params["name"], await read_json(request)
        rule = await pools.alerts(self.engine.watcher.named, name)
        if set(body) == {"enabled"} and isinstance(body["enabled"], bool):
            await pools.alerts(self.engine.watcher.set_enabled, name, None, body["enabled"])
        else:
            settings = settings_from(merged(rule.settings.model_dump(mode="json"), body), name)
            await self.engine.put(name, settings, switched="enabled" not in body)
        return JsonResponse(await self._described(name))

    async def _described(self, name: str) -> dict[str, object]:
        """Return a rule that was made or changed, with a `warning` if its condition may not work."""
        described = await self.engine.describe(name)
        warning, _ = await self.engine.doubts(str(described["condition"]))
        return {**described, **({"warning": warning} if warning else {})}

    async def remove(self, request: Request) -> Response:
        await pools.alerts(self.engine.watcher.remove, request.path_params["name"])
        return Response(status_code=204)

    async def snooze(self, request: Request) -> Response:
        name, asked = request.path_params["name"], _valid(Snooze, await read_json(request))
        until = asked.until if asked.minutes is None else self.clock() + 60 * asked.minutes
        until = 0.0 if asked.minutes == 0 else until
        await pools.alerts(self.engine.watcher.snooze, name, asked.camera, until or 0.0)
        return JsonResponse(await self.engine.describe(name))

    async def try_out(self, request: Request) -> Response:
        asked = _valid(TryOut, await read_json(request))
        if isinstance(asked.rule, str):
            rule = (await pools.alerts(self.engine.watcher.named, asked.rule)).settings
        else:
            rule = settings_from(asked.rule, str(asked.rule.get("name", "")))
        named = tuple(dict.fromkeys(asked.cameras if asked.cameras is not None else rule.cameras))
        cameras = await pools.web(self.cameras.existing, named)
        zone = self.cameras.zone_of(cameras[0]) if cameras else "UTC"
        after, before = parse_span(asked.after, asked.before, zone)
        trial = Trial(rule, cameras, after, before, asked.sweep, asked.max_judgements)
        origin = origin_of(request)

        def link(frame_id: int) -> str:
            return self.guard.frame_link(frame_id, origin)

        if asked.stream:
            return self.responses.stream(self._trial_events(trial, link))
        outcome = await self.responses.result(
            request, lambda: self.engine.try_rule(trial, lambda done, num_asked: None)
        )
        return JsonResponse(await pools.alerts(describe, outcome, link))

    async def _trial_events(self, trial: Trial, link: Callable[[int], str]) -> AsyncGenerator[bytes, None]:
        """Yield the server-sent events of a dry run: its progress whenever that has changed, then its result."""
        progress = (0.0, 0)

        def report(done: float, num_asked: int) -> None:
            nonlocal progress
            progress = (done, num_asked)

        trying = asyncio.create_task(self.engine.try_rule(trial, report), name="try a rule")
        sent: tuple[float, int] | None = None
        try:
            while not (await asyncio.wait({trying}, timeout=PROGRESS_S))[0]:
                if progress != sent:
                    sent = progress
                    yield sse({"progress": {"done": round(progress[0], 4), "judge_calls_made": progress[1]}})
            yield sse({"result": await pools.alerts(describe, trying.result(), link)})
        finally:
            trying.cancel()
            await asyncio.gather(trying, return_exceptions=True)
        yield SSE_DONE


async def read_json(request: Request) -> dict[str, Any]:
    """Return the body as a JSON object, {} if the body is empty. Raises BadRequest or TooLarge."""
    return parse_object(await read_body(request, MAX_BODY_BYTES) or b"{}")


def checked_name(name: str) -> str:
    """Return `name` unchanged. Raises BadRequest if a rule cannot have this name."""
    try:
        return check_slug(name)
    except ValueError as error:
        raise BadRequest(f"{error}.", param="name") from None


def settings_from(body: Mapping[str, Any], name: str | None = None) -> RuleSettings:
    """Return the rule's settings from a request body. Raises BadRequest, which names the wrong field.

    The body may be the JSON of a rule as GET returned it; fields that are not settings are then ignored. name: the
    rule's name if the body must not contain another one.
    """
    body = without_nulls(body)
    if name is not None and body.get("name", name) != name:
        raise BadRequest("A rule cannot change its name: make a new one and remove the old.", param="name")
    ignored = (*_READ_ONLY, "name") if name is not None else _READ_ONLY
    return _valid(RuleSettings, {key: value for key, value in body.items() if key not in ignored})


def merged(settings: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return `settings` with `change` merged into it (RFC 7396). None removes a setting, so that its default applies.

    Worked example: merged({"gate": {"on": 5, "off": 2}, "clear": 3}, {"gate": {"on": 6}, "clear": None}) is
    {"gate": {"on": 6, "off": 2}}.
    """
    result = dict(settings)
    for key, value in change.items():
        old = settings.get(key)
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _valid(kind: type[Model], body: Mapping[str, Any]) -> Model:
    """Return `body` as a model of type `kind`. A null field counts as missing. Raises BadRequest for a wrong field."""
    try:
        return kind.model_validate(without_nulls(body))
    except ValidationError as error:
        raise wrong_field(error, kind.model_fields) from None
