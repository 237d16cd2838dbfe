"""Run folders of `kv-cache-rl eval` and `baselines`, read while they grow; nothing outside them is.

DIR/RUN/config.json   results.jsonl (a line per rollout, as it ends)   MODEL/traces.jsonl (the dialogues)
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from kv_cache_rl.adapters.http import episodes
from kv_cache_rl.adapters.http.errors import Problem
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.files import NotJson, holds, json_value, regular, slug
from kv_cache_rl.reports.eviction.outcome import Outcome, check_outcome
from kv_cache_rl.reports.eviction.run_config import CONFIG, RESULTS, SUMMARY, read_config
from kv_cache_rl.sim.eviction import Scenario, ScenarioError, load_scenarios
from kv_cache_rl.sim.eviction.scenarios import committed

TRACES = "traces.jsonl"
MOST_BYTES = 64 * 2**20
"""Of a file, as much as is read."""
MOST_RUNS = 500
"""Run folders that a list holds, the newest."""
SHOWN = (
    *("command", "difficulty", "split", "num_examples", "seed", "max_concurrent", "sampling", "prices"),
    *("environment_version", "package_version", "started"),
)
"""Fields of a config that are told: the rest names files and environment variables of this machine."""


class Runs:
    """The run folders in a folder.

    Args:
        root: where they are; None where the server was not told of any.
    """

    def __init__(self, root: Path | None) -> None:
        self.root = None if root is None else root.resolve()

    def names(self) -> list[str]:
        """The folders that hold a run, newest first. A link that leads out of the root is no run."""
        if self.root is None or not self.root.is_dir():
            return []
        try:
            found = [one for one in self.root.iterdir() if inside(one / CONFIG, self.root)]
        except OSError as error:
            what = f"the folder of runs cannot be read ({error.strerror})"
            raise Problem(503, f"{what}; its owner makes it readable") from None
        dated = sorted(found, key=lambda one: (changed(one / CONFIG), one.name), reverse=True)
        return [one.name for one in dated[:MOST_RUNS]]

    def folder(self, name: str) -> Path:
        """The folder of a run below the root, links followed. Raises Problem (404) for any other name."""
        one_part = name not in ("", ".", "..") and Path(name).name == name
        if self.root is None or not one_part or not inside(self.root / name / CONFIG, self.root):
            where = "no --runs DIR was given" if self.root is None else "GET /api/eviction/runs lists them"
            raise Problem(404, f"there is no run {name[:80]!r}; {where}", "run")
        return self.root / name

    def file(self, name: str, *parts: str) -> Path | None:
        """A file of a run, or None where it has none there; links out of the run's folder lead nowhere."""
        folder = self.folder(name)
        path = folder.joinpath(*parts)
        return regular(path) if inside(path, folder) else None

    def config(self, name: str) -> dict[str, Any]:
        """What the run was asked for. Raises Problem where this release cannot read it."""
        folder = self.folder(name)
        try:
            return read_config(folder)
        except Refused as wrong:
            raise Problem(422, str(wrong).replace(f"{self.root}/", ""), "run") from None

    def listed(self, name: str) -> dict[str, Any]:
        """A run in a list: what it is, how far it is, or why it cannot be read."""
        try:
            config = self.config(name)
        except Problem as wrong:
            return {
                "run": name,
                "problem": str(wrong),
                "config": None,
                "done": 0,
                "failed": 0,
                "expected": None,
            }
        rows = [row for _, row in self.rows(name)]
        return {
            "run": name,
            "problem": None,
            "config": shown(config),
            "done": len(rows),
            "failed": sum(row["error"] is not None for row in rows),
            "expected": expected(config),
        }

    def opened(self, name: str) -> dict[str, Any]:
        """A run with a row for each rollout so far, whether a process plays on, and its summary once it has
        ended.
        """
        self.folder(name)
        found, size = self.listed(name), 0
        if found["problem"]:
            raise Problem(422, found["problem"], "run")
        rows = []
        for size, row in self.rows(name):  # noqa: B007
            rows.append(row)
        running = status_of(self.folder(name)) == "running"
        return {**found, "rows": rows, "read_to": size, "summary": self.summary(name), "running": running}

    def summary(self, name: str) -> dict[str, Any] | None:
        """The tables of the run; None while it runs."""
        path = self.file(name, SUMMARY)
        if path is None:
            return None
        try:
            found = json_value(path.read_bytes()[:MOST_BYTES])
        except NotJson:
            return None
        return (
            {key: value for key, value in found.items() if key != "config"}
            if isinstance(found, dict)
            else None
        )

    def rows(self, name: str, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """(position after the line, row) of each whole line from a position on; a line that cannot be read is
        a row with its problem.
        """
        for after, line in lines(self.file(name, RESULTS), start):
            yield after, row_of(line)

    def new_rows(self, name: str, start: int) -> list[tuple[int, dict[str, Any]]]:
        """`rows` after a position that an event had. Raises Problem where no line begins there."""
        path = self.file(name, RESULTS)
        if path is not None and start:
            with path.open("rb") as file:
                file.seek(start - 1)
                if file.read(1) != b"\n":
                    what = f"no line of the run begins at {start:,}, so it may have begun anew"
                    raise Problem(
                        422,
                        f"{what}; open it again, or give the id of an event of this stream",
                        "Last-Event-ID",
                    )
        return list(self.rows(name, start))

    def outcome(self, name: str, model: str, scenario: str) -> Outcome:
        """A rollout of a run. Raises Problem where there is none, or its line cannot be used."""
        for _, line in lines(self.file(name, RESULTS), 0):
            row = row_of(line)
            if (row["model"], row["scenario_id"]) == (model, scenario):
                if row["problem"]:
                    raise Problem(422, f"the line of this rollout is damaged: {row['problem']}", "run")
                return Outcome.from_json(json_value(line))
        what = f"the run has no rollout of {model[:80]!r} on {scenario[:80]!r}"
        raise Problem(
            404, f"{what} yet; GET /api/eviction/runs/{name[:80]} lists those that ended", "scenario"
        )

    def episode(self, name: str, model: str, scenario_id: str) -> dict[str, Any]:
        """A rollout with all that a page shows of it: played again from its log, and as it was said."""
        config = self.config(name)
        outcome = self.outcome(name, model, scenario_id)
        trace = self.trace(name, model, scenario_id)
        scenario = scenario_of(scenario_id, trace)
        try:
            check_outcome(outcome, scenario)
        except Refused as wrong:
            raise Problem(422, f"the line of this rollout is damaged: {wrong}", "run") from None
        view = next((t["view"] for t in config["targets"] if t["model"] == model), "full")
        found = episodes.told(scenario, episodes.by_log(outcome.log, scenario), view)
        row = {key: value for key, value in outcome.to_json().items() if key != "log"}
        said = None if trace is None else dialogue_of(trace)
        known = scenario_id in (committed(scenario_id) or {})
        of_run = {"run": name, "model": model, "row": row, "committed": known}
        return {**of_run, **found, "dialogue": said or found["dialogue"]}

    def trace(self, name: str, model: str, scenario_id: str) -> dict[str, Any] | None:
        """What the evaluator wrote of a rollout, as it wrote it; None where it is not at hand."""
        path, wanted, found = self.file(name, slug(model, "model"), TRACES), f'"{scenario_id}"'.encode(), None
        for _, line in lines(path, 0):
            if wanted not in line:
                continue
            try:
                value = json_value(line)
            except NotJson:
                continue
            if isinstance(value, dict) and at(value, "task", "data", "id") == scenario_id:
                found = value
        return found


def inside(path: Path, root: Path) -> bool:
    """Whether a path leads to a plain file below `root`, links followed."""
    try:
        return path.is_file() and path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):
        return False


def changed(path: Path) -> float:
    """When a file was last written, in seconds; 0 where it was deleted meanwhile."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def lines(path: Path | None, start: int) -> Iterator[tuple[int, bytes]]:
    """(position after it, line) of each line that is whole: the last one may still be written."""
    if path is None:
        return
    with path.open("rb") as file:
        file.seek(start)
        left = MOST_BYTES
        while left > 0 and (line := file.readline(left)).endswith(b"\n"):
            left -= len(line)
            if line.strip():
                yield file.tell(), line


NOT_READ: dict[str, Any] = {field: None for field in Outcome.__dataclass_fields__ if field != "log"}


def row_of(line: bytes) -> dict[str, Any]:
    """A line of the results without its log."""
    try:
        row = Outcome.from_json(json_value(line)).to_json()
    except Refused as wrong:
        return {**NOT_READ, "error": "this line cannot be read", "problem": str(wrong)}
    del row["log"]
    return {**row, "problem": None}


def shown(config: dict[str, Any]) -> dict[str, Any]:
    """What is told of a config."""
    targets = [
        {
            "model": target["model"],
            "view": target["view"],
            "history": target["history"],
            "base_url": without_login(target["base_url"]) if target["base_url"] else None,
        }
        for target in config["targets"]
    ]
    trace = Path(config["trace"]).name if config["trace"] else None
    return {"targets": targets, "trace": trace, **{name: config.get(name) for name in SHOWN}}


def without_login(url: str) -> str:
    """An address without the name, the password and the query that it may hold."""
    try:
        parts = urlsplit(url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        return ""


def expected(config: dict[str, Any]) -> int | None:
    """Rollouts that the run is to have; None where it plays all of a set that is not at hand."""
    asked, targets = config["num_examples"], len(config["targets"])
    if config["trace"] is None:
        try:
            return targets * len(load_scenarios(config["difficulty"], config["split"], asked))
        except ScenarioError:
            pass
    return None if asked < 0 else asked * targets


def scenario_of(name: str, trace: dict[str, Any] | None) -> Scenario:
    """The scenario of a rollout: a committed one, or the one that was written beside its dialogue."""
    by_id = committed(name) or {}
    if name in by_id:
        return by_id[name]
    written = None if trace is None else at(trace, "task", "data", "scenario")
    if written is None:
        what = f"the scenario {name[:80]!r} is none of the committed ones, and no dialogue holds it"
        raise Problem(422, f"{what}; use kv-cache-rl report on the folder", "scenario")
    return Scenario.from_json(written, "the scenario of this rollout")


def at(value: Any, *keys: str) -> Any:
    """What stands below these keys; None where nothing does."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def dialogue_of(trace: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of a rollout as they were said, each with its window, replies with tokens and seconds."""
    first = next((one for one in listed(trace.get("traces")) if isinstance(one, dict)), {})
    calls = {str(at(call, "node")): call for call in listed(first.get("calls"))}
    messages, window = [], 1
    for number, node in enumerate(listed(first.get("nodes"))):
        message = at(node, "message")
        if not isinstance(message, dict):
            continue
        role = str(message.get("role"))
        found: dict[str, Any] = {
            "role": role,
            "window": 0 if role == "system" else window,
            "content": text_of(message.get("content")),
        }
        if thought := message.get("reasoning_content"):
            found["reasoning"] = text_of(thought)
        if asked := message.get("tool_calls"):
            found["tool_calls"] = [call_of(one) for one in listed(asked) if isinstance(one, dict)]
        if call := calls.get(str(number)):
            found["usage"] = at(call, "usage")
            ends = at(call, "time", "start"), at(call, "time", "end")
            found["seconds"] = (
                ends[1] - ends[0] if all(isinstance(end, int | float) for end in ends) else None
            )
        messages.append(found)
        window += role == "assistant"
    return messages


def listed(value: Any) -> list:
    """The value where it is a list; none of it where it is anything else."""
    return value if isinstance(value, list) else []


def text_of(content: Any) -> str:
    """The text of a message, whatever it is written as."""
    if isinstance(content, list):
        return "".join(str(at(part, "text") or "") for part in content)
    return "" if content is None else str(content)


def call_of(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call in OpenAI's form."""
    inner = call.get("function") if isinstance(call.get("function"), dict) else call
    named = {"name": str(inner.get("name")), "arguments": text_of(inner.get("arguments"))}
    return {"id": str(call.get("id")), "type": "function", "function": named}


def status_of(folder: Path) -> str:
    """Whether a process writes into the folder: `running` or `stopped`."""
    looked = os.open(folder, os.O_RDONLY)
    try:
        return "stopped" if holds(looked, alone=False) else "running"
    finally:
        os.close(looked)
