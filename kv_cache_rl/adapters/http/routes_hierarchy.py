"""The hierarchy lab: curves and replays of workloads and of traces that clients send."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from kv_cache_rl.adapters.http.bodies import Name, Route, json_response
from kv_cache_rl.adapters.http.errors import Problem, links, no_such, of_refused, responses
from kv_cache_rl.adapters.http.lab import Lab
from kv_cache_rl.adapters.http.shapes import (
    Curves,
    CurvesOf,
    Hierarchy,
    Replays,
    ReplaysOf,
    TraceOf,
    UploadOf,
)
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.models.catalogue import CATALOGUE
from kv_cache_rl.sim.hierarchy.generate import WORKLOADS
from kv_cache_rl.sim.hierarchy.policies import POLICIES

ENDED = "lru_ended"
NAMES = (*WORKLOADS, "zipf")
PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK", b"BZh", b"\xfd7zXZ")
"""How packed files begin: a small one may hold more than any machine has room for."""
WRONG = responses(404, 408, 413, 422, 429, 503)
WHOLE_FILE = {
    "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string"}}}}
}


def router(lab: Lab) -> APIRouter:
    """The routes of the hierarchy lab."""
    api = APIRouter(prefix="/api/hierarchy", route_class=Route, tags=["hierarchy"])

    @api.get("", response_model=Hierarchy, responses=responses())
    async def names() -> Response:
        """What can be replayed, under what, and with the bytes of which models."""
        known = {"workloads": list(NAMES), "policies": [*POLICIES, ENDED], "models": list(CATALOGUE)}
        return json_response({**known, "traces": len(lab.uploads)})

    @api.post(
        "/traces",
        status_code=201,
        response_model=UploadOf,
        responses=WRONG | {201: {"links": links("trace", "uploaded", "forget")}},
        openapi_extra=WHOLE_FILE,
    )
    async def upload(request: Request, name: Annotated[Name, Query()] = "trace.jsonl") -> Response:
        """Keeps a trace file, sent as the body, for a while: any format that names blocks, unpacked."""
        lab.uploads.room()
        async with lab.receiving.entered():
            data = await request.body()
        if data.startswith(PACKED):
            raise Problem(422, "the trace is packed; send it unpacked", "body")
        one = await lab.steps(lab.uploads.write, name, data)
        try:
            one.facts |= await lab.job("described", {"source": {"file": str(one.path), "name": one.name}})
        except BaseException as wrong:
            lab.uploads.remove(one.id)
            if isinstance(wrong, Refused) and not isinstance(wrong, Problem):
                raise Problem(422, str(wrong).replace(str(one.path), name), "body") from None
            raise
        headers = {"location": f"/api/hierarchy/traces/{one.id}"}
        return json_response({"trace": one.id, "name": name, **one.facts}, 201, headers)

    @api.get("/traces/{id}", response_model=UploadOf, responses=responses(404, 422))
    async def uploaded(id: str) -> Response:
        """What an uploaded trace holds."""
        one = lab.uploads.find(id)
        return json_response({"trace": one.id, "name": one.name, **one.facts})

    @api.delete("/traces/{id}", status_code=204, responses=responses(404, 422))
    async def forget(id: str) -> Response:
        """Deletes an uploaded trace."""
        lab.uploads.remove(id)
        return Response(status_code=204)

    async def done(work: str, body: TraceOf, more: dict[str, Any]) -> Response:
        source = source_of(lab, body)
        for k, name in enumerate(body.policies):
            if name not in (*POLICIES, ENDED):
                raise no_such("policy", name, (*POLICIES, ENDED), f"policies.{k}")
        if body.model is not None and body.model not in CATALOGUE:
            raise no_such("model", body.model, CATALOGUE, "model")
        given = {"policies": list(dict.fromkeys(body.policies)), "model": body.model, "seed": body.seed}
        try:
            return json_response(await lab.job(work, {"source": source, **given, **more}))
        except Problem:
            raise
        except Refused as wrong:
            text = str(wrong)
            if "file" in source:
                text = text.replace(source["file"], source["name"])
            raise of_refused(Refused(text), ("parameters",)) from None

    @api.post("/curves", response_model=CurvesOf, responses=WRONG)
    async def curves(body: Curves) -> Response:
        """Hit rate by capacity of each policy, under the bound, as `hierarchy curve --json` gives it."""
        return await done("curves", body, {"points": body.points, "capacities": body.capacities})

    @api.post("/replays", response_model=ReplaysOf, responses=WRONG)
    async def replays(body: Replays) -> Response:
        """Each policy in one tier of a capacity: metrics, and hit rates over time."""
        return await done("replays", body, {"points": body.points, "capacity": body.capacity})

    return api


def source_of(lab: Lab, body: TraceOf) -> dict[str, Any]:
    """The trace that a body names. Raises Problem for none, for both, or for one that does not exist."""
    if (body.workload is None) == (body.trace is None):
        raise Problem(
            422, "send either a workload or the trace that an upload was given as its id", "workload"
        )
    if body.trace is not None:
        if body.parameters:
            raise Problem(422, "parameters are for a workload; leave them out", "parameters")
        one = lab.uploads.find(body.trace)
        return {"file": str(one.path), "name": one.name}
    if body.workload not in NAMES:
        raise no_such("workload", str(body.workload), NAMES, "workload")
    if body.seed is not None and "seed" in body.parameters:
        raise Problem(422, "seed is given twice, beside parameters and among them; give it once", "seed")
    return {"workload": body.workload, "parameters": body.parameters}
