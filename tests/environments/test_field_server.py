"""`kv-cache-rl eval` against servers as they are in the field: a score, or a sentence to act on."""

import json
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from scripted_model import calls, cut, observation, refuses, says, serving
from typer.testing import CliRunner

from kv_cache_rl.adapters import patience
from kv_cache_rl.cli import app

SHARED = Path(__file__).parents[2] / "../shared/cases/chat_server.py"
FULL = "This model's maximum context length is 8192 tokens, the messages have 9000. Reduce their length."


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    """evaluate(url, *options) → (exit code, the JSON on stdout or None, stderr) of one easy scenario."""
    monkeypatch.chdir(tmp_path)

    def run(base_url: str, *options: object):
        asked = [
            "eval",
            "--model",
            "m",
            "--base-url",
            base_url,
            "-n",
            "1",
            "-d",
            "easy",
            "--view",
            "full",
            "--json",
        ]
        done = CliRunner().invoke(app, [*asked, *map(str, options)])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, json.loads(done.stdout) if done.stdout else None, done.stderr

    return run


def score_of(summary: dict) -> float:
    return next(row for row in summary["rows"] if row["policy"] == "m")["reward"]["mean"]


@contextmanager
def field_server(mode: str, log: Path):
    """The shared script that behaves as a server of the field, in that mode."""
    if not SHARED.is_file():
        pytest.skip(f"{SHARED.resolve()} is not at hand")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(SHARED), mode, str(port), str(log)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(200):
                try:
                    httpx.get(f"http://127.0.0.1:{port}/v1/models", trust_env=False)
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


MODES = {
    "strict_content": None,
    "strict_empty": "15 of 15 replies held no tool call; the first begins with 'I wait.'",
    "context": "the dialogue outgrew the model's context after 6 of 15 model calls",
    "rate": None,
    "text_calls": "15 of 15 replies held no tool call; the first begins with '<tool_call>': does the server",
    "empty_args": None,
    "double": "15 of 15 calls were refused, most often: compress: the arguments must be an object",
    "truncated": "15 of 15 replies were cut at a length limit",
    "prefix": "15 of 15 calls were refused, most often: unknown tool 'functions.compress'",
    "extra": "15 of 15 calls were refused, most often: compress: unknown argument 'reason'",
    "many": None,
    "u2028": None,
}
"""Mode → what is said beside the score."""


@pytest.mark.parametrize("mode", MODES)
def test_the_shared_field_server_ends_in_a_scored_run_in_every_mode(evaluate, tmp_path, monkeypatch, mode):
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 1.0)
    with field_server(mode, tmp_path / "log.jsonl") as url:
        code, summary, err = evaluate(url, "--max-concurrent", 1)
    assert (code, err, summary["failed_rollouts"]) == (0, "", 0)
    assert isinstance(score_of(summary), float)
    said = " ".join(summary["findings"])
    assert (MODES[mode] or "") in said
    if MODES[mode] is None:  # compressing one entry again and again is refused, and that is all
        assert all(" calls were refused, most often: " in sentence for sentence in summary["findings"])
    page = Path(summary["report"]).read_text()
    if MODES[mode]:
        assert MODES[mode].split(";")[0].split("'")[0] in page


def keeps(turn: int, body: dict) -> dict:
    return calls(("keep", {}))


def test_a_truncated_rollout_has_a_score_and_resume_does_not_repeat_it(evaluate, tmp_path):
    with serving(lambda turn, body: refuses(400, FULL) if turn == 6 else keeps(turn, body)) as model:
        code, summary, _ = evaluate(model.base_url)
        asked = len(model.requests)
        again = CliRunner().invoke(app, ["eval", "--resume", summary["folder"], "--json"])
        assert len(model.requests) == asked == 7
    assert code == again.exit_code == 0
    resumed = json.loads(again.stdout)
    assert (resumed["rows"], resumed["findings"]) == (summary["rows"], summary["findings"])
    assert "in 1 of 1 rollouts the dialogue outgrew" in summary["findings"][0]


def test_resume_takes_a_new_address_and_new_limits(evaluate):
    with serving(lambda turn, body: refuses(500, "out of memory")) as model:
        code, summary, err = evaluate(model.base_url, "--max-retries", 0)
    assert code == 1 and f"{model.base_url} answers, but fails; its log says why" in err
    with serving(keeps) as elsewhere:
        options = ["--base-url", elsewhere.base_url, "--max-concurrent", "1", "--timeout", "60", "--json"]
        done = CliRunner().invoke(app, ["eval", "--resume", summary["folder"], *options])
        assert (done.exit_code, len(elsewhere.requests)) == (0, 15)
    config = json.loads((Path(summary["folder"]) / "config.json").read_text())
    assert config["targets"][0]["base_url"] == elsewhere.base_url
    assert (config["max_concurrent"], config["patience"]) == (1, {"max_retries": 0, "request_timeout": 60})


def test_what_is_asked_of_the_model_goes_out_with_every_call(evaluate):
    with serving(keeps) as model:
        code, summary, _ = evaluate(model.base_url, "--max-tokens", 300, "--temperature", 0.5)
    assert code == 0 and summary["findings"] == []
    assert {(body["max_tokens"], body["temperature"]) for body in model.requests} == {(300, 0.5)}


def test_replies_cut_by_max_tokens_are_said(evaluate):
    def script(turn: int, body: dict) -> dict:
        ids = observation(body)["visible_seq_ids"]
        return cut(says("I think")) if turn % 2 else calls(("evict", {"seq_id": ids[0]}))

    with serving(script) as model:
        _, summary, _ = evaluate(model.base_url, "--max-tokens", 2)
    assert "7 of 15 replies were cut at a length limit (finish_reason 'length')" in summary["findings"][0]


@pytest.mark.parametrize(
    ("failure", "options", "hint"),
    [
        (refuses(401, "bad key"), (), "does not take the key in OPENAI_API_KEY"),
        (refuses(404, "no model m"), (), "no model 'm'; --base-url usually ends in /v1"),
        (
            refuses(400, FULL),
            (),
            "the first prompt alone does not fit the model's context; serve 40,960 tokens for view full",
        ),
        (
            refuses(429, "slow", retry_after="90"),
            ("--patience", 1),
            "lower --max-concurrent or raise --patience",
        ),
        (refuses(400, "unknown field"), (), "refuses the request; its words above say why"),
        ({"fails": "hang"}, ("--timeout", 1, "--max-retries", 0), "is slow; raise --timeout"),
    ],
    ids=["key", "model", "context", "busy", "request", "slow"],
)
def test_the_closing_hint_fits_what_happened(evaluate, failure, options, hint):
    with serving(lambda turn, body: failure) as model:
        code, summary, err = evaluate(model.base_url, *options)
    assert (code, summary["failed_rollouts"]) == (1, 1)
    assert hint in err and "every rollout of m failed" in err
    assert f"kv-cache-rl eval --resume {summary['folder']}" in err


def test_no_server_at_the_address_is_said_with_the_address_within_seconds(evaluate):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    code, _, err = evaluate(url)
    assert code == 1
    assert f"({url}); gave up after 4 tries" in err and f"does {url} answer" in err
