"""What bodies and answers look like, for the checks and for `/openapi.json`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, WithJsonSchema

from kv_cache_rl.adapters.http.bodies import Body, Name, Whole
from kv_cache_rl.adapters.http.limits import Limits
from kv_cache_rl.adapters.http.settings import MOST_SEED, Settings
from kv_cache_rl.sim.eviction.spec import MAX_CALLS_PER_STEP, VIEWS
from kv_cache_rl.sim.serving.actions import ACTIONS

LIMITS = Limits()
Seed = Annotated[int, Whole(0, MOST_SEED)]
Ticks = Annotated[int, Whole(1, LIMITS.ticks)]
Action = Annotated[int, Whole(0, len(ACTIONS) - 1)]
View = Annotated[str, WithJsonSchema({"type": "string", "enum": [*VIEWS]})]
MOST_CALLS = 4 * MAX_CALLS_PER_STEP
"""Calls of a window that are read; those beyond the rules' limit are refused one by one."""


class Traffic(Body):
    """What draws a serving episode's traffic, and how it differs from its task."""

    seed: Seed | None = None
    ticks: Ticks | None = None
    """Length of the episode in nominal ticks; default: the task's."""
    settings: Annotated[Settings, Field(default_factory=dict)]


class EpisodeOf(Traffic):
    """Which serving episode."""

    task: Name = "medium"


class Simulate(EpisodeOf):
    """One agent on one episode."""

    agent: Name
    tick_logs: bool = True
    """Whether the answer holds every tick."""


class SimulateBatch(EpisodeOf):
    """Several agents on the same episode."""

    agents: Annotated[list[Name], Field(min_length=1, max_length=LIMITS.agents)]
    tick_logs: bool = True


class CheckSettings(EpisodeOf):
    """Settings to be checked; nothing of the server changes."""


class OpenSession(Traffic):
    """A world to play: the serving world by task and settings, the eviction environment by scenario."""

    world: Literal["serving", "eviction"] = "serving"
    task: Name | None = None
    scenario: Name | None = None
    view: View | None = None


class ResetSession(Body):
    """What changes; everything else stays as it was."""

    task: Name | None = None
    seed: Seed | None = None
    ticks: Ticks | None = None
    settings: Settings | None = None
    scenario: Name | None = None
    view: View | None = None


class ToolCall(Body):
    """A call as a chat model makes it; what cannot be read is refused in the answer, as a model is told."""

    name: Annotated[str, Field(max_length=200)]
    arguments: Annotated[
        dict[str, Any] | Annotated[str, Field(max_length=2_000)], Field(default_factory=dict)
    ]


class StepSession(Body):
    """One action, or an agent for some ticks (serving); the calls of one window (eviction)."""

    action: Action | None = None
    agent: Name | None = None
    ticks: Annotated[int, Whole(1, 1_000)] | None = None
    calls: Annotated[list[ToolCall], Field(max_length=MOST_CALLS)] | None = None


class OldReset(EpisodeOf):
    """The old call's body."""


class OldStep(Body):
    """The old call's body."""

    action: Action


class PlayEpisode(Body):
    """An eviction episode by a policy (a decider, or `oracle`: the best known log), or by an action log."""

    scenario: Name
    policy: Name | None = None
    log: Annotated[list[list[list[str]]], Field(max_length=1_000)] | None = None
    view: View = "full"
    dialogue: bool = True
    figures: bool = False
    """With the figures of the run's report, as SVG."""


class TraceOf(Body):
    """A trace: a workload by its name with its parameters, or one that was uploaded."""

    workload: Name | None = None
    parameters: Annotated[dict[str, int | float], Field(default_factory=dict)]
    trace: Name | None = None
    policies: Annotated[list[Name], Field(min_length=1, max_length=12, default_factory=lambda: ["lru"])]
    model: Name | None = None
    seed: Annotated[int, Whole(0, 2**63 - 1)] | None = None


class Curves(TraceOf):
    """Hit rate by capacity."""

    points: Annotated[int, Whole(1, 32)] = 16
    capacities: (
        Annotated[list[Annotated[str, Field(max_length=40)]], Field(min_length=2, max_length=2)] | None
    ) = None
    """The smallest and the largest: blocks (100), a share (5%) or bytes (10GB); default: 0.5% to all."""


class Replays(TraceOf):
    """Policies in one tier of this capacity."""

    capacity: Annotated[str, Field(min_length=1, max_length=40)] = "25%"
    points: Annotated[int, Whole(1, 500)] = 60
    """Parts of the replay whose hit rates are given."""


Facts = dict[str, Any]


class SessionLogs(BaseModel):
    """What an episode came to."""

    final_score: float
    crashed: bool
    ticks_run: int
    total_arrived: int
    total_completed: int
    outcome: Literal["completed", "crashed", "collapsed"]
    seed: int


class Simulation(BaseModel):
    """One agent's episode; `report`, `traffic` and `scenario` are those of `serving simulate --json`."""

    status: Literal["success"]
    agent: str
    task: str
    session_logs: SessionLogs
    tick_logs: dict[str, list[Any]] | None
    """A column by name for every iteration of the engine; null where they were not asked for."""
    report: Facts
    traffic: Facts
    scenario: Facts


class SimulationBatch(BaseModel):
    status: Literal["success"]
    task: str
    results: list[Simulation]


class AgentOf(BaseModel):
    name: str
    canary: bool
    """Whether a sound score places it below `lru`."""
    sessions: bool
    """Whether it can decide in a session: the oracle cannot."""


class Agents(BaseModel):
    agents: list[AgentOf]
    tasks: list[str]
    actions: list[str]
    observation: list[str]
    columns: dict[str, str]
    reward_terms: dict[str, float]


class AllSettings(BaseModel):
    tasks: dict[str, Facts]
    schema_: Facts = Field(alias="schema")
    old_names: dict[str, str]
    limits: Facts


class Checked(BaseModel):
    status: Literal["valid"]
    task: str
    seed: int
    settings: Facts
    expected_requests: int


class SessionState(BaseModel):
    """A session; the other fields are those of its world."""

    session: str
    kind: Literal["serving", "eviction"]
    done: bool
    expires_in_s: float


class Advice(BaseModel):
    policy: str
    calls: list[Facts]
    followed: bool
    """Whether the episode so far is the one of the best known log, where that is asked."""


class Episode(BaseModel):
    """An episode with the memory before each window, its calls and events, and the dialogue."""

    scenario: Facts
    windows: list[Facts]
    end: Facts
    report: Facts
    log: list[list[list[str]]]
    dialogue: list[Facts] | None
    figures: dict[str, str] | None = None


class RunEpisode(Episode):
    run: str
    model: str
    row: Facts
    committed: bool
    """Whether the scenario is one of the committed ones, which other calls know by its id."""


class Scenarios(BaseModel):
    scenarios: list[Facts]


class Policies(BaseModel):
    policies: list[str]
    oracle: str
    floor: list[str]
    canaries: list[str]
    tools: list[Facts]


class RunOf(BaseModel):
    run: str
    problem: str | None
    config: Facts | None
    done: int
    failed: int
    expected: int | None


class RunList(BaseModel):
    runs: list[RunOf]


class OpenRun(RunOf):
    rows: list[Facts]
    read_to: int
    summary: Facts | None
    running: bool
    """Whether a process plays on."""


class TrainingOf(BaseModel):
    training: str
    agent: str
    status: Literal["running", "stopped", "finished"]
    problem: str | None
    """Why it cannot be read."""
    said: str | None
    """The last line of its log, where it stopped and the log is beside it."""
    done: int
    total: int | None
    counted_in: Literal["episode", "round"] | None


class TrainingList(BaseModel):
    trainings: list[TrainingOf]


class OpenTraining(TrainingOf):
    plan: Facts
    curve: list[Facts]
    """Points so far: where it was, what the learner says, and the mean selection score of each task."""


class Hierarchy(BaseModel):
    workloads: list[str]
    policies: list[str]
    models: list[str]
    traces: int


class UploadOf(BaseModel):
    trace: str
    name: str
    bytes: int
    requests: int
    accesses: int
    blocks: int


class CurvesOf(BaseModel):
    trace: str
    requests: int
    accesses: int
    blocks: int
    block_bytes: float | None
    uneven: bool
    capacities: list[int]
    capacities_bytes: list[int] | None
    hit_rate: dict[str, list[float]]
    bound: Facts
    charged: str | None = None
    """What a block is charged, in words; left out where the model's cache is linear in tokens."""


class ReplaysOf(BaseModel):
    trace: str
    capacity: int
    bound: Facts
    rows: list[Facts]
    charged: str | None = None
    """What a block is charged, in words; left out where the model's cache is linear in tokens."""


class Health(BaseModel):
    status: Literal["ok"]
    version: str
    environment_version: str
    sessions: int
    simulations: int
    streams: int
