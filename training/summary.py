"""What the trained models score beside the deciders of the project, and how their trainings went."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.cli.eviction import runs
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.files import read_json, write_json
from kv_cache_rl.intervals import Interval, mean_interval, paired_difference
from kv_cache_rl.reports import canvas
from kv_cache_rl.reports.canvas import BLUE, Sheet
from kv_cache_rl.reports.eviction.outcome import Outcome, from_report
from kv_cache_rl.sim.eviction import DIFFICULTIES, Episode, Scenario, decider
from kv_cache_rl.sim.eviction.episode import play

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIVALS = (
    "learned",
    "tuned",
    "lru",
    "fifo",
    "lfu",
    "largest_first",
    "gdsf",
    "compress_int4",
    "compress_int8",
    "keep",
)
"""The expert, the textbook ranks and the blind rules."""
TIERS = (*DIFFICULTIES, "all")


class SummaryError(Refused):
    """Runs that cannot be compared; says what to do."""


def played(scenario: Scenario, name: str) -> Outcome:
    """A decider's episode. It sees the full view: ranks read numbers that the brief one leaves out."""
    episode = play(Episode(scenario), decider(name))
    return from_report(scenario, name, episode.report(), episode.log)


def outcomes_of(folders: Sequence[Path]) -> dict[str, list[Outcome]]:
    """The rollouts of each model.

    Raises:
        SummaryError: a rollout failed, or two runs have one model name.
    """
    found: dict[str, list[Outcome]] = {}
    for folder in folders:
        config = runs.read_config(folder)
        for outcome in runs.results_of(folder, config, runs.scenarios_of(config)):
            found.setdefault(outcome.model, []).append(outcome)
    for model, outcomes in found.items():
        failed = sum(outcome.error is not None for outcome in outcomes)
        if failed:
            raise SummaryError(
                f"{failed} rollouts of {model} failed; play them again with kv-cache-rl eval --resume"
            )
        if len({outcome.scenario_id for outcome in outcomes}) < len(outcomes):
            raise SummaryError(f"{model} is in several runs; give each model one run")
    return found


def summarize(folders: Sequence[Path], rivals: Sequence[str] = RIVALS) -> dict:
    """Scores of every model and rival by tier, and each model minus every other one."""
    by_model = outcomes_of(folders)
    scenarios = {
        name: scenario
        for folder in folders
        for name, scenario in runs.scenarios_of(runs.read_config(folder)).items()
    }
    models = list(by_model)
    for name in rivals:
        by_model[name] = [played(scenario, name) for scenario in scenarios.values()]
    return {
        "environment_version": ENVIRONMENT_VERSION,
        "models": models,
        "rows": [row for name, outcomes in by_model.items() for row in _rows(name, outcomes)],
        "differences": [
            {"tier": tier, "model": model, "against": other, "normalized": found.to_json()}
            for tier in TIERS
            for model in models
            for other in by_model
            if other != model and (found := _difference(by_model[model], by_model[other], tier)) is not None
        ],
    }


def _of(outcomes: Sequence[Outcome], tier: str) -> list[Outcome]:
    return [one for one in outcomes if tier in ("all", one.difficulty)]


def _difference(mine: Sequence[Outcome], theirs: Sequence[Outcome], tier: str) -> Interval | None:
    return paired_difference(
        *({one.scenario_id: one.normalized or 0.0 for one in _of(side, tier)} for side in (mine, theirs))
    )


def _rows(name: str, outcomes: Sequence[Outcome]) -> list[dict]:
    rows = []
    for tier in TIERS:
        here = _of(outcomes, tier)
        if not here:
            continue
        made = sum(len(window) for one in here for window in one.log)
        invalid = sum((one.metrics or {})["invalid_calls"] for one in here)
        silent = sum((one.metrics or {}).get("text_only_steps", 0.0) for one in here)
        rows.append(
            {
                "model": name, "tier": tier, "scenarios": len(here),
                "normalized": mean_interval([one.normalized or 0.0 for one in here]).to_json(),
                "failures": mean_interval(
                    [(one.metrics or {})["total_failures_metric"] for one in here]
                ).to_json(),
                "calls": made, "invalid_calls": invalid, "replies_without_calls": silent,
                "windows": sum(len(one.log) for one in here),
                "seconds": round(sum(one.seconds for one in here), 1),
                "tokens_read": sum(one.prompt_tokens for one in here),
                "tokens_written": sum(one.completion_tokens for one in here),
            }
        )  # fmt: skip
    return rows


STAGE_FIELDS = {
    "sft": ("examples", "loss", "right", "seconds"),
    "rl": ("episodes", "score", "reward", "spread", "useful", "kl", "seconds"),
}
"""What is kept of a step's line in the log, by the kind of the run."""
_POINTS = 20


def course_of(folders: Sequence[Path]) -> dict:
    """The trainings in their order: what was asked, and the log, of many steps the means of some in a row."""
    stages = []
    for folder in folders:
        plan, log = read_json(folder / "run.json"), _lines(folder / "log.jsonl")
        fields = STAGE_FIELDS[plan["kind"]]
        size = -(-len(log) // _POINTS)
        parts = [log[k : k + size] for k in range(0, len(log), size)]
        points = [
            {
                name: part[-1].get(name)
                if name in (fields[0], "seconds") or None in [one.get(name) for one in part]
                else round(sum(one[name] for one in part) / len(part), 4)
                for name in fields
            }
            for part in parts
        ]
        stages.append({"name": folder.name, "plan": plan, "steps": len(log), "points": points})
    return {"environment_version": ENVIRONMENT_VERSION, "stages": stages}


def _lines(log: Path) -> list[dict]:
    return [json.loads(text) for text in log.read_text().splitlines()]


def course_figure(found: Mapping[str, Any]) -> "Figure":
    """A panel per training: the loss of SFT over examples, the scores of RL over episodes."""
    panels: dict[str, list] = {
        f"{stage['name']}: {name}": [
            (point[STAGE_FIELDS[stage["plan"]["kind"]][0]], point[name]) for point in stage["points"]
        ]
        for stage in found["stages"]
        for name in (("loss", "right") if stage["plan"]["kind"] == "sft" else ("score", "kl"))
    }
    about = "across: examples (SFT), episodes (RL) · loss: per choice in an answer · right: share of choices"
    with canvas.style():
        sheet = Sheet("A language model learns the eviction environment", about, gap=(0.42, 0.62), columns=2)
        figure, grid = canvas.laid_out(len(panels), 3.2, 1.7, sheet)
        for (title, points), axes in zip(panels.items(), grid, strict=True):
            canvas.panel_title(axes, title)
            drawn = [(x, y) for x, y in points if y is not None]
            axes.plot(
                [x for x, _ in drawn],
                [y for _, y in drawn],
                color=BLUE,
                marker="o",
                markersize=2,
                linewidth=1,
            )
    return figure


def write_results(evaluated: Sequence[Path], trained: Sequence[Path], out: Path) -> None:
    """Writes evaluation.json, and of trainings course.json and course.png, into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    if trained:
        course = course_of(trained)
        write_json(out / "course.json", course)
        canvas.save(course_figure(course), out / "course.png")
    write_json(out / "evaluation.json", summarize(evaluated))
