"""The server as an ASGI app: the door, the routes, the page, `/health` and `/metrics`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

import kv_cache_rl
from kv_cache_rl.adapters.http import (
    errors,
    routes_eviction,
    routes_hierarchy,
    routes_serving,
    routes_sessions,
    routes_training,
)
from kv_cache_rl.adapters.http.bodies import json_response
from kv_cache_rl.adapters.http.guard import Guard
from kv_cache_rl.adapters.http.lab import Lab
from kv_cache_rl.adapters.http.limits import Limits
from kv_cache_rl.adapters.http.metrics import CONTENT_TYPE
from kv_cache_rl.adapters.http.shapes import Health
from kv_cache_rl.reports.stylesheet import STYLE

WEB = Path(kv_cache_rl.__file__).parent / "web"
SWEEP_S = 15.0
ABOUT = (
    "The simulators of kv-cache-rl over HTTP: serving episodes, eviction scenarios, traces through memory "
    "tiers. Every error has one shape: {error: {status, message, field, range}}."
)


def create_app(
    limits: Limits = Limits(),  # noqa: B008
    runs: Path | None = None,
    hosts: tuple[str, ...] = (),
    closing: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """The server.

    Args:
        limits: what it gives away.
        runs: the folder whose run folders it shows.
        hosts: names beside those of loopback under which it may be asked.
        closing: whether it is about to end, so that streams end too.
    """
    lab = Lab(limits, runs, closing)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(sweeping(lab))
        yield
        sweeper.cancel()
        with suppress(asyncio.CancelledError):
            await sweeper
        lab.close()

    app = FastAPI(
        title="kv-cache-rl",
        version=kv_cache_rl.__version__,
        description=ABOUT,
        docs_url=None,  # it would load scripts from another host
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.lab = lab
    errors.install(app)
    app.add_middleware(Guard, limits=limits, hosts=hosts, answered=lab.metrics.answered)
    for routes in (
        routes_serving.router,
        routes_sessions.router,
        routes_training.router,
        routes_eviction.router,
        routes_hierarchy.router,
        routes_sessions.old_router,
    ):
        app.include_router(routes(lab))
    add_own(app, lab)
    return app


def add_own(app: FastAPI, lab: Lab) -> None:
    """What the server says of itself, and the page."""

    @app.get("/health", response_model=Health, responses=errors.responses(), tags=["server"])
    async def health() -> Response:
        """That it answers, and what it does now."""
        counts = {
            "sessions": len(lab.sessions),
            "simulations": lab.simulations.gate.running,
            "streams": lab.streams,
        }
        versions = {
            "version": kv_cache_rl.__version__,
            "environment_version": kv_cache_rl.ENVIRONMENT_VERSION,
        }
        return json_response({"status": "ok", **versions, **counts})

    @app.get(
        "/metrics",
        responses=errors.responses()
        | {200: {"description": "Prometheus text", "content": {"text/plain": {}}}},
        response_class=Response,
        tags=["server"],
    )
    async def metrics() -> Response:
        """Every server that is simulated now, as an engine of vLLM's and of the controller's metrics."""
        return Response(lab.metrics.text(), headers={"content-type": CONTENT_TYPE})

    @app.get("/web/report.css", include_in_schema=False)
    async def report_style() -> Response:
        return Response(STYLE, media_type="text/css")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(WEB / "index.html")

    app.mount("/web", StaticFiles(directory=WEB), name="web")


async def sweeping(lab: Lab) -> None:
    """Forgets what clients left alone, also while no one asks."""
    while True:
        await asyncio.sleep(SWEEP_S)
        lab.sessions.sweep()
        lab.uploads.sweep()
