"""Settings of a serving episode as a client writes them: checked, and never more than its own copy."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import WithJsonSchema

from kv_cache_rl.adapters.http.errors import Problem, no_such, of_refused
from kv_cache_rl.adapters.http.limits import Limits
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.core.geometry import is_linear
from kv_cache_rl.core.hardware import HARDWARE
from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.models.catalogue import CATALOGUE
from kv_cache_rl.sim.serving.generate import demand, mix
from kv_cache_rl.sim.serving.spec import (
    ADMISSIONS,
    INTEGER_RANGES,
    MOST_OF_OPTIONAL,
    NUMBER_RANGES,
    PATTERNS,
    SETTINGS,
    SWITCHES,
    TASKS,
    Scenario,
    task,
)

SEED = "seed"
OLD_NAMES = {
    "GPU_TOTAL_BLOCKS": "gpu_blocks",
    "CPU_TOTAL_BLOCKS": "cpu_blocks",
    "TOKENS_PER_BLOCK": "block_tokens",
    "max_ticks": "ticks",
    "TRAFFIC_SEED": SEED,
}
"""Names of NeuralPagedAttention's settings -> names here."""
WITHHELD = ("trace", "length_scale")
"""Settings that no request makes: `trace` names a file of the server's machine."""
SETTABLE = tuple(name for name in SETTINGS if name not in WITHHELD)
MODELS = tuple(name for name, entry in CATALOGUE.items() if is_linear(entry.geometry))
"""Models that a request may name. A scenario takes a file too, which would be one of the server's machine."""
MOST_SEED = 2**64 - 1


def schema(ticks: int) -> dict[str, dict[str, Any]]:
    """Name of a setting -> the JSON schema of its values.

    Args:
        ticks: the longest episode of this server.
    """
    found: dict[str, dict[str, Any]] = {
        name: {"type": "integer", "minimum": low, "maximum": ticks if name == "ticks" else high}
        for name, low, high in INTEGER_RANGES
    }
    found |= {name: {"type": "number", "minimum": low, "maximum": high} for name, low, high in NUMBER_RANGES}
    found |= {
        name: {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": high}
        for name, high in MOST_OF_OPTIONAL
        if name in SETTABLE
    }
    found |= {name: {"type": "boolean"} for name in SWITCHES}
    known = {"pattern": PATTERNS, "admission": ADMISSIONS, "hardware": HARDWARE, "model": MODELS}
    return found | {name: {"type": "string", "enum": [*values]} for name, values in known.items()}


def _settings_schema() -> dict[str, Any]:
    """What `settings` may hold, old names too."""
    mine = schema(Limits().ticks)
    seed = {"type": "integer", "minimum": 0, "maximum": MOST_SEED}
    old = {was: {**mine.get(now, seed), "description": f"`{now}`"} for was, now in OLD_NAMES.items()}
    return {"type": "object", "properties": mine | old, "additionalProperties": False}


Settings = Annotated[dict[str, Any], WithJsonSchema(_settings_schema())]


def renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by their names here.

    Raises:
        Problem: a setting stands there under both of its names.
    """
    found: dict[str, Any] = {}
    said: dict[str, str] = {}
    for name, value in settings.items():
        now = OLD_NAMES.get(name, name)
        if (first := said.setdefault(now, name)) != name:
            raise Problem(
                422, f"{now} is given twice, as {first} and {name}; give it once", f"settings.{name}"
            )
        found[now] = value
    return found


def scenario_and_seed(
    name: str, settings: Mapping[str, Any], limits: Limits, seed: int | None = None, ticks: int | None = None
) -> tuple[Scenario, int]:
    """The task with these settings, and the seed that draws its traffic (0 where none is given).

    Raises:
        Problem: 404 for an unknown task, 422 for a value that cannot be used or an episode that is too long
            for this server.
    """
    if name not in TASKS:
        raise no_such("task", name, TASKS, "task")
    changes = renamed(settings)
    for key, value in (("ticks", ticks), (SEED, seed)):
        if value is not None and key in changes:
            raise Problem(422, f"{key} is given twice, beside settings and among them; give it once", key)
        if value is not None:
            changes[key] = value
    drawn = changes.pop(SEED, 0)
    if isinstance(drawn, bool) or not isinstance(drawn, int) or not 0 <= drawn <= MOST_SEED:
        range = f"a whole number from 0 to {MOST_SEED:,}"
        raise Problem(422, f"seed is {drawn!r:.80}; give {range}", SEED, range)
    for key in changes:
        if key not in SETTABLE:
            problem = no_such("setting", key, SETTABLE, f"settings.{key}")
            raise Problem(422, str(problem), problem.field)
    if "model" in changes and changes["model"] not in MODELS:
        problem = no_such("model", changes["model"], MODELS, "settings.model")
        raise Problem(422, str(problem), problem.field)
    prefix = "" if ticks is not None else "settings."
    try:
        whole_number("ticks", changes.get("ticks", TASKS[name].ticks), 1, limits.ticks)
        scenario = task(name, **changes)
        expected(scenario, limits)
    except Refused as refused:
        field = str(refused).split(" ", 1)[0]
        raise of_refused(refused, SETTABLE, prefix if field == "ticks" else "settings.") from None
    return scenario, drawn


def expected(scenario: Scenario, limits: Limits) -> int:
    """Requests that an episode brings on average. Raises Problem where they are too many for this server."""
    users = demand(scenario)[1]
    requests = round(users * mix(scenario).turns)
    if requests > limits.requests:
        what = f"{scenario.ticks:,} ticks at rho {scenario.rho:g} bring about {requests:,} requests"
        raise Problem(
            422, f"{what}, this server plays {limits.requests:,}; lower ticks, rho or gpu_blocks", "ticks"
        )
    return requests


def defaults(limits: Limits) -> dict[str, Any]:
    """Everything that can be set: each task's values, what they may be, and the names they had."""
    return {
        "tasks": {name: settings_of(scenario) for name, scenario in TASKS.items()},
        "schema": schema(limits.ticks),
        "old_names": OLD_NAMES,
        "limits": asdict(limits),
    }


def settings_of(scenario: Scenario) -> dict[str, Any]:
    """The settings of a scenario by name."""
    return {name: getattr(scenario, name) for name in SETTABLE}
