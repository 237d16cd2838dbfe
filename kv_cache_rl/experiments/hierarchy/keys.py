"""Every key of a sweep definition, with its kind, its default, an example and what it says.

`kv-cache-rl hierarchy sweep --keys` prints them; docs/worlds/hierarchy.md shows them; a test holds them
against what the reader of definitions takes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kv_cache_rl.experiments.hierarchy.settings import RULES
from kv_cache_rl.experiments.hierarchy.sources import ZIPF
from kv_cache_rl.sim.hierarchy.spec import HierarchyError

KINDS: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "whole number": (int,),
    "number": (int, float),
    "true or false": (bool,),
    "list": (list,),
    "table": (dict,),
    "tables": (list,),
    "number or text": (int, float, str),
}
"""Kind of a value -> the types it has in a parsed definition."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a table."""

    kind: str
    """One of `KINDS`."""
    default: str
    """As it would be written, or what is done without it."""
    example: str
    """A line of TOML."""
    says: str


def _rule(name: str, example: str, says: str) -> Key:
    """A key that a scenario takes as it is."""
    value = RULES[name]
    kinds = {bool: "true or false", int: "whole number", float: "number", str: "text"}
    default = str(value).lower() if isinstance(value, bool) else str(value)
    return Key(kinds[type(value)], default, f"{name} = {example}", says)


SWEEP: dict[str, Key] = {
    "name": Key("text", "sweep", 'name = "mine"', "what the results are called"),
    "about": Key("text", "none", 'about = "why"', "a remark for readers"),
    "seeds": Key("list", "each workload's own", "seeds = [7, 42]", "draw the workloads, and `random`"),
    "policies": Key(
        "list",
        "needed",
        'policies = ["lru", { policy = "regret_aware", regret = [6.0, 0.98, 24] }]',
        "names, or tables with the keys below",
    ),
    "workloads": Key("tables", "needed", "[[workloads]]", "what is replayed"),
    "scenarios": Key("tables", "needed", "[[scenarios]]", "what it is replayed in"),
}
POLICY: dict[str, Key] = {
    "policy": Key("text", "its name", 'policy = "windowed_recency"', "one of the policies"),
    "name": Key("text", "the policy", 'name = "window of 8"', "tells two tunings of one policy apart"),
    "window": Key("whole number", "32", "window = 8", "accesses that `windowed_recency` looks back"),
    "regret": Key("list", "as tuned", "regret = [6.0, 0.98, 24]", "weight, decay, horizon of `regret_aware`"),
}
FILE: dict[str, Key] = {
    "file": Key("text", "none", 'file = "mooncake.jsonl"', "a trace, from the definition's folder"),
    "name": Key("text", "the file's", 'name = "mooncake"', "what it is called in results"),
    "format": Key("text", "the file says", 'format = "mooncake"', "see docs/formats.md"),
    "selection": Key("text", "all", 'selection = "headroom"', "Claude Code sessions that are used"),
    "seed": Key("whole number", "0", "seed = 1", "when Claude Code sessions start"),
    "jitter_seed": Key("whole number", "none", "jitter_seed = 1", "spreads requests on a coarse clock"),
    "decode_writes": Key(
        "true or false", "true", "decode_writes = false", "whether blocks that decoding wrote are found"
    ),
    "block_size": Key("whole number", "the file says", "block_size = 16", "tokens in a block"),
    "time_unit": Key("text", "the format's", 'time_unit = "ms"', "s, ms, us or ns"),
    "limit": Key("whole number", "all", "limit = 1000", "only so many requests, or sessions"),
    "sort": Key("true or false", "false", "sort = true", "puts rows in order of time"),
}
WORKLOAD: dict[str, Key] = {
    "workload": Key("text", "none", 'workload = "rag_burst"', "a synthetic workload, or `zipf`"),
    "name": Key("text", "the workload", 'name = "long rag"', "what it is called in results"),
    "pages": Key("whole number", "its own", "pages = 96", "distinct pages"),
    "length": Key("whole number", "its own", "length = 320", "accesses (not of `zipf`)"),
    "seed": Key("whole number", "its own", "seed = 11", "where the sweep has no seeds"),
    "scalars": Key("whole number", "its own", "scalars = 2304", "numbers in a page, about (not of `zipf`)"),
    "period": Key("whole number", "9", "period = 9", "of `periodic_reuse`"),
    "burst": Key("whole number", "12", "burst = 12", "of `adversarial_burst`"),
    **{
        name: Key(
            "number" if name == "skew" else "whole number",
            str(ZIPF[name]),
            f"{name} = {value}",
            f"of `zipf`: {says}",
        )
        for name, value, says in (
            ("accesses", "10000", "accesses"),
            ("skew", "1.0", "popularity falls with the rank to this power"),
            ("page_bytes", "4096", "bytes of a page; 0: blocks are counted"),
        )
    },
}
SCENARIO: dict[str, Key] = {
    "name": Key("text", "scenario", 'name = "small"', "what it is called in results"),
    "tiers": Key(
        "table",
        "those of kv-hierarchy-lab",
        'tiers = { gpu = 0.25, host = "1TB" }',
        "gpu, peer_gpu, host, nvme: blocks (5000), a share of the pages (0.25) or bytes",
    ),
    "laboratory": Key(
        "list", "[1, 1]", "laboratory = [1, 4]", "its tiers, capacities times this fraction (without `tiers`)"
    ),
    "semantics": Key(
        "text", "default", 'semantics = "default"', "or `kv-hierarchy-lab`, that project's rules"
    ),
    "model": Key("text", "none", 'model = "qwen3-8b"', "gives blocks the bytes of its cache"),
    "policies": Key("list", "all of the sweep", 'policies = ["lru"]', "only these are replayed here"),
    "warm_up": Key("number or text", "none", 'warm_up = "20%"', "what comes first and is in no metric"),
    "footprint": _rule("footprint", '"int8"', "precision that pages are stored in"),
    "prefetch": _rule("prefetch", "true", "a policy that predicts may fetch ahead"),
    "max_prefetch": _rule("max_prefetch", "2", "pages fetched ahead per access"),
    "overlap": _rule("overlap", "true", "demotions and prefetches cross while the GPU computes"),
    "compute_s": _rule("compute_s", "0.002", "seconds of compute after each request"),
    "recompute": _rule("recompute", "true", "compute anew what takes longer to load"),
    "squeeze": _rule("squeeze", '"int8"', "victims are compressed down to this first"),
    "promotion": _rule("promotion", '"step"', "a page found below goes up one tier, or to the top"),
    "reserve": _rule("reserve", '"10%"', "kept free on top: none, 5%, 10%, 20%, stability"),
    "hardware": _rule("hardware", '"a100-llama-3.1-8b"', "profile of GPUs and model, for the seconds"),
    "work_class": _rule(
        "work_class", '"code"', "whose published loss is charged: chat, extraction, code, reasoning"
    ),
    "calibration": _rule("calibration", '"measured-cpu"', "bytes and seconds of precisions"),
}
TABLES: dict[str, dict[str, Key]] = {
    "of the sweep": SWEEP,
    "of an entry of policies": POLICY,
    "of [[workloads]], a file": FILE,
    "of [[workloads]], a synthetic workload": WORKLOAD,
    "of [[scenarios]]": SCENARIO,
}
"""Where a key stands -> the keys there."""


def check_kinds(where: str, values: Mapping[str, Any], keys: Mapping[str, Key]) -> None:
    """Raises HierarchyError for a value that is of another kind than its key takes."""
    for name, value in values.items():
        key = keys.get(name)
        if key is None:
            continue
        known = KINDS[key.kind]
        if not isinstance(value, known) or (isinstance(value, bool) and bool not in known):
            raise HierarchyError(f"{where}: {name} = {value!r} is no {key.kind}; write {key.example}")


def key_rows() -> Iterator[tuple[str, str, Key]]:
    """(where it stands, its name, the key) of all keys."""
    for where, keys in TABLES.items():
        for name, key in keys.items():
            yield where, name, key
