"""Trainings of serving agents in the folder of runs, also while they run."""

from fastapi import APIRouter
from fastapi.responses import Response

from kv_cache_rl.adapters.http.bodies import Route, json_response
from kv_cache_rl.adapters.http.errors import responses
from kv_cache_rl.adapters.http.lab import Lab
from kv_cache_rl.adapters.http.shapes import OpenTraining, TrainingList


def router(lab: Lab) -> APIRouter:
    """The routes of trainings."""
    api = APIRouter(prefix="/api/trainings", route_class=Route, tags=["training"])

    @api.get("", response_model=TrainingList, responses=responses(429))
    async def trainings() -> Response:
        """The trainings, newest first, with how far they are."""
        return json_response({"trainings": await lab.steps(lab.trainings.listed)})

    @api.get("/{training:path}", response_model=OpenTraining, responses=responses(404, 422, 429))
    async def training(training: str) -> Response:
        """A training with its plan and its curve so far."""
        return json_response(await lab.steps(lab.trainings.opened, training))

    return api
