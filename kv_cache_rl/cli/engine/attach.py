"""``engine attach``: what a running engine's cache does, live, and as a trace file."""

import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.engine.options import requests_option
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.options import RUNNING, WORKLOAD, AsJson
from kv_cache_rl.cli.terminal import Board, console, percent, print_json, waiting
from kv_cache_rl.files import same_file
from kv_cache_rl.reports.tables import plain_table

if TYPE_CHECKING:
    from rich.table import Table

    from kv_cache_rl.adapters.kv_feed import Feed
    from kv_cache_rl.traces.kv_cache import CacheSeen
    from kv_cache_rl.traces.requests import Requests

NO_EVENT = (
    "no batch of KV events came; send the engine requests, and start it with --kv-events-config "
    '\'{"enable_kv_cache_events": true, "publisher": "zmq", "endpoint": "tcp://*:5557"}\''
)


def run_attach(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="tcp://HOST:PORT, where an engine publishes its KV events, or a file of recorded ones.",
        ),
    ],
    out: Annotated[
        Path | None,
        options.out(
            "The trace file to write: the events as they come (an address), or the requests told from them "
            "(a file, or with --requests)."
        ),
    ] = None,
    replay: Annotated[
        str | None,
        options.option(
            WORKLOAD,
            "--replay",
            help="tcp://HOST:PORT, where the engine is asked for batches that were missed.",
        ),
    ] = None,
    requests: Annotated[
        Path | None,
        requests_option("A log of the requests: a trace file of any format that has times."),
    ] = None,
    for_: Annotated[
        float | None,
        options.option(RUNNING, "--for", help="Seconds to stay attached; default: until Ctrl-C.", min=0.1),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Watch the cache of a running engine: what it holds, stores, removes and finds; and record it.

    Needs no vLLM, only kv-cache-rl[engine]. Ctrl-C stops it; the file is whole at any time.

    Example: kv-cache-rl engine attach tcp://127.0.0.1:5557 --replay tcp://127.0.0.1:5558 --out live.jsonl
    """
    options.writable(out, "--out")
    if requests is not None and out is None:
        raise BadInput("--requests is for the trace that is written; give --out FILE, or leave it out")
    if is_address(source):
        events = beside(out, requests)
        if events is not None and requests is not None and same_file(events, requests):
            raise BadInput(f"the events would be written over {requests}; give another --out")
        seen, trouble = attached(source, replay, events, for_, as_json)
    else:
        for name, given in (("--replay", replay), ("--for", for_)):
            if given is not None:
                raise BadInput(f"{name} is for a running engine; {source} is a file, leave it out")
        seen, trouble = recorded(source, as_json), {}
    found = facts(source, seen, trouble)
    if out is not None and (requests is not None or not is_address(source)):
        found |= written(source, seen, requests, out)
    found["out"] = None if out is None else str(out)
    if as_json:
        print_json(found)
    else:
        show(found)


def is_address(source: str) -> bool:
    """Whether a source is an engine's address, and no file."""
    return "://" in source


def beside(out: Path | None, requests: Path | None) -> Path | None:
    """The file that the events are written to as they come: the trace itself, unless a log gives that."""
    if out is None or requests is None:
        return out
    return out.with_name(f"{out.stem}.events.jsonl")


def attached(
    address: str, replay: str | None, path: Path | None, seconds: float | None, quiet: bool
) -> tuple["CacheSeen", dict[str, int]]:
    """What an engine's cache did while this was attached to it, and what was wrong with its messages.

    Raises:
        BadInput: no batch came.
    """
    from kv_cache_rl.adapters.kv_feed import Feed
    from kv_cache_rl.traces.kv_cache import CacheSeen
    from kv_cache_rl.traces.kv_recording import Recording

    seen = CacheSeen()
    with Board(quiet) as board:
        feed = Feed(address, replay, board.say)
        with closing(feed), suppress(KeyboardInterrupt):
            if path is None:
                follow(feed, seen, None, board, seconds)
            else:
                with Recording(path) as recording:
                    follow(feed, seen, recording, board, seconds)
    if not seen.batches:
        raise BadInput(f"{address}: {NO_EVENT}")
    return seen, dict(feed.trouble)


def follow(feed: "Feed", seen: "CacheSeen", recording: Any, board: Board, seconds: float | None) -> None:
    """Takes in batches until the time is over, or Ctrl-C."""
    begun = time.monotonic()
    for batch in feed.batches():
        if batch is not None:
            if recording is not None:
                recording.append(batch)
            seen.take(batch)
        board(lambda: table(facts(feed.address, seen, dict(feed.trouble)), feed.connected))
        if seconds is not None and time.monotonic() - begun >= seconds:
            return


def recorded(source: str, quiet: bool) -> "CacheSeen":
    """What the cache of a recording did. Raises TraceError for a file that is none."""
    from kv_cache_rl.traces.formats import detect
    from kv_cache_rl.traces.kv_events import read_kv_events
    from kv_cache_rl.traces.kv_requests import FORMAT, cache_seen

    if (format := detect(source)) != FORMAT:
        raise BadInput(f"{source} holds requests in {format} format, no KV events; replay it as it is")
    with waiting(f"reading {source}", quiet):
        return cache_seen(read_kv_events(source))


def written(source: str, seen: "CacheSeen", log: Path | None, out: Path) -> dict[str, Any]:
    """Writes the requests as a trace; returns how many, and what was assumed."""
    from kv_cache_rl.traces.lab import write_requests

    found = trace_of(source, seen, log)
    requests = write_requests(out, out.stem, found.arrivals, max(1, found.block_tokens))
    left_out = [f"{count:,} left out: {reason}" for reason, count in found.left_out.items()]
    return {"written": requests, "notes": [*found.notes, *left_out]}


def trace_of(source: str, seen: "CacheSeen", log: Path | None) -> "Requests":
    """The requests that the events show, or those of a log."""
    from kv_cache_rl.traces.formats import requests_of
    from kv_cache_rl.traces.kv_requests import logged_requests, requests_seen
    from kv_cache_rl.traces.reading import Reading, located

    name, reading = (source, Reading()) if is_address(source) else located(source)
    if log is None:
        return requests_seen(name, seen, reading)
    return logged_requests(name, seen, requests_of(log), reading)


def facts(source: str, seen: "CacheSeen", trouble: dict[str, int]) -> dict[str, Any]:
    """What was seen, for programs."""
    from kv_cache_rl.traces.kv_requests import USUAL_BLOCK, notes

    counts = seen.counts
    asked = counts["found"] + counts["computed"]
    return {
        "source": source,
        "batches": seen.batches,
        "span_s": seen.span_s,
        "block_tokens": next(iter(seen.block_tokens), None),
        "held_blocks": len(seen.held),
        "peak_blocks": seen.peak,
        "stored_blocks": counts["stored"],
        "stored_again": counts["again"],
        "removed_blocks": counts["removed"],
        "cleared": counts["cleared"],
        "requests": len(seen.requests),
        "found_blocks": counts["found"],
        "computed_blocks": counts["computed"],
        "written_blocks": counts["written"],
        "found_share": counts["found"] / asked if asked else None,
        "missed_batches": counts["missed"],
        "restarts": counts["restarted"],
        "unknown_events": dict(seen.unknown),
        "trouble": trouble,
        "notes": notes(seen, next(iter(seen.block_tokens), USUAL_BLOCK)) if seen.requests else [],
    }


def table(found: dict[str, Any], connected: bool | None = None) -> "Table":
    """The facts as a table."""
    state = {None: "", True: ": attached", False: ": not connected"}[connected]
    columns = {"": "left", "value": "right", " ": "left"}
    shown = plain_table(f"{found['source']}{state}", columns)
    for row in lines(found):
        shown.add_row(*row)
    return shown


def lines(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and remark of everything seen."""
    share, asked = found["found_share"], found["found_blocks"] + found["computed_blocks"]
    size = found["block_tokens"]
    rows = [
        ("held", f"{found['held_blocks']:,}", f"blocks{f' of {size} tokens' if size else ''} now"),
        ("most held", f"{found['peak_blocks']:,}", "the cache has room for these"),
        (
            "stored",
            f"{found['stored_blocks']:,}",
            f"{found['stored_again']:,} of them again, after they had left",
        ),
        ("removed", f"{found['removed_blocks']:,}", ""),
        ("requests", f"{found['requests']:,}", "that stored a block, as far as stores show"),
        (
            "found",
            percent(share, 1),
            f"{found['found_blocks']:,} of the {asked:,} blocks that these asked for",
        ),
        ("by decoding", f"{found['written_blocks']:,}", "blocks written"),
        ("batches", f"{found['batches']:,}", f"in {found['span_s']:,.1f} s"),
    ]
    for key, remark in (
        ("missed_batches", "batches that the engine no longer keeps, or --replay would bring"),
        ("restarts", "the engine began anew, with an empty cache"),
        ("cleared", "times the cache was cleared"),
    ):
        if found[key]:
            rows.append((key.replace("_", " "), f"{found[key]:,}", remark))
    return rows


def show(found: dict[str, Any]) -> None:
    """Prints the facts, and what is inferred."""
    out = console()
    out.print(table(found))
    for note in found["notes"]:
        out.print(note, soft_wrap=True)
    for what, count in found["trouble"].items():
        out.print(f"{count:,} times: {what}", soft_wrap=True)
    if found["out"] is not None:
        requests = f": {found['written']:,} requests" if "written" in found else ""
        out.print(f"{found['out']}{requests}", soft_wrap=True)
