"""Tables of the catalogue of models; they are made from the catalogue itself."""

from kv_cache_rl.amounts import amount
from kv_cache_rl.core.geometry import bytes_held, bytes_per_token
from kv_cache_rl.models.catalogue import CATALOGUE, SOURCES, Entry
from kv_cache_rl.reports.documents.markdown import table
from kv_cache_rl.reports.tables import markdown_table

LONG = 131_072
"""Tokens of a long sequence."""


def catalogue() -> str:
    """Every model: what its layers keep, its bytes at fp16, and what is published."""
    heads = ("model", "layers keep", "a further token", "131,072 tokens", "published", "fields from")
    rows = (
        [
            f"`{entry.name}`",
            ", ".join(_layers(entry)),
            amount(bytes_per_token(entry.geometry)),
            amount(float(bytes_held(entry.geometry, LONG))),
            _published(entry),
            entry.source,
        ]
        for entry in CATALOGUE.values()
    )
    return table(heads, rows)


def sources() -> str:
    """Where fields and published figures were read."""
    rows = ([name, text] for name, text in SOURCES.items())
    return markdown_table({"name": "left", "what": "left"}, rows).rstrip("\n")


def counts() -> str:
    """How many models there are, and how many have a published figure, in one sentence."""
    figures = sum(_published(entry) != "-" for entry in CATALOGUE.values())
    return f"{len(CATALOGUE)} models, {figures} of them with a published figure that a test compares"


def _layers(entry: Entry) -> list[str]:
    found = []
    for group in entry.geometry.layer_groups:
        size = "" if group.window is None else f" {group.window:,}"
        size = f" {group.stride}:1" if group.stride > 1 else size
        found.append(f"{group.layers} {group.keeps}{size}")
    return found


def _published(entry: Entry) -> str:
    figures = []
    if entry.kib_per_token:
        figures.append(f"{entry.kib_per_token:g} KiB a token")
    if entry.gib_at_128k:
        figures.append(f"{entry.gib_at_128k:.4g} GiB at 128,000")
    return ", ".join(figures) or "-"


TABLES = {
    "models-catalogue": (catalogue,),
    "models-sources": (sources,),
    "models-counts": (counts,),
}
