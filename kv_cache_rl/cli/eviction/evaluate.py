"""``eval``: policies and models as chat models, through verifiers, to a table, a run folder and a page."""

import importlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.eviction import runs
from kv_cache_rl.cli.eviction.options import (
    Difficulty,
    NumExamples,
    Policies,
    Seed,
    Split,
    Trace,
    choose_policies,
    how_many,
)
from kv_cache_rl.cli.failures import FAILED, BadInput, Interrupted
from kv_cache_rl.cli.options import POLICIES, RUNNING, AsJson
from kv_cache_rl.cli.terminal import console, print_json
from kv_cache_rl.files import slug, write_json

if TYPE_CHECKING:
    from kv_cache_rl.reports.eviction.outcome import Outcome

DEFAULT_POLICIES = ["value_aware", "lru"]
DEFAULT_BASE_URL = "https://api.openai.com/v1"
ENVIRONMENT = "kv_cache_eviction"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def environment_evaluate() -> Callable[..., list[dict]]:
    """The evaluation of the environment package. Raises BadInput where it is not installed."""
    try:
        return importlib.import_module(ENVIRONMENT).evaluate
    except ModuleNotFoundError as error:
        raise BadInput(
            f"the environment package is not installed ({error}); in a checkout run: pip install -e "
            f"environments/{ENVIRONMENT}; elsewhere install the wheel that `make hub` builds, or the "
            "package from the Hub"
        ) from error


def hosted_target(model: str, base_url: str | None, api_key_var: str) -> dict:
    """A model on an OpenAI-compatible server.

    Raises BadInput for a bad URL or a missing key for a remote server.
    """
    url = base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.scheme in ("http", "https") and parts.port != 0 else None
    except ValueError:
        host = None
    if not host:
        raise BadInput(f"--base-url {url!r} is not an address; give something like http://127.0.0.1:8000/v1")
    if not os.environ.get(api_key_var) and host not in LOOPBACK:
        raise BadInput(
            f"{api_key_var} is not set, and {host} wants a key; export it, or name another --api-key-var"
        )
    return {"model": model, "base_url": url, "api_key_var": api_key_var}


def embedded_targets(policies: list[str]) -> list[dict]:
    return [{"model": name, "base_url": None, "api_key_var": "KV_CACHE_RL_NO_KEY"} for name in policies]


@contextmanager
def served(targets: list[dict]) -> Iterator[str | None]:
    """The base URL of the embedded endpoint, started only where a target needs it."""
    if all(target["base_url"] for target in targets):
        yield None
        return
    from kv_cache_rl.adapters.endpoint import serving

    with serving() as base_url:
        yield base_url


class Recorder:
    """Appends each rollout to results.jsonl as it ends, and moves the progress bar."""

    def __init__(self, path: Path, advance: Callable[[], None]) -> None:
        self.path, self.advance, self.count = path, advance, 0
        self._lock = threading.Lock()
        self.path.write_text("")

    def __call__(self, row: Mapping[str, Any]) -> None:
        with self._lock, self.path.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
            self.count += 1
        self.advance()


def evaluate_targets(
    folder: Path, config: Mapping, scenario_count: int, resume: bool, quiet: bool
) -> list["Outcome"]:
    """Every target of the config in turn. Raises Interrupted with the command that goes on."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from kv_cache_rl.reports.eviction.outcome import Outcome

    evaluate, outcomes = environment_evaluate(), []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(
            *columns, console=console(stderr=True), disable=quiet or not sys.stderr.isatty()
        ) as progress,
        served(config["targets"]) as embedded,
    ):
        tasks = [
            progress.add_task(target["model"], total=scenario_count, start=False)
            for target in config["targets"]
        ]
        recorder = Recorder(folder / runs.RESULTS, lambda: None)
        for task, target in zip(tasks, config["targets"], strict=True):
            progress.start_task(task)
            recorder.advance = lambda task=task: progress.advance(task)
            try:
                rows = evaluate(
                    model=target["model"],
                    base_url=target["base_url"] or embedded,
                    api_key_var=target["api_key_var"],
                    **{
                        key: config[key]
                        for key in ("difficulty", "split", "num_examples", "seed", "trace", "max_concurrent")
                    },
                    output_dir=folder / slug(target["model"]),
                    resume=resume,
                    on_rollout=recorder,
                    quiet=True,
                )
            except KeyboardInterrupt:
                done = f"{recorder.count} of {scenario_count * len(tasks)} rollouts are saved"
                raise Interrupted(f"{done}; go on with: kv-cache-rl eval --resume {folder}") from None
            outcomes += [Outcome.from_json(row) for row in rows]
    return outcomes


def finish(
    folder: Path, config: Mapping, outcomes: list["Outcome"], scenarios: Mapping, as_json: bool
) -> None:
    """Writes the run folder, prints the table; exit code 1 where a rollout failed."""
    from kv_cache_rl.reports.eviction.tables import difference_sentences, results_rows, rich_table

    summary = runs.summarize(config, outcomes, scenarios)
    runs.write_run(folder, config, outcomes, scenarios, summary)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if as_json:
        print_json({**summary, "folder": str(folder), "report": str(folder / runs.REPORT)})
    else:
        out = console()
        out.print(
            rich_table(
                results_rows(outcomes, scenarios), f"{len(scenarios)} scenarios, {len(outcomes)} rollouts"
            )
        )
        for sentence in difference_sentences(outcomes):
            out.print(sentence)
        read, wrote = summary["prompt_tokens"], summary["completion_tokens"]
        out.print(f"{summary['model_calls']:,} model calls, {read:,} tokens read, {wrote:,} written")
        out.print(f"results: {folder}\nreport:  {folder / runs.REPORT}", soft_wrap=True)
    for outcome in failed[:5]:
        typer.echo(f"failed: {outcome.model} on {outcome.scenario_id}: {outcome.error}", err=True)
    for target in config["targets"]:
        mine = [outcome for outcome in outcomes if outcome.model == target["model"]]
        if target["base_url"] and all(outcome.error is not None for outcome in mine):
            url, key, name = target["base_url"], target["api_key_var"], target["model"]
            hint = f"does {url} answer, serve {name!r}, and take the key in {key}?"
            typer.echo(f"every rollout of {name} failed; {hint}", err=True)
    if failed:
        typer.echo(
            f"{len(failed)} of {len(outcomes)} rollouts failed; try them again: kv-cache-rl eval --resume "
            f"{folder}",
            err=True,
        )
        raise typer.Exit(FAILED)


def run_eval(
    policy: Policies = None,
    model: Annotated[str | None, options.model("A model on an OpenAI-compatible server.")] = None,
    base_url: Annotated[
        str | None,
        options.option(
            POLICIES, "--base-url", help=f"Its server; default $OPENAI_BASE_URL or {DEFAULT_BASE_URL}."
        ),
    ] = None,
    api_key_var: Annotated[
        str, options.option(POLICIES, "--api-key-var", help="Environment variable that holds its API key.")
    ] = "OPENAI_API_KEY",
    difficulty: Difficulty = "all",
    split: Split = "eval",
    num_examples: NumExamples = None,
    seed: Seed = 42,
    trace: Trace = None,
    max_concurrent: Annotated[
        int, options.option(RUNNING, "--max-concurrent", help="Episodes in flight.", min=1)
    ] = 32,
    resume: Annotated[
        Path | None,
        options.option(
            RUNNING, "--resume", help="Go on with this run folder; other options are read from it."
        ),
    ] = None,
    out: Annotated[Path, options.out("Where the run folder is made.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Evaluate policies and models with verifiers: table, run folder, HTML report.

    Without a policy or model it serves value_aware and lru in turn as chat models; that needs no network and
    no key.

    Example: kv-cache-rl eval --model gpt-5.4-mini --difficulty hard --num-examples 20
    """
    if resume is not None:
        folder, config = resume, runs.read_config(resume)
        if config["command"] != "eval":
            raise BadInput(f"{resume} was made by {config['command']}, which cannot be resumed; run it again")
    else:
        if model is not None and not model.strip():
            raise BadInput("--model is empty; name the model to evaluate, or leave it out")
        if base_url and not model:
            raise BadInput("--base-url is given without --model; name the model to evaluate there")
        policies = choose_policies(policy, [] if model else DEFAULT_POLICIES)
        targets = embedded_targets(policies)
        targets += [hosted_target(model, base_url, api_key_var)] if model else []
        names = [slug(target["model"]) for target in targets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise BadInput(
                f"{twice[0]!r} is named twice, and both would write to one folder; evaluate one of them in "
                "a run of its own"
            )
        total = how_many(num_examples, difficulty)
        config = runs.new_config(
            "eval", targets, difficulty, split, total, seed, trace, max_concurrent=max_concurrent
        )
        folder = None
    environment_evaluate()
    scenarios = runs.scenarios_of(config)
    if 0 < len(scenarios) < config["num_examples"]:
        typer.echo(
            f"only {len(scenarios)} of the {config['num_examples']} scenarios asked for exist; playing those",
            err=True,
        )
    if folder is None:
        folder = runs.new_folder(out, config["targets"])
        write_json(folder / runs.CONFIG, config)
    outcomes = evaluate_targets(folder, config, len(scenarios), resume is not None, quiet=as_json)
    finish(folder, config, outcomes, scenarios, as_json)
