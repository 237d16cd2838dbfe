"""What is served over: memory, engine, users, their load and what they tolerate."""

import math
import os
from dataclasses import dataclass, replace
from functools import cache

from kv_cache_rl.core import geometry
from kv_cache_rl.core.errors import Refused, unknown
from kv_cache_rl.core.geometry import MODELS, ModelGeometry, is_linear, not_linear
from kv_cache_rl.core.hardware import HARDWARE, LINKS
from kv_cache_rl.core.numbers import is_number, shown, whole_number

PATTERNS = ("constant", "waves", "spikes")
ADMISSIONS = ("optimistic", "reserve")
MOST_BLOCKS = 1 << 24
MOST_TICKS = 10_000_000
MOST_RHO = 100.0


class ServingError(Refused):
    """Settings, a seed or an action that cannot be used: says what is wrong, where, and what to do."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A server, its users and how long it is watched.

    Durations in nominal ticks (the saturated engine iteration, b̄).
    """

    task: str
    pattern: str
    """How the load moves in time: `constant`, `waves` or `spikes`."""
    rho: float
    """Mean offered load over what the server can serve, returns included."""
    rho_peak: float
    """Highest load a wave or a spike reaches."""
    sla_free: float | None
    """Longest wait of a Free user's request; None: any."""
    sla_vip: float | None
    ticks: int
    """Length of the episode."""
    trace: str | None = None
    """File of real traffic instead of drawn users."""
    length_scale: float | None = None
    """Factor on a trace's lengths; None: such that they suit the memory."""
    hardware: str = "a100-llama-3.1-8b"
    model: str = "llama-3.1-8b"
    """Whose cache the blocks are: a name of the catalogue, a config.json or its folder; each token of a
    sequence has to add the same bytes.
    """
    gpu_blocks: int = 10_000
    cpu_blocks: int = 50_000
    block_tokens: int = 16
    token_budget: int = 2_048
    """Tokens an engine iteration computes at most, decoded ones included."""
    actions_per_tick: int = 4
    admission: str = "optimistic"
    """Admit whatever fits now, or `reserve`: only what can also finish without a forced preemption, provided
    that idle caches give way in time."""
    strict: bool = False
    """Whether the episode ends where decode growth finds no block, instead of a preemption."""
    reuse: bool = True
    """Whether the KV of a finished request stays as an idle cache."""
    queue_free: int = 100
    queue_vip: int = 50
    return_probability: float = 0.30
    bursty_returns: bool = False
    vip_share: float = 0.30
    power_share: float = 0.20
    context_limit: int = 32_768
    """Most tokens of a request, prompt and output."""
    control_window_s: float = 60.0
    """Memory of the rate estimates behind the rich observation."""

    def __post_init__(self) -> None:
        """Raises ServingError, naming the field, its value and the range."""
        for name, low, high in INTEGER_RANGES:
            # Whole numbers of any kind, numpy's too, become Python's own.
            object.__setattr__(self, name, whole(name, getattr(self, name), low, high))
        for name, low, high in NUMBER_RANGES:
            value = getattr(self, name)
            if not is_number(value) or not low <= value <= high:
                raise ServingError(f"{name} is {shown(value)}; give a number from {low:g} to {high:g}")
        for name, high in MOST_OF_OPTIONAL:
            value = getattr(self, name)
            if value is not None and not (is_number(value) and 0 < value <= high):
                raise ServingError(
                    f"{name} is {shown(value)}; give a positive number up to {high:g}, "
                    "or None for no such limit"
                )
        for name in SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ServingError(f"{name} is {shown(getattr(self, name))}; give True or False")
        self._check_trace()
        for name, known in (
            ("pattern", PATTERNS),
            ("admission", ADMISSIONS),
            ("hardware", tuple(HARDWARE)),
        ):
            if getattr(self, name) not in known:
                raise ServingError(unknown(name, getattr(self, name), known))
        if not isinstance(self.model, str):
            raise ServingError(
                f"model is {shown(self.model)}; give a name of the catalogue, a config.json or its folder"
            )
        model_of(self.model)
        if self.rho_peak < self.rho:
            raise ServingError(f"rho_peak {self.rho_peak} is below the mean load rho {self.rho}; raise it")

    def _check_trace(self) -> None:
        """Raises ServingError on no name of a file, and on a factor for the lengths of no trace."""
        if isinstance(self.trace, os.PathLike):
            object.__setattr__(self, "trace", os.fspath(self.trace))
        if self.trace is not None and (not isinstance(self.trace, str) or not self.trace):
            raise ServingError(
                f"trace is {shown(self.trace)}; give the name of a trace file, or None for drawn users"
            )
        if self.trace is None and self.length_scale is not None:
            raise ServingError(
                f"length_scale is {shown(self.length_scale)}, but it is for the lengths of a trace; "
                "give a trace, or leave it out"
            )

    @property
    def gpu_tokens(self) -> int:
        """Tokens of KV the GPU holds."""
        return self.gpu_blocks * self.block_tokens

    @property
    def longest(self) -> int:
        """Most tokens of a request: the context limit, and never above a quarter of the GPU's."""
        return min(self.context_limit, self.gpu_tokens // 4)

    def sla(self, vip: bool) -> float:
        """Longest tolerated wait of a class, in nominal ticks; infinite without a limit."""
        limit = self.sla_vip if vip else self.sla_free
        return math.inf if limit is None else limit


INTEGER_RANGES = (
    ("ticks", 1, MOST_TICKS),
    ("gpu_blocks", 16, MOST_BLOCKS),
    ("cpu_blocks", 0, MOST_BLOCKS),
    ("block_tokens", 1, 4_096),
    ("token_budget", 1, 1 << 20),
    ("actions_per_tick", 1, 64),
    ("queue_free", 1, 1_000_000),
    ("queue_vip", 1, 1_000_000),
    ("context_limit", 4, 1 << 24),
)
NUMBER_RANGES = (
    ("rho", 1e-6, MOST_RHO),
    ("rho_peak", 1e-6, MOST_RHO),
    ("return_probability", 0.0, 0.95),
    ("vip_share", 0.0, 1.0),
    ("power_share", 0.0, 1.0),
    ("control_window_s", 1e-3, 1e6),
)
MOST_OF_OPTIONAL = (("sla_free", 1e9), ("sla_vip", 1e9), ("length_scale", 1e9))
SWITCHES = ("strict", "reuse", "bursty_returns")
OF_DRAWN_USERS = ("pattern", "rho_peak", "return_probability", "bursty_returns")
"""Settings that a trace has its own of."""


def whole(name: str, value: object, low: int, high: int) -> int:
    """The value as Python's own integer.

    Raises:
        ServingError: it is no whole number from `low` to `high`; True and False are none.
    """
    return whole_number(name, value, low, high, ServingError)


def block_bytes(scenario: Scenario) -> int:
    """Bytes of one block at fp16."""
    return geometry.block_bytes(model_of(scenario.model), scenario.block_tokens)


@cache
def model_of(text: str) -> ModelGeometry:
    """The geometry of a scenario's model.

    Raises:
        ServingError: there is no such model, its configuration cannot be used, or its cache is not linear in
            tokens.
    """
    if text in MODELS:
        return MODELS[text]
    from kv_cache_rl.models.fields import ModelError  # the catalogue is large: read where it is asked for
    from kv_cache_rl.models.reading import model_at

    try:
        found = model_at(text)
    except ModelError as wrong:
        raise ServingError(str(wrong)) from None
    except OSError as wrong:
        raise ServingError(f"model {text!r} cannot be read ({wrong.strerror}); give another file") from None
    if not is_linear(found):
        raise ServingError(
            f"the cache of {found.name} is not linear in tokens ({not_linear(found)}), and a server's blocks "
            "take the same bytes each; name a model of which every layer keeps every token, or use the lab "
            "(hierarchy replay --model), which charges blocks their mean"
        )
    return found


def link_rates(scenario: Scenario) -> tuple[int, int, int]:
    """Bytes per microsecond one way and while both lanes are busy, and microseconds of latency, of the
    profile's host link.
    """
    profile = HARDWARE[scenario.hardware]
    link = LINKS[profile.link]
    rates = round(link.one_way * profile.links / 1e6), round(link.both_ways * profile.links / 1e6)
    return *rates, round(link.latency_s * 1e6)


def task(name: str, /, **changes) -> Scenario:
    """A task by name, with settings of your own.

    Raises:
        ServingError: there is no such task or setting, or a value is out of range.
    """
    if not isinstance(name, str) or name not in TASKS:
        raise ServingError(unknown("task", name, TASKS))
    foreign = [key for key in changes if key not in SETTINGS]
    if foreign:
        raise ServingError(unknown("setting", foreign[0], SETTINGS))
    idle = [key for key in OF_DRAWN_USERS if changes.get("trace") is not None and key in changes]
    if idle:
        raise ServingError(
            f"{idle[0]} is {shown(changes[idle[0]])}, but a trace has its own; "
            f"leave out {idle[0]}, or the trace"
        )
    rho, peak = changes.get("rho", ""), changes.get("rho_peak")
    if is_number(rho) and 0 < rho <= MOST_RHO and "rho_peak" not in changes:
        # A task keeps its shape at another load.
        factor = TASKS[name].rho_peak / TASKS[name].rho
        if factor * rho > MOST_RHO and changes.get("trace") is None:
            most = f"a number up to {math.floor(MOST_RHO / factor)}, or rho_peak too"
            raise ServingError(
                f"rho is {rho!r}: {name} would reach {factor * rho:.4g}, above {MOST_RHO:g}; give {most}"
            )
        changes["rho_peak"] = min(max(rho, factor * rho), MOST_RHO)
    made = replace(TASKS[name], **changes)
    if made.pattern == "constant" and peak not in (None, made.rho):
        raise ServingError(
            f"rho_peak is {peak}, but a constant load has no peak; leave out rho_peak, or take "
            "pattern 'waves' or 'spikes'"
        )
    return made


SETTINGS = tuple(name for name in Scenario.__dataclass_fields__ if name != "task")
"""Fields of a scenario that may be set: all but its name."""
TASKS: dict[str, Scenario] = {
    scenario.task: scenario
    for scenario in (
        Scenario("easy", "constant", 0.35, 0.35, None, None, 2_000, power_share=0.0),
        Scenario("medium", "waves", 0.85, 1.3, 100, 50, 5_000),
        Scenario("hard", "spikes", 1.0, 3.0, 50, 25, 10_000, bursty_returns=True),
    )
}
