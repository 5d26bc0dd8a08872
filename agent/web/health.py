"""`/healthz`, `/readyz` and `/metrics`: for supervisors, load balancers and Prometheus.

The first two need no token: alive means that the event loop answers; ready means that the models are loaded, the encoder
tells two pictures apart, and the disk can be written. What else does not work makes the agent `degraded` (`agent/state.py`).
"""

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from agent.app import Agent
from agent.runtime import pools
from agent.web.guard import Guard


class HealthRoutes:
    """The endpoints, over one agent."""

    def __init__(self, agent: Agent, guard: Guard) -> None:
        self.agent = agent
        self.guard = guard

    def routes(self) -> list[Route]:
        """Every route of this file."""
        return [
            Route("/healthz", self.healthz),
            Route("/readyz", self.readyz),
            Route("/metrics", self.metrics),
        ]

    async def healthz(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """200 while frames can be kept and questions asked, else 503; the body says what does not work, and why.

        Whoever may ask questions is also told which cameras and rules are meant.
        """
        health = await pools.web(self.agent.health.run)
        body = health.private() if self.guard.allows(request, "ask") else health.public()
        return JSONResponse(body, status_code=200 if health.ready else 503)

    async def metrics(self, request: Request) -> Response:
        self.guard.check(request, "ask")
        text = await pools.web(self.agent.metrics.text)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})
