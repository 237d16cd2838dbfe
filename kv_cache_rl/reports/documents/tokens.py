"""Tables of what an episode costs, from what ``kv-cache-rl tokens --json`` prints."""

from kv_cache_rl.reports.documents.markdown import spread, table

HEADS = (
    "view, history",
    "an observation, mean (max)",
    "a model call, mean (max)",
    "context, max",
    "read in a rollout",
    "written",
)


def tokens(found: dict) -> str:
    """A row for each view and history."""
    return table(HEADS, map(_row, found["rows"]))


def _row(row: dict) -> list[str]:
    observation, call = (
        f"{row[part]['mean']:,.0f} ({row[part]['max']:,})" for part in ("observation", "call")
    )
    whole = [f"{row['context']['max']:,}", *(f"{row[part]['mean']:,.0f}" for part in ("read", "written"))]
    return [f"`{row['view']}`, `{row['history']}`", observation, call, *whole]


def counted(found: dict) -> str:
    """How the tokens were counted."""
    return (
        f"tokenizer: {found['tokenizer']}, chat template: {found['template']}, played by `{found['policy']}` "
        f"on {found['scenarios']} scenarios of the {found['split']} set"
    )


def loss(found: dict) -> str:
    """What the brief view costs the player."""
    return f"`{found['policy']}` scores {spread(found['brief_minus_full'], '{:+.3f}')} against the full view"


def line(found: dict) -> str:
    """Both views in one sentence."""
    by_pair = {(row["view"], row["history"]): row for row in found["rows"]}
    brief, full = by_pair["brief", "full"], by_pair["full", "full"]
    alone = by_pair["brief", "window"]["call"]
    observations = [f"{row['observation']['mean']:,.0f}" for row in (brief, full)]
    wholes = [f"{row['context']['max']:,}" for row in (brief, full)]
    return (
        f"an observation takes {observations[0]} tokens in the brief view and {observations[1]} in the full "
        f"one, a whole dialogue at most {wholes[0]} and {wholes[1]}; without history a call of the brief "
        f"view takes {alone['mean']:,.0f}"
    )


TABLES = {
    "eviction-tokens": (tokens, "eviction/tokens.json"),
    "eviction-tokens-how": (counted, "eviction/tokens.json"),
    "eviction-tokens-loss": (loss, "eviction/tokens.json"),
    "eviction-tokens-line": (line, "eviction/tokens.json"),
}
