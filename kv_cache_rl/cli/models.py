"""``models``: the catalogue of models, and how the bytes of one model's cache come about."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kv_cache_rl.amounts import amount
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.options import SERVICE, AsJson, option
from kv_cache_rl.cli.terminal import console, print_json
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.reports.tables import plain_table

if TYPE_CHECKING:
    from kv_cache_rl.core.geometry import ModelGeometry
    from kv_cache_rl.models.catalogue import Entry

LENGTHS = {"1k": 1024, "8k": 8192, "128k": 131_072}
"""Lengths of a sequence, in tokens."""
CACHED = ("fp16", "fp8", "int4")
"""Precisions of a cache that are shown."""


def run_models(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME_OR_CONFIG]",
            help="A name of the catalogue or of Hugging Face, a config.json, or its folder; none: all.",
        ),
    ] = None,
    gpu_memory: Annotated[
        str,
        option(SERVICE, "--gpu-memory", help="Memory that weights and cache share: 80GB, 24GiB, 640GB."),
    ] = "80GB",
    as_json: AsJson = False,
) -> None:
    """Print the catalogue of models, or how many bytes a model's cache takes and why.

    Example: kv-cache-rl models gpt-oss-120b

    Of a file, and of eight GPUs: kv-cache-rl models config.json --gpu-memory 640GB
    """
    from kv_cache_rl.models.catalogue import CATALOGUE
    from kv_cache_rl.models.reading import model_at

    room = memory_of(gpu_memory)
    if model is None:
        rows = [row_of(entry.geometry, room) | published(entry) for entry in CATALOGUE.values()]
        if as_json:
            print_json({"gpu_memory": room, "models": rows})
        else:
            show_all(rows, room)
        return
    found = model_at(model)
    entry = CATALOGUE.get(found.name)
    row = row_of(found, room) | (published(entry) if entry and entry.geometry == found else {})
    if as_json:
        print_json({"gpu_memory": room, **row})
    else:
        show_one(row, room)


def memory_of(text: str) -> int:
    """Bytes of memory. Raises BadInput for what is no number of bytes."""
    from kv_cache_rl.experiments.hierarchy.settings import Bytes, readable_capacity

    try:
        read = readable_capacity(text)
    except Refused:  # it offers what this option does not take
        read = None
    if not isinstance(read, Bytes) or not read.count:
        raise BadInput(
            f"--gpu-memory {text} is no number of bytes; write it with its unit, such as 80GB or 24GiB"
        )
    return read.count


def row_of(model: "ModelGeometry", room: int) -> dict[str, Any]:
    """What a model's cache takes, why, and what fits beside its weights into so many bytes of memory."""
    from kv_cache_rl.core.geometry import bytes_held, bytes_per_token, is_linear, not_linear
    from kv_cache_rl.core.hardware import GPU_SHARE
    from kv_cache_rl.core.precision import PRECISIONS

    free = max(GPU_SHARE * room - model.weight_gb * 1e9, 0.0)
    widths = {name: 2 * PRECISIONS[name].multiplier for name in CACHED}
    held = {
        name: {length: float(bytes_held(model, tokens, width)) for length, tokens in LENGTHS.items()}
        for name, width in widths.items()
    }
    return {
        "model": model.name,
        "linear": is_linear(model),
        "not_linear": not_linear(model),
        "bytes_per_token": bytes_per_token(model),
        "state_bytes": sum(group.layers * group.state_bytes for group in model.layer_groups),
        "groups": [asdict(group) for group in model.layer_groups],
        "bytes": held,
        "weight_gb": model.weight_gb or None,
        "fit": {
            length: int(free // held["fp16"][length]) if held["fp16"][length] else None for length in LENGTHS
        },
        "longest": longest(model, free),
    }


def longest(model: "ModelGeometry", free: float) -> int | None:
    """Tokens of the longest sequence whose cache fits at fp16; None where no length is too long."""
    from kv_cache_rl.core.geometry import bytes_held

    low, high = 0, 2**40
    if bytes_held(model, high) <= free:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bytes_held(model, middle) <= free else (low, middle)
    return low


def published(entry: "Entry") -> dict[str, Any]:
    """Where a model's fields were read, and the published figures."""
    from kv_cache_rl.models.catalogue import SOURCES

    return {
        "repo": entry.repo,
        "source": f"{entry.source}: {SOURCES[entry.source]}",
        "published_kib_per_token": entry.kib_per_token,
        "published_gib_at_128000": entry.gib_at_128k,
    }


def show_all(rows: Sequence[dict[str, Any]], room: int) -> None:
    """The catalogue as a table."""
    columns = {"model": "left", "keeps": "left", "bytes/token": "right"}
    columns |= {f"at {length}": "right" for length in LENGTHS} | {"GPU holds": "right"}
    notes = (
        "bytes/token: of each further token at fp16, once all windows are full. GPU holds: tokens of one "
        f"sequence in 90 % of {amount(room)} beside the weights at 16 bits; -: none, the weights alone take "
        "that, ?: the weights are not known."
    )
    table = plain_table(f"{len(rows)} models, at fp16", columns, notes)
    for row in rows:
        cells = [row["model"], mix(row), amount(row["bytes_per_token"])]
        cells += [amount(row["bytes"]["fp16"][length]) for length in LENGTHS]
        fits = "any" if row["longest"] is None else f"{row['longest']:,}" if row["longest"] else "-"
        table.add_row(*cells, fits if row["weight_gb"] else "?")
    console().print(table)


def mix(row: dict[str, Any]) -> str:
    """The groups of layers in a few words."""
    return ", ".join(f"{group['layers']} {group['keeps']}" for group in row["groups"])


def show_one(row: dict[str, Any], room: int) -> None:
    """The derivation of one model's bytes, what sequences take, and what fits."""
    columns = {"layers": "right", "keep": "left", "tokens": "left", "because": "left", "bytes": "right"}
    table = plain_table(f"{row['model']}: what its layers keep, at fp16", columns, row.get("source"))
    for group in row["groups"]:
        per_token = f"{amount(2 * group['layers'] * group['elements'] / group['stride'])} a token"
        state = f"{amount(group['layers'] * group['state_bytes'])} a sequence"
        tokens = "all" if group["window"] is None else f"the last {group['window']:,}"
        tokens = f"one entry for {group['stride']}" if group["stride"] > 1 else tokens
        cells = ["-", state] if group["state_bytes"] else [tokens, per_token]
        table.add_row(f"{group['layers']}", group["keeps"], cells[0], group["because"], cells[1])
    out = console()
    out.print(table)
    columns = {"tokens": "right", **dict.fromkeys(CACHED, "right"), "a token": "right", "fit": "right"}
    known = row["weight_gb"]
    weights = f"beside {known:g} GB of weights" if known else "without the weights, which are not known"
    notes = f"fit: sequences at fp16 in 90 % of {amount(room)}, {weights}"
    table = plain_table("one sequence", columns, notes)
    for length, tokens in LENGTHS.items():
        held = [row["bytes"][name][length] for name in CACHED]
        fit = "-" if row["fit"][length] is None else f"{row['fit'][length]:,}"
        table.add_row(f"{tokens:,}", *map(amount, held), amount(held[0] / tokens), fit)
    out.print(table)
    more = f"each further token adds {amount(row['bytes_per_token'])} at fp16"
    if row["not_linear"]:
        more = f"not linear in tokens: {row['not_linear']}; once all windows are full {more}"
    if row["longest"]:
        more += f"; the longest sequence that fits has {row['longest']:,} tokens"
    out.print(more, soft_wrap=True)
