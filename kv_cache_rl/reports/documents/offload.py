"""The table of host tiers, from ``engine offload`` (offload.json)."""

from kv_cache_rl.reports.documents.markdown import table

HEADS = ("trace", "policy", "GPU, host blocks", "requests equal", "found in the host tier: lab, vLLM")


def tiers(found: dict) -> str:
    """The lab's host tier beside vLLM's, request by request."""
    rows = []
    for run in found["runs"]:
        for row in run["rows"]:
            room = f"{row['gpu_blocks']:,}, {row['host_blocks']:,}"
            hits = f"{row['lab_host']:,}, {row['engine_host']:,}"
            equal = f"{row['equal']:,} of {row['requests']:,}"
            rows.append([run["trace"], row["policy"], room, equal, hits])
            if "equal_by_its_rules" in row:
                equal = f"{row['equal_by_its_rules']:,} of {row['requests']:,}"
                rows.append([run["trace"], "arc by vLLM's rules", room, equal, "-"])
    return table(HEADS, rows)


TABLES = {"engine-offload": (tiers, "engine/offload.json")}
