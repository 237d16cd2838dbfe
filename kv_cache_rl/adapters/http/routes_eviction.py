"""The eviction environment: scenarios, episodes to look at, and run folders, also while they grow."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from kv_cache_rl.adapters.http import episodes, sse
from kv_cache_rl.adapters.http.bodies import Name, Route, json_response, text_response
from kv_cache_rl.adapters.http.errors import Problem, no_such, responses
from kv_cache_rl.adapters.http.lab import Lab
from kv_cache_rl.adapters.http.shapes import (
    Episode,
    OpenRun,
    PlayEpisode,
    Policies,
    RunEpisode,
    RunList,
    Scenarios,
)
from kv_cache_rl.core.errors import unknown
from kv_cache_rl.files import json_text
from kv_cache_rl.sim.eviction import (
    CANARIES,
    DECIDERS,
    DIFFICULTIES,
    FLOOR,
    ORACLE,
    SPLITS,
    TOOLS,
    VIEWS,
    load_scenarios,
)

LOOK_S = 0.5
"""How often a growing run is looked at."""
ALL = "all"


def router(lab: Lab) -> APIRouter:
    """The routes of the eviction environment."""
    api = APIRouter(prefix="/api/eviction", route_class=Route, tags=["eviction"])

    @api.get("/policies", response_model=Policies, responses=responses())
    async def policies() -> Response:
        """Every decider, the name of the best known log, and the tools that decide."""
        names = {
            "policies": list(DECIDERS),
            "oracle": ORACLE,
            "floor": list(FLOOR),
            "canaries": list(CANARIES),
        }
        return json_response({**names, "tools": TOOLS})

    @api.get("/scenarios", response_model=Scenarios, responses=responses(404, 422, 429))
    async def scenarios(
        difficulty: Annotated[Name, Query()] = ALL, split: Annotated[Name, Query()] = "eval"
    ) -> Response:
        """The committed scenarios of a tier and a split."""
        for field, value, known in (
            ("difficulty", difficulty, (*DIFFICULTIES, ALL)),
            ("split", split, SPLITS),
        ):
            if value not in known:
                raise no_such(field, value, known, field)
        found = await lab.steps(load_scenarios, difficulty=difficulty, split=split)
        listed = sorted((episodes.facts(one) for one in found), key=lambda one: one["id"])
        return json_response({"scenarios": listed})

    @api.post("/episodes", response_model=Episode, responses=responses(404, 408, 413, 422, 429))
    async def play(body: PlayEpisode) -> Response:
        """Plays a scenario under a policy, or plays an action log again, and tells everything."""
        if (body.policy is None) == (body.log is None):
            raise Problem(422, "send either a policy or a log", "policy")
        if body.view not in VIEWS:
            raise Problem(422, unknown("view", body.view, VIEWS), "view", ", ".join(VIEWS))

        def work() -> str:
            scenario = episodes.scenario_named(body.scenario)
            if body.policy is not None:
                answer = episodes.by_policy(body.policy, scenario)
            else:
                answer = episodes.by_log(body.log, scenario)
            found = episodes.told(scenario, answer, body.view, body.dialogue)
            if body.figures:
                found["figures"] = episodes.figures_of(scenario, found["log"])
            return json_text(found, indent=None)

        return text_response(await lab.simulations(work))

    @api.get("/runs", response_model=RunList, responses=responses(429, 503))
    async def runs() -> Response:
        """The run folders, newest first, with how far they are."""
        found = await lab.steps(lambda: [lab.runs.listed(name) for name in lab.runs.names()])
        return json_response({"runs": found})

    @api.get("/runs/{run}", response_model=OpenRun, responses=responses(404, 422, 429))
    async def open_run(run: str) -> Response:
        """A run with a row for each rollout so far, and its tables once it has ended."""
        return json_response(await lab.steps(lab.runs.opened, run))

    @api.get("/runs/{run}/episode", response_model=RunEpisode, responses=responses(404, 422, 429))
    async def run_episode(
        run: str, model: Annotated[Name, Query()], scenario: Annotated[Name, Query()]
    ) -> Response:
        """A rollout of a run: its memory, calls and events, and the dialogue as it was said."""

        def work() -> str:
            return json_text(lab.runs.episode(run, model, scenario), indent=None)

        return text_response(await lab.simulations(work))

    @api.get(
        "/runs/{run}/events",
        responses=responses(404, 422, 429)
        | {200: {"description": "Events: row, done, error", "content": {"text/event-stream": {}}}},
    )
    async def follow(request: Request, run: str) -> Response:
        """The rollouts of a run as they end. An event's id is a position: what follows it comes after a
        `Last-Event-ID` of it.
        """
        await lab.steps(lab.runs.config, run)
        last = sse.last_event(request)
        lab.enter_stream()
        return sse.Stream(followed(lab, run, max(last, 0)), lab.leave_stream)

    return api


async def followed(lab: Lab, run: str, start: int) -> AsyncGenerator[str]:
    """A row for each rollout after a position, as it ends; done when the run has its summary."""
    position, loop = start, asyncio.get_running_loop()
    said = loop.time()
    try:
        while not lab.closing():
            ended = await lab.steps(lab.runs.summary, run)
            new: list[tuple[int, dict[str, Any]]] = await lab.steps(lab.runs.new_rows, run, position)
            for position, row in new:
                yield sse.event("row", row, position)
                said = loop.time()
            if ended is not None and not new:
                yield sse.event("done", {"summary": ended}, position)
                return
            if loop.time() - said > sse.BEAT_S:
                yield sse.BEAT
                said = loop.time()
            if not new:
                await asyncio.sleep(LOOK_S)
    except Problem as problem:
        yield sse.event("error", {"status": problem.status_code, "message": str(problem)})
