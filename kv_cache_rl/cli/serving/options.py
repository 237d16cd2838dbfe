"""Options that several serving commands share, and the scenarios they describe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from kv_cache_rl.cli.failures import BadInput, choose
from kv_cache_rl.cli.options import WORKLOAD, option, pairs, policy, task, trace
from kv_cache_rl.cli.trace_options import readable

if TYPE_CHECKING:
    from kv_cache_rl.sim.serving.spec import Scenario


def agent(help: str) -> Any:
    """``--policy``, which serving commands also take as ``--agent``: here what decides is an agent."""
    return policy(help, "--agent", "-a")


Trace = Annotated[
    Path | None,
    trace("Replay this trace file as the task's users: any format with times and lengths, also .gz."),
]
Rho = Annotated[
    float | None,
    option(WORKLOAD, "--rho", help="Mean load over what the server can serve; default: the task's."),
]
Ticks = Annotated[
    int | None,
    option(
        WORKLOAD,
        "--ticks",
        help="Length of an episode in nominal ticks, the time of an iteration of the busy engine; an idler "
        "engine runs more of them in it. Default: the task's.",
    ),
]
Settings = Annotated[list[str] | None, pairs("Any setting, such as gpu_blocks=5000 or strict=true")]
Tasks = Annotated[
    list[str] | None,
    task("easy, medium or hard; by comma or repeated; default: all three."),
]
WORDS = {"true": True, "yes": True, "false": False, "no": False}


def scenario_of(
    name: str, trace: Path | None, rho: float | None, ticks: int | None, pairs: list[str] | None
) -> "Scenario":
    """The task of that name with these settings.

    Raises BadInput or ServingError with what is wrong and what to give instead.
    """
    from kv_cache_rl.sim.serving.recorded import recorded
    from kv_cache_rl.sim.serving.spec import TASKS, task

    choose("task", name, TASKS)
    given = {"trace": None if trace is None else str(trace), "rho": rho, "ticks": ticks}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    for pair in pairs or []:
        key, value = setting_of(pair)
        if key in changes:
            raise BadInput(f"{key} is given twice, as {changes[key]} and as {value}; give it once")
        changes[key] = value
    if changes.get("trace"):
        readable(Path(changes["trace"]))
        recorded(str(changes["trace"]))  # what cannot be replayed is said before anything is played
    return task(name, **changes)


def setting_of(pair: str) -> tuple[str, Any]:
    """Name and value of a setting, by the type of the field. Raises BadInput for an unknown one and for a
    value of another type.

    >>> setting_of("gpu_blocks=5_000"), setting_of("strict=true"), setting_of("sla_free=none")
    (('gpu_blocks', 5000), ('strict', True), ('sla_free', None))
    """
    from kv_cache_rl.sim.serving.spec import SETTINGS, Scenario

    key, sign, text = pair.partition("=")
    fields = {name: Scenario.__dataclass_fields__[name] for name in SETTINGS}
    if not sign:
        raise BadInput(f"--set {pair!r} has no value; write --set {pair or 'rho'}=VALUE")
    annotation = fields[choose("setting", key, fields)].type
    kind = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    if text.lower() == "none" and "None" in kind:
        return key, None
    try:
        return key, converted(text, kind.partition(" |")[0])
    except (ValueError, KeyError):
        wanted = {"int": "a whole number", "float": "a number", "bool": "true or false"}[
            kind.partition(" |")[0]
        ]
        raise BadInput(
            f"--set {key}={text}: {text!r} is not {wanted}{', or none' if 'None' in kind else ''}"
        ) from None


def converted(text: str, kind: str) -> Any:
    """The text as a value of that type. Raises ValueError or KeyError."""
    if kind == "bool":
        return WORDS[text.lower()]
    return {"int": int, "float": float, "str": str}[kind](text)
