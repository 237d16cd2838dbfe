"""Scenarios in, tasks out."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import verifiers.v1 as vf
from pydantic import Field, field_validator

from kv_cache_eviction.task import PROFILES, EvictionData, EvictionTask
from kv_cache_eviction.tools import EvictionToolset
from kv_cache_rl.sim.eviction import (
    MAX_CALLS_PER_STEP,
    Episode,
    Scenario,
    load_scenarios,
    system_prompt,
)


class EvictionTasksetConfig(vf.TasksetConfig):
    difficulty: Literal["easy", "medium", "hard", "all"] = "all"
    """The tier; `all` takes them in turn: easy, medium, hard, easy ..."""
    num_examples: int = Field(-1, ge=-1)
    """How many scenarios in total; -1 takes all of them, of a trace 20 a tier."""
    seed: int = Field(42, ge=0)
    """Orders the choice within a tier."""
    split: Literal["train", "eval", "test"] = "eval"
    """The committed set; their seeds are disjoint."""
    trace: str | None = None
    """A trace file of your own (Claude Code sessions or Mooncake) to cut scenarios from instead."""
    max_calls_per_step: int = Field(MAX_CALLS_PER_STEP, ge=1, le=MAX_CALLS_PER_STEP)
    """How many tool calls of one assistant message count; the rest are refused."""
    view: Literal["brief", "full"] = "brief"
    """What an observation shows: the twelve entries that matter most, in a sixth of the tokens, or up to
    32 with every column."""
    history: Literal["full", "window"] = "full"
    """What a model call holds: the whole dialogue so far, or the window at hand alone."""
    reward_profile: Literal["original", "normalized"] = "original"
    """`original`: seven rewards with the original's weights; `normalized`: the normalised score."""

    @field_validator("num_examples")
    @classmethod
    def _some(cls, number: int) -> int:
        if number == 0:
            raise ValueError("0 scenarios are none; give -1 for all, or a positive number")
        return number

    @field_validator("trace")
    @classmethod
    def _there(cls, trace: str | None) -> str | None:
        if trace is not None and not Path(trace).exists():
            raise ValueError(f"there is no {trace}; check the path")
        return trace


class EvictionTaskset(vf.Taskset[EvictionTask, EvictionTasksetConfig]):
    def load(self) -> Iterator[EvictionTask]:
        profile = PROFILES[self.config.reward_profile]
        for scenario in self.scenarios():
            task = profile(self.row(scenario), self.config.task)
            task.scenario = scenario  # read and checked already
            yield task

    def scenarios(self) -> tuple[Scenario, ...]:
        config = self.config
        if config.trace is not None:
            from kv_cache_rl.experiments.eviction.sets import (
                scenarios_from_trace,  # it compiles the oracle
            )

            return scenarios_from_trace(
                config.trace, config.difficulty, config.num_examples, config.seed
            ).scenarios
        return load_scenarios(config.difficulty, config.split, config.num_examples, config.seed)

    def row(self, scenario: Scenario) -> EvictionData:
        return EvictionData(
            id=scenario.id,
            name=scenario.id,
            prompt=Episode(scenario, self.config.view).prompt(),
            system_prompt=system_prompt(self.config.view, self.config.max_calls_per_step),
            scenario=json.loads(
                json.dumps(scenario.to_json())
            ),  # lists, no tuples, as a saved trace holds it
            max_calls_per_step=self.config.max_calls_per_step,
            reward_profile=self.config.reward_profile,
            view=self.config.view,
            history=self.config.history,
        )

    @classmethod
    def toolsets(cls, config: EvictionTasksetConfig) -> list[vf.Toolset]:
        return [EvictionToolset(vf.SharedToolsetConfig())]
