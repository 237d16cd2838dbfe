"""A policy inside an engine beside the lab: what each finds of the same requests, one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kv_cache_rl.experiments.engine.folder import Config, Recorded
from kv_cache_rl.experiments.engine.plan import Plan
from kv_cache_rl.experiments.engine.predicted import predicted, replayed


@dataclass(frozen=True, slots=True)
class Beside:
    """One policy; each list has the blocks found by each request."""

    policy: str
    prompt_blocks: int
    found: Sequence[int]
    """In the engine."""
    told: Sequence[int]
    """Predicted by the lab."""
    replayed: Sequence[int]
    """In a replay of the lab, whose requests do not hold their blocks."""

    @property
    def equal(self) -> int:
        """Requests of which engine and prediction found as many blocks."""
        return sum(engine == lab for engine, lab in zip(self.found, self.told, strict=True))

    def to_json(self) -> dict[str, Any]:
        """The counts, the rates, the first request that differs, and what each found in the engine."""
        differ = [at for at, engine in enumerate(self.found) if engine != self.told[at]]
        rates = {"engine": self.found, "lab": self.told, "replay": self.replayed}
        return {
            "policy": self.policy,
            "requests": len(self.found),
            "equal": self.equal,
            **{f"{name}_rate": sum(hits) / max(self.prompt_blocks, 1) for name, hits in rates.items()},
            "first": {"request": differ[0], "engine": self.found[differ[0]], "lab": self.told[differ[0]]}
            if differ
            else None,
            "found": list(self.found),
        }


def beside(plan: Plan, config: Config, done: Sequence[Recorded], policy: str) -> Beside:
    """What an engine recorded under a policy, beside the lab.

    Raises:
        HierarchyError: an unknown policy or parameter.
    """
    return Beside(
        policy,
        sum(one.prompt // config.block_tokens for one in plan.requests),
        [one.found for one in done],
        predicted(plan.requests, config.blocks, config.block_tokens, policy),
        replayed(done, config, policy),
    )
