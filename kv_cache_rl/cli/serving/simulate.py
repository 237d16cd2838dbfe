"""``serving simulate``: one episode under one agent, with its load, its report, a log and a picture of it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from kv_cache_rl.amounts import amount, counted
from kv_cache_rl.cli import chat_options, options
from kv_cache_rl.cli.failures import Interrupted
from kv_cache_rl.cli.options import OUTPUT, AsJson
from kv_cache_rl.cli.serving import chat
from kv_cache_rl.cli.serving.options import Rho, Settings, Ticks, Trace, agent, scenario_of
from kv_cache_rl.cli.serving.play import BASE, agent_of, blamed, play, refuse_agents_files
from kv_cache_rl.cli.terminal import Bar, console, percent, print_json, styled, waiting
from kv_cache_rl.files import naming
from kv_cache_rl.reports.tables import plain_table

if TYPE_CHECKING:
    from kv_cache_rl.sim.serving.demand import Traffic
    from kv_cache_rl.sim.serving.score import Report
    from kv_cache_rl.sim.serving.state import State

BEAT = 256
"""Ticks between two moves of the progress bar."""


def run_simulate(
    policy: Annotated[
        str, agent("What decides. An agent of your own: MODULE:FACTORY or FILE.py:FACTORY.")
    ] = BASE,
    task: Annotated[str, options.task("easy, medium or hard.")] = "medium",
    trace: Trace = None,
    rho: Rho = None,
    seed: Annotated[int, options.seed("Draws the traffic: 0 to 2**64 - 1.", low=None)] = 0,
    ticks: Ticks = None,
    set_: Settings = None,
    model: chat_options.Model = None,
    base_url: chat_options.BaseUrl = None,
    api_key_var: chat_options.KeyVar = None,
    max_tokens: chat_options.MaxTokens = None,
    temperature: chat_options.Temperature = None,
    price_in: chat_options.PriceIn = None,
    price_out: chat_options.PriceOut = None,
    price_cached: chat_options.PriceCached = None,
    timeout: chat_options.Timeout = None,
    max_retries: chat_options.MaxRetries = None,
    patience: chat_options.Patience = None,
    log: Annotated[
        Path | None,
        options.option(OUTPUT, "--log", help="Write every tick to this file, one JSON object a line."),
    ] = None,
    plot: Annotated[Path | None, options.plot("Draw the episode over time")] = None,
    as_json: AsJson = False,
) -> None:
    """Play one episode: what was asked of the server, what it could do, and what became of it.

    A nominal tick (b̄) is the time of an iteration of the busy engine; an idler one runs more of them in it.

    llm is a chat model, which plays 200 ticks unless --ticks says another number.

    Example: kv-cache-rl serving simulate --policy lru --task hard --json

    A chat model: kv-cache-rl serving simulate --policy llm --model qwen3 --base-url http://127.0.0.1:8000/v1
    """
    from kv_cache_rl.adapters.playing import PLANNER, asked, decider
    from kv_cache_rl.sim.serving.dynamics import new_state
    from kv_cache_rl.sim.serving.score import report

    agent = agent_of(policy)
    refuse_agents_files([agent], {"--log": log, "--plot": plot})
    target = chat.target_of(
        [agent],
        model,
        base_url,
        api_key_var,
        {"max_tokens": max_tokens, "temperature": temperature},
        {"timeout": timeout, "max_retries": max_retries, "seconds": patience},
        (price_in, price_out, price_cached),
    )
    scenario = scenario_of(task, trace, rho, chat.bounded(target, ticks), set_)
    options.picture(plot)
    options.writable(log, "--log")
    told: dict[str, Any] | None = None
    if log is None and plot is None and target is None:
        with waiting(f"{agent} plays {task}", as_json), blamed(agent):
            state = play(agent, scenario, seed)
    else:
        state = new_state(scenario, seed)
        if target is not None:
            with chat.playing(target) as player, opened(log) as file:
                records = recorded(state, asked(player), file, as_json, plot is not None)
            told = chat.priced(chat.facts(player.counts.to_json(), target), target)
        else:
            with waiting("the oracle plans", as_json or agent != PLANNER), blamed(agent):
                decide = decider(agent, state)
            with opened(log) as file, blamed(agent):
                records = recorded(state, decide, file, as_json, plot is not None)
        if plot is not None:
            draw(records, plot, f"{agent} on {task}, seed {seed}")
    found = report(state)
    if as_json:
        print_json(
            {"agent": agent, **found.to_json(), "traffic": state.load.facts(), "scenario": asdict(scenario)}
            | ({"chat": told} if told else {})
        )
    else:
        show(agent, state.load, found)
        for sentence in chat.sentences([told], target) if told and target else ():
            console().print(sentence, style="yellow", soft_wrap=True, markup=False)
        for what, path in (("log", log), ("picture", plot)):
            if path is not None:
                typer.echo(f"{what}: {path}")


@contextmanager
def opened(path: Path | None) -> Iterator[TextIO | None]:
    """The file to log to, if any."""
    if path is None:
        yield None
        return
    try:
        with naming(path), path.open("w", encoding="utf-8") as file:
            yield file
    except KeyboardInterrupt:
        raise Interrupted(f"{path} holds the ticks that were played, not the whole episode") from None


def recorded(state: "State", decide, file: TextIO | None, quiet: bool, keep: bool) -> list[dict[str, Any]]:
    """Plays the episode and writes its ticks down; those that are to be drawn are returned."""
    from kv_cache_rl.experiments.serving.log import ticks

    kept, total = [], state.scenario.ticks
    with Bar("ticks", quiet) as bar:
        for one in ticks(state, decide):
            record = one.to_json()
            if file is not None:
                file.write(json.dumps(record) + "\n")
            if keep:
                kept.append(record)
            if one.tick % BEAT == 0:
                bar(min(int(state.seconds * 1e6 / state.load.tick_us), total), total)
    return kept


def draw(records: list[dict[str, Any]], path: Path, title: str) -> None:
    from kv_cache_rl.reports.canvas import save
    from kv_cache_rl.reports.serving.timeline import timeline

    save(timeline(records, title), path)


def show(agent: str, load: "Traffic", found: "Report") -> None:
    """Prints the load, the score and what it is made of."""
    out = console()
    out.print(
        f"lambda {load.arrival_rate:.4g}/s, mu {load.service_rate:.4g}/s, b̄ {load.tick_us / 1e3:.4g} ms, "
        f"rho {load.rho:g}; {load.binding} binds"
    )
    requests = f"{counted(len(load.table), 'request')} in {load.end_us / 1e6:,.1f} s"
    out.print(
        f"{requests}; mu follows from a mean prompt of {load.lengths.prompt:,.0f} and a mean output of "
        f"{load.lengths.output:,.0f} tokens"
    )
    for note in load.notes:
        out.print(note, soft_wrap=True)
    title = f"{agent} on {found.task}, seed {found.seed}: score {found.score:.4f}"
    ended = (f"crashed: {found.crashed}", "red") if found.crashed else "ran its whole time"
    nominal = f"{found.seconds * 1e6 / load.tick_us:,.0f} nominal ticks of {load.tick_us / 1e3:.3g} ms"
    played = f"{found.ticks:,} iterations of the engine in {found.seconds:,.1f} s, which are {nominal}; "
    caption = styled(played, ended, style="table.caption")
    table = plain_table(title, {"": "left", "value": "right", " ": "left"}, caption)
    for line in lines(found):
        table.add_row(*line)
    out.print(table)


def lines(found: "Report") -> list[tuple[str, str, str]]:
    """Name, value and remark of everything in the report."""

    def both(values: dict[str, float], form: str) -> str:
        return " / ".join(form.format(value) if value == value else "-" for value in values.values())

    bound = f"{found.work_completed:,} tokens of the bound's {found.work_bound:,.0f}"
    if not found.work_bound:
        from kv_cache_rl.reports.serving.tables import TOO_SHORT

        bound = TOO_SHORT
    rewards = ", ".join(f"{name} {value:+,.1f}" for name, value in found.rewards.items() if value)
    return [
        ("throughput", percent(found.throughput if found.work_bound else None, 1), bound),
        (
            "latency efficiency",
            f"{100 * found.latency_efficiency:.1f} %",
            "time served over time since arrival, 0 if unfinished",
        ),
        ("cache residency", f"{100 * found.cache_residency:.1f} %", "of returning users' history found"),
        ("arrived", f"{found.arrived:,}", ""),
        (
            "completed",
            f"{found.completed:,}",
            f"chatters / power users: {both(found.completed_by_class, '{:.1%}')}",
        ),
        ("dropped", f"{found.dropped:,}", "their queue was full"),
        ("rejected", f"{found.rejected:,}", ""),
        ("unfinished", f"{found.unfinished:,}", "at the end"),
        ("within the SLA", both(found.sla_attainment, "{:.1%}"), "Free / VIP, of all that arrived"),
        ("wait", both(found.wait, "{:,.1f}"), "p50 / p95 / p99 of admitted, nominal ticks"),
        ("first token", both(found.first_token, "{:,.1f}"), "p50 / p95 / p99 since arrival, nominal ticks"),
        ("fairness", f"{found.fairness:.3f}", "Jain's index over users"),
        ("forced preemptions", f"{found.forced_preemptions:,}", ""),
        ("swapped", amount(found.bytes_swapped), "over the link, both ways"),
        ("reward", f"{found.total_reward:+,.2f}", rewards),
    ]
