"""`/healthz`, `/readyz` and `/metrics`: health for supervisors and load balancers, and metrics for Prometheus.

The first two need no token. `/healthz` responds with 200 whenever the event loop runs. `/readyz` responds with 200 when
the models are loaded, the encoder works, and the disk can be written. Other failures do not make it 503; they only make
the agent's state `degraded` (`agent/state.py`).
"""

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from agent.app import Agent
from agent.runtime import pools
from agent.web.guard import Guard


class HealthRoutes:
    """Endpoints for health and metrics."""

    def __init__(self, agent: Agent, guard: Guard) -> None:
        self.guard, self.checks, self.readings = guard, agent.health, agent.metrics

    def routes(self) -> list[Route]:
        return [
            Route("/healthz", self.healthz),
            Route("/readyz", self.readyz),
            Route("/metrics", self.metrics),
        ]

    async def healthz(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """Respond with 200 while frames can be stored and questions asked, else with 503.

        The body lists each failure and its cause. It includes names of cameras and rules only for a token that allows
        `ask`.
        """
        health = await pools.web(self.checks.run)
        body = health.private() if self.guard.allows(request, "ask") else health.public()
        return JSONResponse(body, status_code=200 if health.ready else 503)

    async def metrics(self, request: Request) -> Response:
        self.guard.check(request, "ask")
        text = await pools.web(self.readings.text)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})
