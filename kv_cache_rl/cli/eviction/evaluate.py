"""``eval``: policies and models as chat models, through verifiers, to a table, a run folder and a page."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.amounts import counted
from kv_cache_rl.cli import chat_options, options
from kv_cache_rl.cli.chat_options import (
    BaseUrl,
    KeyVar,
    MaxTokens,
    Model,
    PriceCached,
    PriceIn,
    PriceOut,
    Temperature,
    given,
    hosted_target,
    prices_of,
)
from kv_cache_rl.cli.eviction import runs
from kv_cache_rl.cli.eviction.findings import failures
from kv_cache_rl.cli.eviction.live import Live, Recorder
from kv_cache_rl.cli.eviction.options import (
    Difficulty,
    History,
    NumExamples,
    Policies,
    Seed,
    Split,
    Trace,
    View,
    how_many,
)
from kv_cache_rl.cli.eviction.targets import keep_shown, served, shown, targets_of
from kv_cache_rl.cli.exits import FAILED
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.options import AsJson, said_of
from kv_cache_rl.cli.saved import only_writer, stoppable
from kv_cache_rl.cli.terminal import console, print_json
from kv_cache_rl.files import slug, write_json

if TYPE_CHECKING:
    from kv_cache_rl.reports.eviction.outcome import Outcome

MAX_CONCURRENT = 32
ENVIRONMENT = "kv_cache_eviction"


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


def evaluate_targets(
    folder: Path, config: Mapping, scenario_count: int, resume: bool, quiet: bool
) -> list["Outcome"]:
    """Every target of the config in turn. Raises Interrupted or BadInput with the command that goes on."""
    from kv_cache_rl.reports.eviction.outcome import Outcome

    evaluate, outcomes, targets = environment_evaluate(), [], config["targets"]
    names = ("difficulty", "split", "num_examples", "seed", "trace", "max_concurrent")
    live = Live(scenario_count, quiet, finished=runs.finished(folder) if resume else None)
    recorder = Recorder(folder / runs.RESULTS, live.advance, runs.kept_lines(folder) if resume else {})

    def go_on() -> str:
        saved = f"{recorder.count} of {scenario_count * len(targets)} rollouts are saved"
        return f"{saved}; go on with: {runs.resuming(folder)}"

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
                view=target["view"],
                history=target["history"],
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
    from kv_cache_rl.reports.eviction.usage import usage_table

    summary = runs.summarize(config, outcomes, scenarios)
    runs.write_run(folder, config, outcomes, scenarios, summary)
    if as_json:
        print_json({**summary, "folder": str(folder), "report": str(folder / runs.REPORT)})
    else:
        out = console()
        title = f"{counted(len(scenarios), 'scenario')}, {counted(len(outcomes), 'rollout')}"
        out.print(rich_table(results_rows(outcomes, scenarios), title))
        for sentence in difference_sentences(outcomes):
            out.print(sentence)
        for sentence in summary["findings"]:
            out.print(sentence, style="yellow", soft_wrap=True)
        if summary["usage"]:
            out.print(usage_table(summary["usage"]))
        read, wrote = summary["prompt_tokens"], summary["completion_tokens"]
        tokens = (
            f"{read:,} tokens read, {wrote:,} written"
            if read or wrote or not summary["model_calls"]
            else "tokens not counted"
        )
        out.print(f"{summary['model_calls']:,} model calls, {tokens}")
        out.print(f"results: {folder}\nreport:  {folder / runs.REPORT}", soft_wrap=True)
    for sentence in failures(config, outcomes):
        typer.echo(sentence, err=True)
    if failed := summary["failed_rollouts"]:
        typer.echo(
            f"{failed} of {len(outcomes)} rollouts failed; try them again: {runs.resuming(folder)}",
            err=True,
        )
        raise typer.Exit(FAILED)


KEPT = (
    *("policy", "model", "max_tokens", "temperature", "difficulty", "split", "num_examples", "seed", "trace"),
    "out",
)
"""Parameters of a run that a resumed one keeps."""


def refuse_kept(context: typer.Context) -> None:
    """Raises BadInput for an option of the command line that a resumed run keeps as it was."""
    if option := said_of(context, KEPT):
        raise BadInput(
            f"{option} cannot change in a run that goes on; leave it out, or start a new run without --resume"
        )


def resumed_config(folder: Path, base_url: str | None, api_key_var: str | None, now: Mapping) -> dict:
    """The config of a run folder, with the address, key and patience that were given anew.

    Raises BadInput for a folder that cannot be resumed.
    """
    config = runs.read_config(folder)
    if config["command"] != "eval":
        raise BadInput(f"{folder} was made by {config['command']}, which cannot be resumed; run it again")
    keep_shown(folder, config["targets"], now["view"], now["history"])
    hosted = [target for target in config["targets"] if target["base_url"]]
    for option, said in (
        ("--base-url", base_url),
        ("--api-key-var", api_key_var),
        ("--price-in", now["prices"]),
    ):
        if said and not hosted:
            raise BadInput(
                f"{folder} holds policies only, which have no address, key or price; leave out {option}"
            )
    if base_url or api_key_var:
        for target in hosted:
            key = api_key_var or target["api_key_var"]
            target |= hosted_target(target["model"], base_url or target["base_url"], key)
    config["prices"] = now["prices"] or config.get("prices") or {}
    config["patience"] = {**(config.get("patience") or {}), **now["patience"]}
    return config | {
        "max_concurrent": now["max_concurrent"] or config.get("max_concurrent") or MAX_CONCURRENT
    }


def run_eval(
    context: typer.Context,
    policy: Policies = None,
    model: Model = None,
    base_url: BaseUrl = None,
    api_key_var: KeyVar = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    view: View = None,
    history: History = None,
    difficulty: Difficulty = "all",
    split: Split = "eval",
    num_examples: NumExamples = None,
    seed: Seed = 42,
    trace: Trace = None,
    max_concurrent: chat_options.MaxConcurrent = None,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    price_cached: PriceCached = None,
    timeout: chat_options.Timeout = None,
    max_retries: chat_options.MaxRetries = None,
    patience: chat_options.Patience = None,
    resume: Annotated[
        Path | None,
        options.resume("Go on with this run folder; address, key and the four options above may change."),
    ] = None,
    out: Annotated[Path, options.out("Where the run folder is made.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Evaluate policies and models with verifiers: table, run folder, HTML report.

    Without a policy or model it serves learned and lru as chat models, which needs no network.

    Models play the brief view: serve 16,384 tokens of context, 2,048 with --history window.

    Policies play the full view, of which an episode needs 40,960 tokens.

    Example: kv-cache-rl eval --model gpt-5.4-mini --difficulty hard --num-examples 20
    """
    prices = prices_of(price_in, price_out, price_cached)
    waits = given(request_timeout=timeout, max_retries=max_retries, patience=patience)
    if resume is not None:
        refuse_kept(context)
        now = {
            "patience": waits,
            "max_concurrent": max_concurrent,
            "view": view,
            "history": history,
            "prices": prices,
        }
        folder, config = resume, resumed_config(resume, base_url, api_key_var, now)
    else:
        sampling = given(max_tokens=max_tokens, temperature=temperature)
        of_model = sampling | given(price_in=price_in, price_out=price_out, price_cached=price_cached)
        targets = shown(targets_of(policy, model, base_url, api_key_var, of_model), view, history)
        config = runs.new_config(
            *("eval", targets, difficulty, split, how_many(num_examples, difficulty), seed, trace),
            max_concurrent=max_concurrent or MAX_CONCURRENT,
            sampling=sampling,
            patience=waits,
            prices=prices,
        )
        folder = None
    environment_evaluate()
    scenarios = runs.scenarios_of(config, begun=resume is not None)
    if folder is None:
        folder = runs.new_folder(out, config["targets"])
    with only_writer(folder, "evaluation"):
        write_json(folder / runs.CONFIG, config)
        outcomes = evaluate_targets(folder, config, len(scenarios), resume is not None, quiet=as_json)
        finish(folder, config, outcomes, scenarios, as_json)
