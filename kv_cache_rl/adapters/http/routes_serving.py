"""The serving world: agents, settings, one episode or several, and the same as a stream."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from kv_cache_rl.adapters.http import serving, sse
from kv_cache_rl.adapters.http.bodies import Name, Route, Whole, json_response, text_response
from kv_cache_rl.adapters.http.errors import Problem, no_such, responses
from kv_cache_rl.adapters.http.lab import Lab
from kv_cache_rl.adapters.http.metrics import numbers_of
from kv_cache_rl.adapters.http.serving import Run
from kv_cache_rl.adapters.http.settings import MOST_SEED, defaults, expected, scenario_and_seed, settings_of
from kv_cache_rl.adapters.http.shapes import (
    LIMITS,
    Agents,
    AllSettings,
    Checked,
    CheckSettings,
    EpisodeOf,
    Simulate,
    SimulateBatch,
    Simulation,
    SimulationBatch,
)
from kv_cache_rl.adapters.playing import PLANNER, known_agents
from kv_cache_rl.agents import AGENTS, CANARIES
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.files import NotJson, json_text, json_value
from kv_cache_rl.sim.serving.spec import TASKS, Scenario

FIRST_BATCH = 20
"""Ticks of a stream's first event, so that a page has something to draw at once."""


def known_agent(name: str, field: str = "agent") -> str:
    """The name itself. Raises Problem (404) where no agent has it; a module of this machine is none."""
    if name not in known_agents():
        raise no_such("agent", name, known_agents(), field)
    return name


def asked(body: EpisodeOf, lab: Lab) -> tuple[Scenario, int]:
    """The episode that a body describes."""
    return scenario_and_seed(body.task, body.settings, lab.limits, body.seed, body.ticks)


async def plan_of(agent: str, scenario: Scenario, seed: int, lab: Lab) -> tuple[str, ...] | None:
    """The oracle's plan, where the oracle plays."""
    return await lab.plan(scenario, seed) if agent == PLANNER else None


def router(lab: Lab) -> APIRouter:
    """The routes of the serving world."""
    api = APIRouter(prefix="/api", route_class=Route, tags=["serving"])

    @api.get("/agents", response_model=Agents, responses=responses())
    async def agents() -> Response:
        """Every agent, and the names behind the numbers of observations, actions and logs."""
        listed = [
            {"name": name, "canary": name in CANARIES, "sessions": name in AGENTS} for name in known_agents()
        ]
        return json_response({"agents": listed, "tasks": list(TASKS), **serving.facts()})

    @api.get("/settings", response_model=AllSettings, responses=responses())
    async def all_settings() -> Response:
        """The settings of each task, what they may be, and the limits of this server."""
        return json_response(defaults(lab.limits))

    @api.post("/settings", response_model=Checked, responses=responses(404, 408, 413, 422, 429))
    async def check_settings(body: CheckSettings) -> Response:
        """Checks settings and completes them. A session or a simulation takes its own copy."""
        scenario, seed = await lab.steps(asked, body, lab)
        found = {"status": "valid", "task": body.task, "seed": seed, "settings": settings_of(scenario)}
        return json_response(found | {"expected_requests": expected(scenario, lab.limits)})

    async def played(agent: str, body: Simulate | SimulateBatch, among: int = 1) -> str:
        lab.answerable()
        limits = replace(lab.limits, rows=lab.limits.rows // among) if body.tick_logs else lab.limits
        scenario, seed = await lab.steps(asked, body, lab)
        plan = await plan_of(agent, scenario, seed, lab)

        def work() -> str:
            found = serving.simulated(agent, scenario, seed, limits, plan, body.tick_logs)
            return json_text(found, indent=None)

        return await lab.simulations(work)

    @api.post("/simulate", response_model=Simulation, responses=responses(404, 408, 413, 422, 429, 503))
    async def simulate(body: Simulate) -> Response:
        """Plays one episode under one agent."""
        return text_response(await played(known_agent(body.agent), body), held=lab.held)

    @api.post(
        "/simulate/batch", response_model=SimulationBatch, responses=responses(404, 408, 413, 422, 429, 503)
    )
    async def simulate_batch(body: SimulateBatch) -> Response:
        """Plays the same episode under several agents."""
        names = unique([known_agent(name, f"agents.{k}") for k, name in enumerate(body.agents)])
        # One after the other: a batch takes one place, however long it is.
        results = [await played(name, body, len(names)) for name in names]
        text = ", ".join(results)
        head = f'{{"status": "success", "task": {json_text(body.task)}, "results": ['
        return text_response(f"{head}{text}]}}", held=lab.held)

    @api.get(
        "/simulate/stream",
        responses=responses(404, 422, 429, 503)
        | {
            200: {
                "description": "Events: start, ticks, end, done, error",
                "content": {"text/event-stream": {}},
            }
        },
    )
    async def simulate_stream(
        request: Request,
        agent: Annotated[list[Name], Query(min_length=1, max_length=LIMITS.agents)],
        task: Annotated[Name, Query()] = "medium",
        seed: Annotated[Annotated[int, Whole(0, MOST_SEED, text=True)] | None, Query()] = None,
        ticks: Annotated[Annotated[int, Whole(1, LIMITS.ticks, text=True)] | None, Query()] = None,
        settings: Annotated[
            str, Query(max_length=4_000, description="A JSON object, as in POST /api/settings")
        ] = "{}",
        batch: Annotated[int, Whole(1, 5_000, text=True), Query(description="Ticks of an event")] = 200,
        pace_ms: Annotated[int, Whole(0, 10_000, text=True), Query(description="Least time of a round")] = 0,
    ) -> Response:
        """Plays several agents side by side and tells their ticks as they pass.

        An episode is the same every time, so a client that comes back with `Last-Event-ID` gets what follows.
        """
        last = sse.last_event(request)
        body = EpisodeOf(task=task, seed=seed, ticks=ticks, settings=settings_in(settings))
        scenario, drawn = await lab.steps(asked, body, lab)
        names = unique([known_agent(name) for name in agent])
        lab.enter_stream()
        try:
            runs = [
                await lab.simulations(
                    Run, name, scenario, drawn, lab.limits, await plan_of(name, scenario, drawn, lab)
                )
                for name in names
            ]
        except BaseException:
            lab.leave_stream()
            raise
        return sse.Stream(told(lab, runs, drawn, batch, pace_ms / 1e3, last), lab.leave_stream)

    return api


def unique(names: list[str]) -> list[str]:
    """Each name once, in order."""
    return list(dict.fromkeys(names))


def settings_in(text: str) -> dict[str, Any]:
    """The settings of a query. Raises Problem where they are no JSON object."""
    try:
        found = json_value(text)
    except NotJson as wrong:
        raise Problem(422, f"settings cannot be read: {wrong}; give a JSON object", "settings") from None
    if not isinstance(found, dict):
        raise Problem(422, f"settings is {text!r:.60}; give a JSON object", "settings", "a JSON object")
    return found


async def told(
    lab: Lab, runs: list[Run], seed: int, batch: int, pace_s: float, last: int
) -> AsyncGenerator[str]:
    """The events of episodes side by side, those after number `last`.

    start; then in turns, for each agent that still plays, ticks, and end after its last ones; then done.
    """
    number, loop = -1, asyncio.get_running_loop()
    engines = {run.agent: lab.engines.enter() for run in runs}

    def next_event(kind: str, data: dict[str, Any]) -> str:
        nonlocal number
        number += 1
        return sse.event(kind, data, number) if number > last else ""

    try:
        scenario = runs[0].state.scenario
        start = {"agents": [run.agent for run in runs], "task": scenario.task, "seed": seed}
        yield next_event(
            "start", {**start, "traffic": runs[0].state.load.facts(), "settings": settings_of(scenario)}
        )
        going, size = list(runs), min(FIRST_BATCH, batch)
        due = loop.time()
        while going:
            for run in list(going):
                if lab.closing():
                    yield sse.event("error", {"message": "the server ends; come back with Last-Event-ID"})
                    return
                columns = await lab.simulations(run.advance, size)
                lab.engines.show(engines[run.agent], numbers_of(run.state))
                text = next_event("ticks", {"agent": run.agent, "columns": columns})
                if text:
                    yield text
                if run.done:
                    going.remove(run)
                    text = next_event("end", await lab.simulations(run.result))
                    if text:
                        yield text
            size = batch
            # A round that was late is made up for: the whole takes its paced time on a busy machine, too.
            due = due + pace_s if number > last else loop.time()
            await asyncio.sleep(max(due - loop.time(), 0))
        yield next_event("done", {}) or sse.event("done", {})
    except Refused as wrong:
        problem = wrong if isinstance(wrong, Problem) else Problem(422, str(wrong))
        yield sse.event("error", {"status": problem.status_code, "message": str(problem)})
    finally:
        for engine in engines.values():
            lab.engines.leave(engine)
