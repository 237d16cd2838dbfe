"""``stability plan``: how many GPUs a traffic needs, by queueing theory."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from kv_cache_rl.amounts import counted
from kv_cache_rl.cli import options
from kv_cache_rl.cli.failures import BadInput, choose
from kv_cache_rl.cli.options import SERVICE, WORKLOAD, AsJson, Hardware
from kv_cache_rl.cli.terminal import console, print_json

if TYPE_CHECKING:
    from kv_cache_rl.core.geometry import ModelGeometry
    from kv_cache_rl.core.hardware import HardwareProfile
    from kv_cache_rl.theory.plan import Need, Plan
    from kv_cache_rl.traces.demand import Demand

PEAK_S = 60.0
MOST_RATE = 1e9
"""Requests per second; the largest services of the world have a thousandth of it."""
PROFILE = "a100-llama-3.1-8b"


def run_plan(
    trace: Annotated[
        Path,
        options.trace("Plan for this trace file: any format with lengths (docs/formats.md), also .gz."),
    ],
    rate: Annotated[
        float | None,
        options.rate("Requests per second, instead of the trace's."),
    ] = None,
    users: Annotated[
        int | None,
        options.option(WORKLOAD, "--users", help="Sessions at a time, where each has its own clock.", min=1),
    ] = None,
    scale: Annotated[
        float,
        options.option(WORKLOAD, "--scale", help="Multiply the trace's rate, busiest minute included."),
    ] = 1.0,
    gpus: Annotated[
        int | None, options.option(SERVICE, "--gpus", help="GPUs at hand: are they enough?", min=1)
    ] = None,
    hardware: Hardware = None,
    model: Annotated[
        str | None,
        options.geometry("Count this model's weights and KV bytes (the profile's seconds stay)", SERVICE),
    ] = None,
    target_utilisation: Annotated[
        float,
        options.option(
            SERVICE, "--target-utilisation", help="Share of the service rate to plan for, 0 to 1."
        ),
    ] = 0.8,
    token_budget: Annotated[int, options.token_budget("Prompt tokens per iteration.")] = 2048,
    chunk: Annotated[
        int,
        options.option(
            SERVICE, "--chunk", help="Tokens of a request's prefill per iteration, at most the budget.", min=1
        ),
    ] = 512,
    memory_tokens: Annotated[
        int | None,
        options.option(
            SERVICE, "--memory-tokens", help="Tokens of KV per service, instead of the profile's.", min=1
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """How many GPUs this traffic needs, and which resource binds: memory or the token budget.

    Example: kv-cache-rl stability plan --trace AzureLLMInferenceTrace_conv.csv --gpus 4
    """
    from kv_cache_rl.core.hardware import HARDWARE
    from kv_cache_rl.models.reading import model_at
    from kv_cache_rl.theory.plan import as_json as plan_json
    from kv_cache_rl.theory.plan import plan
    from kv_cache_rl.traces.demand import demand_of

    profile = HARDWARE[choose("hardware", hardware or PROFILE, HARDWARE)]
    served = model_at(model) if model else model_of(profile)
    if not 0 < scale < float("inf"):
        raise BadInput(f"--scale is {scale}; give a finite number above 0")
    if not 0 < target_utilisation <= 1:
        raise BadInput(f"--target-utilisation is {target_utilisation}; give a share above 0, at most 1")
    demand = demand_of(trace)
    tokens = memory_tokens or capacity(profile, served, demand)
    arrival_rate, peak = rates(demand, rate, users, scale, tokens)
    if max(arrival_rate, peak or 0) > MOST_RATE:
        raise BadInput(
            f"that is {arrival_rate:.3g} requests per second, and a plan is for at most {MOST_RATE:.0e}; "
            f"lower {'--rate' if rate is not None else '--scale'}"
        )
    found = plan(
        demand.prompts,
        demand.outputs,
        arrival_rate=arrival_rate,
        hardware=profile,
        memory_tokens=tokens,
        histories=demand.histories,
        peak_rate=peak,
        gpus=gpus,
        target_utilisation=target_utilisation,
        token_budget=token_budget,
        chunk=chunk,
    )
    if as_json:
        settings = {
            "hardware": profile.name,
            "model": served.name,
            "gpus": gpus,
            "target_utilisation": target_utilisation,
        }
        read = {"left_out": dict(demand.left_out), "notes": demand.notes}
        print_json({"trace": str(trace), "format": demand.format, **settings, **read, **plan_json(found)})
    else:
        show(found, demand, profile, served, gpus, target_utilisation)


def model_of(profile: "HardwareProfile") -> "ModelGeometry":
    """The model that a profile was measured with: its name ends with it."""
    from kv_cache_rl.core.geometry import MODELS

    return next(model for name, model in MODELS.items() if profile.name.endswith(name))


def capacity(profile: "HardwareProfile", model: "ModelGeometry", demand: "Demand") -> int:
    """Tokens of KV beside the weights; of a model that is not linear, as the requests fill it on average.

    Raises BadInput where the weights are not known, or leave no room.
    """
    import numpy as np

    from kv_cache_rl.core.hardware import kv_capacity_tokens

    if not model.weight_gb:
        raise BadInput(
            f"the weights of {model.name} are not known, and so not what they leave to the cache; put "
            "model.safetensors.index.json beside its config.json, or give --memory-tokens"
        )
    lengths = np.add(demand.prompts, demand.outputs, dtype=np.int64)
    tokens = kv_capacity_tokens(profile, model, lengths=lengths)
    if tokens < 1:
        size = profile.gpus * profile.memory_gb
        raise BadInput(
            f"{model.name} has {model.weight_gb:g} GB of weights and {profile.name} {size:g} GB; choose "
            "larger hardware"
        )
    return tokens


def rates(
    demand: "Demand", rate: float | None, users: int | None, scale: float, memory_tokens: int
) -> tuple[float, float | None]:
    """Requests per second, and in the busiest minute of those that fit into the memory.

    Raises BadInput where the trace tells none and none is given.
    """
    if rate is not None and users is not None:
        raise BadInput("--users and --rate both say how many requests come; give one of them")
    if rate is not None:
        if not 0 < rate < float("inf"):
            raise BadInput(f"--rate is {rate}; give requests per second, above 0")
        return rate * scale, None
    if demand.session_s > 0:
        if users is None:
            raise BadInput(
                "the sessions of this trace have a clock each, and so no common rate; give --users N, or "
                "--rate R"
            )
        return demand.requests / demand.session_s * users * scale, None
    if users is not None and demand.arrivals_s:
        raise BadInput(
            "--users is for traces whose sessions have a clock each; this one has arrival times, leave it out"
        )
    if demand.format == "claude-code":
        raise BadInput("the sessions of this trace last no time, and so tell no rate; give --rate R")
    if not demand.arrivals_s:
        raise BadInput("this trace has no arrival times, and so no rate; give --rate R")
    if demand.rate is None:
        raise BadInput("all requests of this trace arrive at one moment, which is no rate; give --rate R")
    peak = demand.fitting(memory_tokens).peak_rate(PEAK_S)
    return demand.rate * scale, None if peak is None else peak * scale


def show(
    found: "Plan",
    demand: "Demand",
    profile: "HardwareProfile",
    model: "ModelGeometry",
    gpus: int | None,
    target: float,
) -> None:
    """Prints the plan as a table, with what was read and what it assumes."""
    from kv_cache_rl.reports.tables import plain_table

    out = console()
    those = " of those that fit" if found.too_long else ""
    peak = "" if found.peak_rate is None else f", {found.peak_rate:.3g}/s in the busiest minute{those}"
    out.print(f"{counted(found.requests, 'request')} ({demand.format}), {found.offered_rate:.3g}/s{peak}")
    lengths = found.lengths
    means = (
        f"mean prompt {lengths.prompt:,.0f}, mean output {lengths.output:,.0f}, mean footprint "
        f"{lengths.footprint:,.0f}"
    )
    out.print(f"{means}; the longest request has {lengths.longest:,} tokens")
    if found.too_long:
        out.print(
            f"{found.too_long:,} requests hold more than {found.memory_tokens:,} tokens: no service of this "
            f"kind can; without them {found.arrival_rate:.3g}/s of {found.offered_rate:.3g}/s are planned for"
        )
    for reason, count in demand.left_out.items():
        out.print(f"{count:,} left out: {reason}")
    for note in demand.notes:
        out.print(note, soft_wrap=True)
    columns = {
        "": "left",
        "1 service": "right",
        "binds": "left",
        "iteration": "right",
        "GPUs": "right",
        "busiest": "right",
    }
    given = gpus is not None
    columns |= {f"rho on {gpus}": "right", "verdict": "left"} if given else {}
    title = (
        f"{profile.name}, {model.name}: {found.memory_tokens:,} tokens of KV, {profile.gpus} GPU a service"
    )
    caption = (
        f"GPUs at utilisation {target:g}; delta {found.delta:.3f}: stable below (1 - delta) of the service "
        "rate"
    )
    table = plain_table(title, columns, caption)
    table.add_row("no prefix hits", *_cells(found.plain, given))
    if found.cached is not None:
        table.add_row(
            f"all prefixes found ({found.history_share or 0:.0%} of prompts)", *_cells(found.cached, given)
        )
    out.print(table)


def _cells(need: "Need", given: bool) -> list[str]:
    peak = "-" if need.peak_gpus is None else str(need.peak_gpus)
    cells = [
        f"{need.rate.per_s:.3f}/s",
        need.rate.binding,
        f"{1000 * need.batch_s:.1f} ms",
        str(need.gpus),
        peak,
    ]
    return cells + [f"{need.rho:.2f}", str(need.verdict)] if given else cells
