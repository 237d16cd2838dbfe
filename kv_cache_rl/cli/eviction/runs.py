"""The run folder: config, results, summary, report, and a folder per model with the evaluator's files."""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from kv_cache_rl import ENVIRONMENT_VERSION, __version__
from kv_cache_rl.cli.eviction.findings import findings
from kv_cache_rl.cli.eviction.options import found_scenarios, select_scenarios
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.saved import refuse_replacing
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.files import NotJson, json_value, slug, write_json, write_whole
from kv_cache_rl.reports.eviction.run_config import CONFIG, REPORT, RESULTS, SUMMARY
from kv_cache_rl.reports.eviction.run_config import read_config as read_config

if TYPE_CHECKING:
    from kv_cache_rl.reports.eviction.outcome import Outcome
    from kv_cache_rl.sim.eviction import Scenario


def new_config(
    command: str,
    targets: list[dict],
    difficulty: str,
    split: str,
    num_examples: int,
    seed: int,
    trace: Path | None,
    **more: object,
) -> dict:
    """What was asked for, and with which versions: all that a resumed or repeated run needs."""
    return {
        "command": command,
        "targets": targets,
        "difficulty": difficulty,
        "split": split,
        "num_examples": num_examples,
        "seed": seed,
        "trace": str(Path(trace).resolve()) if trace is not None else None,
        **more,
        "environment_version": ENVIRONMENT_VERSION,
        "package_version": __version__,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def new_folder(parent: Path, targets: Sequence[Mapping]) -> Path:
    """A folder that did not exist before, named by time and models."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    name = f"{stamp}-{'-'.join(slug(target['model'], 'model') for target in targets)}"[:100]
    for number in range(1, 1000):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not parent.is_dir():
                raise
            continue
        return folder
    raise BadInput(f"{parent / name} and 999 more exist; give another --out")


def refuse_other_run(folder: Path, config: Mapping) -> None:
    """Raises BadInput where the folder holds a run that was asked for otherwise, or one without a config."""
    asked = {name: value for name, value in config.items() if name not in ("package_version", "started")}
    refuse_replacing(folder / CONFIG, asked)
    if (folder / RESULTS).exists() and not (folder / CONFIG).exists():
        raise BadInput(f"{folder} holds {RESULTS} of another run; give another --out, or delete the folder")


def scenarios_of(config: Mapping, begun: bool = True) -> dict[str, "Scenario"]:
    """The scenarios of a run, by id; of one that begins, stderr says where there are too few."""
    arguments = (config[key] for key in ("difficulty", "split", "num_examples", "seed", "trace"))
    return {one.id: one for one in (found_scenarios if begun else select_scenarios)(*arguments)}


def resuming(folder: Path) -> str:
    """The command that goes on with a run, to be pasted into a shell."""
    return shlex.join(["kv-cache-rl", "eval", "--resume", str(folder)])


def results_of(folder: Path, config: Mapping, scenarios: Mapping[str, "Scenario"]) -> list["Outcome"]:
    """The rollouts of a run folder, their logs played again.

    Raises Refused where none has finished, a line is damaged, or a number is not what its log earns.
    """
    from kv_cache_rl.reports.eviction.outcome import check_outcome, damaged, numbered_results

    path = folder / RESULTS
    resumable, again = config["command"] == "eval", f"run {config['command']} again"
    remedy = f"delete the line, then: {resuming(folder)}" if resumable else again
    numbered = numbered_results(path, remedy) if path.is_file() else []
    known = {target["model"] for target in config["targets"]}
    for number, outcome in numbered:
        try:
            if outcome.model not in known:
                raise BadInput(
                    f"the model {outcome.model!r:.80} is none of this run ({', '.join(sorted(known)):.200})"
                )
            if outcome.scenario_id not in scenarios:
                raise BadInput(f"the run has no scenario {outcome.scenario_id!r}")
            check_outcome(outcome, scenarios[outcome.scenario_id])
        except Refused as error:
            raise damaged(path, number, error, remedy) from None
    if not numbered:
        remedy = f"go on with: {resuming(folder)}" if resumable else again
        raise BadInput(f"no rollout of {folder} has finished yet; {remedy}")
    return [outcome for _, outcome in numbered]


def ended_well(folder: Path) -> Iterator[tuple[dict, str]]:
    """Each rollout without an error in a folder's results and its line, as far as they can be read."""
    path = folder / RESULTS
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        with suppress(NotJson):
            row = json_value(line)
            if isinstance(row, dict) and row.get("error") is None:
                yield row, line


def finished(folder: Path) -> Counter[str]:
    """Model -> rollouts that ended well, as far as the results of a folder can be read."""
    return Counter(str(row.get("model")) for row, _ in ended_well(folder))


def kept_lines(folder: Path) -> dict[tuple[str, str], str]:
    """(model, scenario) -> the line of each rollout that ended well and is whole."""
    from kv_cache_rl.reports.eviction.outcome import Outcome

    found = {}
    for row, line in ended_well(folder):
        with suppress(Refused):
            outcome = Outcome.from_json(row)
            found[outcome.model, outcome.scenario_id] = line
    return found


def summarize(config: Mapping, outcomes: Sequence["Outcome"], scenarios: Mapping[str, "Scenario"]) -> dict:
    """The run in numbers: rows of the table, paired differences, what the models read and wrote."""
    from kv_cache_rl.intervals import T_INTERVAL
    from kv_cache_rl.reports.eviction.tables import differences, results_rows
    from kv_cache_rl.reports.eviction.usage import usage_rows

    named = {outcome.model for outcome in outcomes}
    hosted = [t["model"] for t in config["targets"] if t.get("base_url") and t["model"] in named]
    return {
        "environment_version": config["environment_version"],
        "package_version": config["package_version"],
        "config": dict(config),
        "interval": f"{T_INTERVAL} over scenarios",
        "rows": [row.to_json() for row in results_rows(outcomes, scenarios)],
        "differences": differences(outcomes),
        "findings": findings(config, outcomes, scenarios),
        "rollouts": len(outcomes),
        "failed_rollouts": sum(outcome.error is not None for outcome in outcomes),
        "model_calls": sum(outcome.model_calls for outcome in outcomes),
        "prompt_tokens": sum(outcome.prompt_tokens for outcome in outcomes),
        "completion_tokens": sum(outcome.completion_tokens for outcome in outcomes),
        "usage": usage_rows(outcomes, hosted, config.get("prices") or None),
    }


def page_of(
    config: Mapping,
    outcomes: Sequence["Outcome"],
    scenarios: Mapping[str, "Scenario"],
    sentences: Sequence[str],
) -> str:
    """The HTML report of a run; `sentences` are its findings."""
    from kv_cache_rl.reports.eviction.page import page

    models = list(dict.fromkeys(outcome.model for outcome in outcomes))
    named = ", ".join(models) if len(models) < 5 else f"{len(models)} policies"
    way = "as chat models, through verifiers" if config["command"] == "eval" else "straight on the simulator"
    about = {
        "scenarios": len({outcome.scenario_id for outcome in outcomes}),
        "rollouts": len(outcomes),
        **{
            name: ", ".join(dict.fromkeys(target.get(name, "full") for target in config["targets"]))
            for name in ("view", "history")
        },
        "source": Path(config["trace"]).name if config["trace"] else f"{config['split']} set",
        "seed": config["seed"],
        "environment version": config["environment_version"],
        "package version": config["package_version"],
        "started": config["started"].replace("T", " "),
    }
    lead = f"A KV cache under pressure, 15 windows per episode, decided by {named}, {way}."
    lead = " ".join([lead, *(f"{sentence}." for sentence in sentences)])
    return page(f"{named} on the KV cache eviction environment", lead, about, outcomes, scenarios)


def write_run(
    folder: Path,
    config: Mapping,
    outcomes: Sequence["Outcome"],
    scenarios: Mapping[str, "Scenario"],
    summary: Mapping,
) -> None:
    """Writes the four files of a run folder."""
    from kv_cache_rl.reports.eviction.outcome import write_results

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, config)
    write_results(folder / RESULTS, outcomes)
    write_json(folder / SUMMARY, summary)
    write_whole(folder / REPORT, page_of(config, outcomes, scenarios, summary["findings"]).encode())
