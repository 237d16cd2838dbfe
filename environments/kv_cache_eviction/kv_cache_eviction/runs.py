"""One evaluation as a function: `vf-eval` with a callback per rollout, and rows for a dashboard."""

import asyncio
import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import verifiers.v1 as vf
from verifiers.v1.cli.eval import resume as resumed
from verifiers.v1.cli.eval.runner import gather_rollouts
from verifiers.v1.cli.output import write_config
from verifiers.v1.configs.cli.eval import EvalConfig
from verifiers.v1.utils.eval import plan_rollouts
from verifiers.v1.utils.logging import setup_logging
from verifiers.v1.utils.trace_store import TRACES_FILE, append_episode

from kv_cache_eviction.env import EvictionEnv
from kv_cache_eviction.served import Watch
from kv_cache_eviction.task import EvictionTask
from kv_cache_rl.files import whole_text

FIRST_REPLY_CHARACTERS = 120


def evaluate(
    *,
    model: str,
    base_url: str,
    api_key_var: str,
    output_dir: Path,
    resume: bool = False,
    max_concurrent: int | None = 128,
    harness: str | None = None,
    sampling: dict | None = None,
    patience: dict | None = None,
    on_rollout: Callable[[dict], None] | None = None,
    watch: Watch | None = None,
    quiet: bool = True,
    **taskset: object,
) -> list[dict]:
    """Plays every scenario once and gives a row for each, in the taskset's order; `on_rollout` gets them as
    they end, `watch` hears of every reply and every wait before that.

    `output_dir` becomes a run folder like those of `vf-eval`, which `vf-replay` reads. With `resume` the
    rollouts that ended well there are kept and the others repeated; an interrupted run keeps what was done.
    `harness` names another than the package's own, such as "null". `sampling` holds what is asked of the
    model (max_tokens, temperature), `patience` the knobs of the package's own harness (request_timeout,
    max_retries, patience). The rest are arguments of the taskset."""
    folder = Path(output_dir).resolve()
    seat = {"id": harness} if harness else patience
    config = EvalConfig.model_validate(
        {
            "env": {
                "taskset": {"id": "kv-cache-eviction", **taskset},
                **({"agent": {"harness": seat}} if seat else {}),
            },
            "model": model,
            "client": {"base_url": base_url, "api_key_var": api_key_var},
            "sampling": sampling or {},
            "output_dir": folder.parent,
            "run": {"name": folder.name},
            "max_concurrent": max_concurrent,
            "push": False,
        }
    )
    if not quiet:
        setup_logging("INFO")
    with rarely_collected():
        return asyncio.run(played(config, folder, resume, on_rollout or (lambda row: None), watch or Watch()))


@contextmanager
def rarely_collected() -> Iterator[None]:
    """Lets Python's cycle collector look at what is new only, and seldom: dialogues are trees, and
    walking over them and all loaded modules again and again takes an eighth of an evaluation's CPU
    seconds."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def save_settings(config: EvalConfig, folder: Path) -> None:
    """Writes the resolved config as `vf-eval` does, without the one field that `vf-replay` reads as another
    type (`rich`, a default here)."""
    path = write_config(config, folder)
    settings = json.loads(path.read_text())
    del settings["rich"]
    path.write_text(json.dumps(settings, indent=2))


async def played(
    config: EvalConfig, folder: Path, resume: bool, on_rollout: Callable[[dict], None], watch: Watch
) -> list[dict]:
    env = cast(EvictionEnv, vf.load_environment(config.env))
    env.watch = watch
    tasks = list(env.taskset)
    save_settings(config, folder)
    if resume and (folder / TRACES_FILE).exists():
        plan = resumed.load(folder, tasks, 1, lambda episode: env.complete(cast(vf.Episode, episode)))
    else:
        (folder / TRACES_FILE).write_text("")
        plan = plan_rollouts(tasks, 1)
    if resume:
        watch.resumed(sum(bool(kept) for _, kept, _ in plan))
    context = vf.ModelContext(model=config.model, client=config.client, sampling=config.sampling)
    running, writing = asyncio.Semaphore(config.max_concurrent or len(tasks)), asyncio.Lock()

    async def row(task: EvictionTask, kept: list[vf.WireEpisode]) -> dict:
        async def save(episode: vf.Episode) -> None:
            await append_episode(folder, episode, writing)

        slot = env.slots(task)[0]
        episode = cast(vf.Episode, kept[0]) if kept else await env.run_slot(slot, context, running, save)
        outcome = row_of(task, episode, config.model)
        on_rollout(outcome)
        return outcome

    async with env.serving():
        return await gather_rollouts(row(task, kept) for task, kept, _ in plan)


def row_of(task: EvictionTask, episode: vf.Episode, model: str) -> dict:
    """The rollout in numbers. A failed one has an error and no score."""
    trace = episode.traces[0] if episode.traces else None
    usage = trace.usage if trace else None
    outcome = {
        "scenario_id": task.key,
        "difficulty": task.scenario.difficulty,
        "split": task.scenario.split,
        "model": model,
        "error": None,
        **dict.fromkeys(("reward", "normalized", "rewards", "metrics")),
        "log": trace.info.get("actions", []) if trace else [],
        "model_calls": trace.num_turns if trace else 0,
        "prompt_tokens": usage.input_tokens if usage else 0,
        "completion_tokens": usage.completion_tokens if usage else 0,
        "cached_tokens": (usage.cached_input_tokens or 0) if usage else 0,
        "seconds": trace.timing.agent.duration if trace else 0.0,
        "notes": [whole_text(note) for note in trace.info.get("notes", [])] if trace else [],
        "first_reply": first_reply(trace) if trace else "",
    }
    if trace is None or not episode.ok:
        error = episode.last_error if trace is None else trace.last_error or episode.last_error
        why = f"{error.type}: {error.message}" if error else "the rollout failed without a message"
        return outcome | {"error": whole_text(why)}
    report = task.report(trace)
    outcome |= {"reward": report.total, "normalized": report.normalized}
    told = {name: value for name, value in task.metrics(trace).items() if value or name in report.metrics}
    return outcome | {"rewards": report.rewards, "metrics": told}


def first_reply(trace: vf.Trace) -> str:
    """How the first reply begins where it held no tool call; nothing where it did."""
    said = next(iter(trace.assistant_messages), None)
    if said is None or said.tool_calls:
        return ""
    return whole_text((said.content or said.reasoning_content or "").strip()[:FIRST_REPLY_CHARACTERS])
