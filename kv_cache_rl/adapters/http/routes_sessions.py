"""Sessions: a world of one's own, step by step; and the old calls, which share one session."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from kv_cache_rl.adapters.http import episodes
from kv_cache_rl.adapters.http.bodies import Name, Route, json_response
from kv_cache_rl.adapters.http.errors import Problem, links, responses
from kv_cache_rl.adapters.http.lab import Lab
from kv_cache_rl.adapters.http.sessions import Session
from kv_cache_rl.adapters.http.settings import renamed, scenario_and_seed
from kv_cache_rl.adapters.http.shapes import (
    Advice,
    OldReset,
    OldStep,
    OpenSession,
    ResetSession,
    SessionState,
    StepSession,
)
from kv_cache_rl.adapters.http.worlds import EvictionWorld, ServingWorld
from kv_cache_rl.core.errors import unknown
from kv_cache_rl.sim.eviction.spec import VIEWS

OLD = "old"
"""The session that the old calls share. Its id is no secret: the calls of sessions reach it, too."""
DEPRECATED = {"deprecation": "@1795910400", "link": '</api/sessions>; rel="successor-version"'}
"""What every answer of an old call says (RFC 9745): deprecated since then, and what to use."""
OF_SERVING, OF_EVICTION = ("task", "seed", "ticks", "settings"), ("scenario", "view")
WRONG = responses(404, 408, 409, 413, 422, 429)


def refuse(body: Any, fields: tuple[str, ...], world: str) -> None:
    """Raises Problem for a field that another world has."""
    for field in fields:
        if field in body.model_fields_set and getattr(body, field) is not None:
            raise Problem(422, f"{field} is not for the {world} world; leave it out", field)


def merged(body: Any, before: dict[str, Any]) -> dict[str, Any]:
    """What a serving session is asked for: as before, but for what the body says."""
    found = {**before, **{k: v for k in OF_SERVING if (v := getattr(body, k)) is not None}}
    given = renamed(found.get("settings") or {})
    for field in ("seed", "ticks"):  # said anew beside settings that hold it from before
        if getattr(body, field) is not None and "settings" not in body.model_fields_set:
            given.pop(field, None)
        elif field in given and getattr(body, field) is None:
            found[field] = None
    return {**found, "settings": given}


def serving_world(lab: Lab, asked: dict[str, Any]) -> ServingWorld:
    """A new server."""
    given = (asked.get("settings") or {}, lab.limits, asked.get("seed"), asked.get("ticks"))
    return ServingWorld(*scenario_and_seed(asked.get("task") or "medium", *given), asked)


def eviction_world(
    scenario: str | None, view: str | None, world: EvictionWorld | None = None
) -> EvictionWorld:
    """A new episode, or the old world with a new one."""
    view = view or (world.view if world else "full")
    if view not in VIEWS:
        raise Problem(422, unknown("view", view, VIEWS), "view", ", ".join(VIEWS))
    if scenario is None and world is None:
        raise Problem(422, "scenario is missing; GET /api/eviction/scenarios lists the ids", "scenario")
    found = episodes.scenario_named(scenario) if scenario else world.scenario  # pyrefly: ignore[missing-attribute]
    if world is None:
        return EvictionWorld(found, view)
    world.reset(found, view)
    return world


def stepped(world: ServingWorld | EvictionWorld, body: StepSession) -> dict[str, Any]:
    """One step of either world. Raises Problem for a body that is for the other one, or for none."""
    if isinstance(world, EvictionWorld):
        refuse(body, ("action", "agent", "ticks"), "eviction")
        if body.calls is None:
            raise Problem(422, "calls is missing; send the tool calls of one window, perhaps none", "calls")
        return world.step([(call.name, call.arguments) for call in body.calls])
    refuse(body, ("calls",), "serving")
    if (body.action is None) == (body.agent is None):
        raise Problem(422, "send either an action, or an agent with the ticks that it decides", "action")
    if body.agent is not None:
        return world.play(body.agent, body.ticks or 1)
    refuse(body, ("ticks",), "serving world's single action")
    return world.step(int(body.action or 0))


def router(lab: Lab) -> APIRouter:
    """The routes of sessions."""
    api = APIRouter(prefix="/api/sessions", route_class=Route, tags=["sessions"])

    def answer(one: Session, found: dict[str, Any], status: int = 200) -> Response:
        left = one.used + lab.limits.idle_s - lab.clock()
        headers = {"location": f"/api/sessions/{one.id}"} if status == 201 else None
        return json_response({"session": one.id, "expires_in_s": left, **found}, status, headers)

    follow = ("step_session", "session_state", "reset_session", "session_advice", "delete_session")

    @api.post(
        "",
        status_code=201,
        response_model=SessionState,
        responses=WRONG | {201: {"links": links("session", *follow)}},
    )
    async def open_session(body: OpenSession) -> Response:
        """Opens a session; it is gone when it is deleted, or was left alone for too long."""
        lab.sessions.room()
        if body.world == "eviction":
            refuse(body, OF_SERVING, "eviction")
            world: Any = await lab.steps(eviction_world, body.scenario, body.view)
        else:
            refuse(body, OF_EVICTION, "serving")
            world = await lab.steps(serving_world, lab, merged(body, {}))
        one = lab.sessions.add(world)
        return answer(one, await lab.steps(world.state), 201)

    @api.post("/{id}/reset", response_model=SessionState, responses=WRONG)
    async def reset_session(id: str, body: ResetSession) -> Response:
        """Begins anew; what the body does not say stays as it was."""
        async with lab.sessions.using(id) as one:
            if isinstance(one.world, EvictionWorld):
                refuse(body, OF_SERVING, "eviction")
                await lab.steps(eviction_world, body.scenario, body.view, one.world)
            else:
                refuse(body, OF_EVICTION, "serving")
                fresh = await lab.steps(serving_world, lab, merged(body, one.world.asked))
                lab.sessions.room_for(one, fresh.nbytes)
                one.world = fresh
            return answer(one, await lab.steps(one.world.state))

    @api.post("/{id}/step", response_model=SessionState, responses=WRONG)
    async def step_session(id: str, body: StepSession) -> Response:
        """One action or an agent's ticks (serving), or the tool calls of one window (eviction)."""
        async with lab.sessions.using(id) as one:
            return answer(one, await lab.steps(stepped, one.world, body))

    @api.get("/{id}/state", response_model=SessionState, responses=WRONG)
    async def session_state(id: str) -> Response:
        """Everything that the client may know now."""
        async with lab.sessions.using(id) as one:
            return answer(one, await lab.steps(one.world.state))

    @api.get("/{id}/advice", response_model=Advice, responses=WRONG)
    async def session_advice(id: str, policy: Annotated[Name, Query()] = "learned") -> Response:
        """What a decider would do now (eviction); `oracle`: what the best known log does in this window."""
        async with lab.sessions.using(id) as one:
            if not isinstance(one.world, EvictionWorld):
                raise Problem(422, "advice is for sessions of the eviction world", "id")
            return json_response(await lab.steps(episodes.advice, one.world.episode, policy))

    @api.delete("/{id}", status_code=204, responses=responses(404, 409, 422))
    async def delete_session(id: str) -> Response:
        """Ends a session."""
        lab.sessions.remove(id)
        return Response(status_code=204)

    return api


def old_router(lab: Lab) -> APIRouter:
    """The calls of NeuralPagedAttention's server, over one session that all share."""
    api = APIRouter(route_class=Route, tags=["old calls"], deprecated=True)

    @api.post("/reset", response_model=SessionState, responses=WRONG)
    async def old_reset(body: OldReset | None = None) -> Response:
        """Begins anew. Use POST /api/sessions."""
        world = await lab.steps(serving_world, lab, merged(body or OldReset(), {}))
        if lab.sessions.has(OLD):
            async with lab.sessions.using(OLD) as one:
                lab.sessions.room_for(one, world.nbytes)
                one.world = world
                return old(one, await lab.steps(world.state))
        one = lab.sessions.add(world, OLD)
        return old(one, await lab.steps(world.state))

    @api.post("/step", response_model=SessionState, responses=WRONG)
    async def old_step(body: OldStep) -> Response:
        """Takes one action. Use POST /api/sessions/{id}/step."""
        async with lab.sessions.using(OLD) as one:
            return old(one, await lab.steps(one.world.step, body.action))

    @api.get("/state", response_model=SessionState, responses=WRONG)
    async def old_state() -> Response:
        """Where the shared session stands. Use GET /api/sessions/{id}/state."""
        async with lab.sessions.using(OLD) as one:
            return old(one, await lab.steps(one.world.state))

    def old(one: Session, found: dict[str, Any]) -> Response:
        left = one.used + lab.limits.idle_s - lab.clock()
        return json_response({"session": OLD, "expires_in_s": left, **found}, headers=DEPRECATED)

    return api
