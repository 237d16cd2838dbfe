"""What prime-rl takes in the tables that the configs use.

It is in no package index, so its tables are written down here; what it hands on to verifiers is checked by
verifiers' own classes.

Source: github.com/PrimeIntellect-ai/prime-rl, packages/prime-rl-configs/src/prime_rl/configs: rl.py,
orchestrator.py, shared.py of autumn 2026, with verifiers 0.4. Every class there forbids other fields."""

from typing import Annotated, Any, Literal

import verifiers.v1 as vf
from pydantic import BaseModel, ConfigDict, Field, model_validator
from renderers.base import MODEL_RENDERER_MAP


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Pool(Table):
    threshold: float
    weight: float = Field(ge=0)


class DifficultyPool(Table):
    type: Literal["difficulty_pool"]
    pools: dict[str, Pool]
    seed: int = 42

    @model_validator(mode="after")
    def pools_differ(self):
        assert len({pool.threshold for pool in self.pools.values()}) == len(self.pools) > 0
        assert any(pool.weight > 0 for pool in self.pools.values())
        return self


class Standard(Table):
    type: Literal["standard"] = "standard"


class Source(Table):
    env: dict[str, Any]
    name: str
    select: vf.SelectConfig = vf.SelectConfig()
    group_size: int = Field(1, ge=1)

    @property
    def resolved(self):
        """The environment as verifiers reads it."""
        return vf.resolve_env_config(self.env)


class TrainSource(Source):
    ratio: float = Field(1.0, gt=0)
    sampler: Annotated[Standard | DifficultyPool, Field(discriminator="type")] = Standard()
    min_abs_advantage: float = Field(0.0, ge=0)


class EvalSource(Source):
    interval: int = Field(100, ge=1)


class Sampling(Table):
    temperature: float = Field(1.0, ge=0, le=2)
    max_completion_tokens: int | None = None


class Train(Table):
    source: list[TrainSource] = Field(min_length=1)
    sampling: Sampling = Sampling()
    group_size: int = Field(1, ge=1)


class Evaluate(Table):
    source: list[EvalSource] = Field(min_length=1)
    interval: int = Field(100, ge=1)


class Orchestrator(Table):
    train: Train
    eval: Evaluate | None = None
    batch_size: int = Field(128, ge=1)


class Named(Table):
    name: str


class Optimizer(Table):
    lr: float = Field(ge=0)


class Trainer(Table):
    optim: Optimizer


class Checkpoints(Table):
    interval: int | None = None
    keep_last: int | None = Field(None, ge=1)


class Run(Table):
    """A whole config; overlays are merged into it first."""

    max_steps: int | None = None
    seq_len: int | None = None
    run: Named | None = None
    ckpt: Checkpoints | None = None
    model: Named
    trainer: Trainer
    orchestrator: Orchestrator
    inference: Table | None = None

    @model_validator(mode="after")
    def fits(self):
        for source in self.orchestrator.train.source:
            size = max(source.group_size, self.orchestrator.train.group_size)
            assert self.orchestrator.batch_size % size == 0, "the batch is no whole number of groups"
        assert self.model.name in MODEL_RENDERER_MAP, "the model has no renderer, so prime-rl refuses it"
        return self


def merged(below: dict, above: dict) -> dict:
    """Two configs as prime-rl reads `@ below @ above`: tables are merged, lists replaced."""
    both = {name: below[name] for name in below.keys() & above.keys()}
    nested = {name: merged(value, above[name]) for name, value in both.items() if isinstance(value, dict)}
    return below | above | nested
