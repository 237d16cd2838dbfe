"""``eval``: policies and models as chat models, through verifiers, to a table, a run folder and a page."""

import importlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.eviction import runs
from kv_cache_rl.cli.eviction.findings import failures
from kv_cache_rl.cli.eviction.live import Live, Recorder
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
from kv_cache_rl.cli.exits import FAILED
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.options import DECODING, POLICIES, RUNNING, AsJson
from kv_cache_rl.cli.saved import only_writer, stoppable
from kv_cache_rl.cli.terminal import console, print_json
from kv_cache_rl.files import slug, whole_text, write_json

if TYPE_CHECKING:
    from kv_cache_rl.reports.eviction.outcome import Outcome

DEFAULT_POLICIES = ["value_aware", "lru"]
DEFAULT_BASE_URL = "https://api.openai.com/v1"
DEFAULT_KEY_VAR = "OPENAI_API_KEY"
MAX_CONCURRENT = 32
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


def evaluate_targets(
    folder: Path, config: Mapping, scenario_count: int, resume: bool, quiet: bool
) -> list["Outcome"]:
    """Every target of the config in turn. Raises Interrupted or BadInput with the command that goes on."""
    from kv_cache_rl.reports.eviction.outcome import Outcome

    evaluate, outcomes, targets = environment_evaluate(), [], config["targets"]
    names = ("difficulty", "split", "num_examples", "seed", "trace", "max_concurrent")
    live = Live(scenario_count, quiet)
    recorder = Recorder(folder / runs.RESULTS, live.advance)

    def go_on() -> str:
        saved = f"{recorder.count} of {scenario_count * len(targets)} rollouts are saved"
        return f"{saved}; go on with: kv-cache-rl eval --resume {folder}"

    with (
        stoppable(folder, go_on),
        live,
        served(targets) as embedded,
    ):
        for target in targets:
            live.begin(target["model"])
            rows = evaluate(
                model=target["model"],
                base_url=target["base_url"] or embedded,
                api_key_var=target["api_key_var"],
                **{name: config[name] for name in names},
                sampling=config.get("sampling") or {},
                patience=config.get("patience") or {},
                output_dir=folder / slug(target["model"], "model"),
                resume=resume,
                on_rollout=recorder,
                watch=live,
                quiet=True,
            )
            outcomes += [Outcome.from_json(row) for row in rows]
    return outcomes


def finish(
    folder: Path, config: Mapping, outcomes: list["Outcome"], scenarios: Mapping, as_json: bool
) -> None:
    """Writes the run folder, prints the table; exit code 1 where a rollout failed."""
    from kv_cache_rl.reports.eviction.tables import difference_sentences, results_rows, rich_table

    summary = runs.summarize(config, outcomes, scenarios)
    runs.write_run(folder, config, outcomes, scenarios, summary)
    if as_json:
        print_json({**summary, "folder": str(folder), "report": str(folder / runs.REPORT)})
    else:
        out = console()
        title = f"{len(scenarios)} scenarios, {len(outcomes)} rollouts"
        out.print(rich_table(results_rows(outcomes, scenarios), title))
        for sentence in difference_sentences(outcomes):
            out.print(sentence)
        for sentence in summary["findings"]:
            out.print(sentence, style="yellow", soft_wrap=True)
        read, wrote = summary["prompt_tokens"], summary["completion_tokens"]
        out.print(f"{summary['model_calls']:,} model calls, {read:,} tokens read, {wrote:,} written")
        out.print(f"results: {folder}\nreport:  {folder / runs.REPORT}", soft_wrap=True)
    for sentence in failures(config, outcomes):
        typer.echo(sentence, err=True)
    if failed := summary["failed_rollouts"]:
        typer.echo(
            f"{failed} of {len(outcomes)} rollouts failed; try them again: kv-cache-rl eval --resume "
            f"{folder}",
            err=True,
        )
        raise typer.Exit(FAILED)


def given(**options: float | None) -> dict:
    """The options that the user gave. Raises BadInput for a number that is none."""
    found = {name: value for name, value in options.items() if value is not None}
    if odd := [name for name, value in found.items() if not math.isfinite(value)]:
        raise BadInput(f"{odd[0].replace('_', ' ')} is {found[odd[0]]}; give a number, or leave it out")
    return found


def resumed_config(folder: Path, base_url: str | None, api_key_var: str | None, now: Mapping) -> dict:
    """The config of a run folder, with the address, key and patience that were given anew.

    Raises BadInput for a folder that cannot be resumed.
    """
    config = runs.read_config(folder)
    if config["command"] != "eval":
        raise BadInput(f"{folder} was made by {config['command']}, which cannot be resumed; run it again")
    if base_url or api_key_var:
        hosted = [target for target in config["targets"] if target["base_url"]]
        if not hosted:
            raise BadInput(
                f"{folder} holds policies only, which need no address; leave out --base-url and --api-key-var"
            )
        for target in hosted:
            key = api_key_var or target["api_key_var"]
            target |= hosted_target(target["model"], base_url or target["base_url"], key)
    config["patience"] = {**(config.get("patience") or {}), **now["patience"]}
    return config | {
        "max_concurrent": now["max_concurrent"] or config.get("max_concurrent") or MAX_CONCURRENT
    }


def targets_of(
    policy: list[str] | None, model: str | None, base_url: str | None, api_key_var: str | None
) -> list[dict]:
    """What a new run evaluates. Raises BadInput where the options do not fit together."""
    if model is not None and not model.strip():
        raise BadInput("--model is empty; name the model to evaluate, or leave it out")
    if model is not None and whole_text(model) != model:
        raise BadInput("--model is not UTF-8; name the model as its server lists it")
    if base_url and not model:
        raise BadInput("--base-url is given without --model; name the model to evaluate there")
    targets = embedded_targets(choose_policies(policy, [] if model else DEFAULT_POLICIES))
    targets += [hosted_target(model, base_url, api_key_var or DEFAULT_KEY_VAR)] if model else []
    names = [slug(target["model"], "model") for target in targets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(
            f"{twice[0]!r} is named twice, and both would write to one folder; evaluate one of them in "
            "a run of its own"
        )
    return targets


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
        str | None,
        options.option(
            POLICIES,
            "--api-key-var",
            help=f"Environment variable that holds its API key; default {DEFAULT_KEY_VAR}.",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, options.option(DECODING, "--max-tokens", help="Longest reply, in tokens.", min=1)
    ] = None,
    temperature: Annotated[float | None, options.temperature()] = None,
    difficulty: Difficulty = "all",
    split: Split = "eval",
    num_examples: NumExamples = None,
    seed: Seed = 42,
    trace: Trace = None,
    max_concurrent: Annotated[
        int | None,
        options.option(
            RUNNING,
            "--max-concurrent",
            help=f"Episodes in flight, default {MAX_CONCURRENT}; a local server with one slot wants 1.",
            min=1,
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        options.option(
            RUNNING, "--timeout", help="Seconds that one model call may take; default 600.", min=1
        ),
    ] = None,
    max_retries: Annotated[
        int | None,
        options.option(
            RUNNING,
            "--max-retries",
            help="Repetitions of a call that was lost or ended in a server error; default 6.",
            min=0,
        ),
    ] = None,
    patience: Annotated[
        float | None,
        options.option(
            RUNNING,
            "--patience",
            help="Seconds that one call may wait for a busy server (429, 503); default 300.",
            min=0,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        options.option(
            RUNNING,
            "--resume",
            help="Go on with this run folder; address, key and the four options above may change.",
        ),
    ] = None,
    out: Annotated[Path, options.out("Where the run folder is made.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Evaluate policies and models with verifiers: table, run folder, HTML report.

    Without a policy or model it serves value_aware and lru as chat models, which needs no network.

    An episode fills about 32,000 tokens of a model's context: serve 40,960.

    Example: kv-cache-rl eval --model gpt-5.4-mini --difficulty hard --num-examples 20
    """
    waits = given(request_timeout=timeout, max_retries=max_retries, patience=patience)
    if resume is not None:
        now = {"patience": waits, "max_concurrent": max_concurrent}
        folder, config = resume, resumed_config(resume, base_url, api_key_var, now)
    else:
        targets = targets_of(policy, model, base_url, api_key_var)
        config = runs.new_config(
            *("eval", targets, difficulty, split, how_many(num_examples, difficulty), seed, trace),
            max_concurrent=max_concurrent or MAX_CONCURRENT,
            sampling=given(max_tokens=max_tokens, temperature=temperature),
            patience=waits,
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
    with only_writer(folder, "evaluation"):
        write_json(folder / runs.CONFIG, config)
        outcomes = evaluate_targets(folder, config, len(scenarios), resume is not None, quiet=as_json)
        finish(folder, config, outcomes, scenarios, as_json)
