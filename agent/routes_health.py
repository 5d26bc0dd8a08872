"""`/healthz`, `/readyz` and `/metrics`: for supervisors, load balancers and Prometheus.

The first two need no token and name no camera: alive means that the event loop answers; ready means that the models are
loaded, the encoder tells two pictures apart, and the disk can be written.
"""

import os
import shutil
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from agent import pools
from agent.agent import Agent
from agent.guard import Guard

MIN_FREE_BYTES = 64 << 20


class HealthRoutes:
    """The endpoints, over one agent."""

    def __init__(self, agent: Agent, guard: Guard, min_free_bytes: int = MIN_FREE_BYTES) -> None:
        self.agent = agent
        self.guard = guard
        self.min_free_bytes = min_free_bytes

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
        """200 when every check passes, else 503; the body says which does not, and why. Delivery does not count."""
        agent = self.agent
        checks = {
            "model": None,  # loaded before the server listens
            "encoder": agent.encoder_problem or agent.encoding.problem,
            "disk": await pools.web(self._disk_problem),
        }
        ready = not any(checks.values())
        delivery = agent.delivery.problems()  # what keeps messages waiting keeps nobody from asking
        told = {name: problem or "ok" for name, problem in {**checks, **delivery}.items()}
        body = {"ready": ready, "degraded": any(delivery.values()), "checks": told}
        return JSONResponse(body, status_code=200 if ready else 503)

    def _disk_problem(self) -> str | None:
        if self.agent.store.status().full:
            return "the disk is full: frames are being lost"
        return disk_problem(self.agent.settings.data_dir, self.min_free_bytes)

    async def metrics(self, request: Request) -> Response:
        self.guard.check(request, "ask")
        text = await pools.web(self.agent.metrics.text)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


def disk_problem(folder: Path, min_free_bytes: int) -> str | None:
    """None when `folder` can be written and has room; else what is wrong, in words."""
    probe = folder / ".ready"
    try:
        with probe.open("wb") as file:
            file.write(b"ready")
            file.flush()
            os.fsync(file.fileno())
        probe.unlink(missing_ok=True)  # another check may be under way
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"the data folder cannot be written: {error.strerror}"
    if free < min_free_bytes:
        return f"the disk is full: {free >> 20} MiB free, at least {min_free_bytes >> 20} MiB are needed"
    return None
