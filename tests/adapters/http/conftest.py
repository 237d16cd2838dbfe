"""A server as an app, asked without a network; and run folders to look into."""

import json
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from kv_cache_rl.adapters.http.app import create_app
from kv_cache_rl.adapters.http.limits import Limits
from kv_cache_rl.reports.eviction.outcome import from_report, write_results
from kv_cache_rl.reports.eviction.run_config import CONFIG, RESULTS, SUMMARY
from kv_cache_rl.sim.eviction import DECIDERS, Episode, load_scenarios, play


class Asked:
    """ask("POST", path, json=…) → the answer; `app` is the server."""

    def __init__(self, app, portal, client):
        self.app, self.portal, self.client = app, portal, client

    @property
    def lab(self):
        return self.app.state.lab

    def __call__(self, method, path, **given):
        return self.portal.call(partial(self.client.request, method, path, **given))

    def error(self, method, path, status, **given):
        """The error with which this is answered."""
        answer = self(method, path, **given)
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert set(error) == {"status", "message", "field", "range"} and error["status"] == status
        return error


@contextmanager
def asking(limits=Limits(), **given):  # noqa: B008
    app = create_app(limits, **given)
    with start_blocking_portal() as portal:
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:7860", timeout=600
        )
        yield Asked(app, portal, client)
        app.state.lab.close()


@pytest.fixture(scope="package")
def ask():
    with asking() as one:
        yield one


@pytest.fixture
def asked_with():
    """asked_with(limits=…, runs=…) → an `ask` of a server of its own."""
    opened = []

    def make(**given):
        opened.append(asking(**given))
        return opened[-1].__enter__()

    yield make
    for one in opened:
        one.__exit__(None, None, None)


def config_of(models, examples):
    targets = [{"model": m, "base_url": None, "view": "full", "history": "full"} for m in models]
    from kv_cache_rl import ENVIRONMENT_VERSION

    return {
        "command": "eval",
        "targets": targets,
        "difficulty": "easy",
        "split": "eval",
        "trace": None,
        "num_examples": examples,
        "seed": 42,
        "environment_version": ENVIRONMENT_VERSION,
        "package_version": "0",
        "started": "2026-01-01T00:00:00+00:00",
    }


@pytest.fixture
def runs(tmp_path):
    """A folder with one finished run, `done`, of two policies on two scenarios."""
    folder = tmp_path / "runs" / "done"
    folder.mkdir(parents=True)
    outcomes = []
    for model in ("lru", "keep"):
        for scenario in load_scenarios("easy", num_examples=2):
            episode = play(Episode(scenario), DECIDERS[model]())
            outcomes.append(from_report(scenario, model, episode.report(), episode.log))
    (folder / CONFIG).write_text(json.dumps(config_of(("lru", "keep"), 2)))
    write_results(folder / RESULTS, outcomes)
    (folder / SUMMARY).write_text(json.dumps({"rows": [], "config": {"secret": "x"}}))
    return Path(tmp_path / "runs")
