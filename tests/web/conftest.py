"""A real server and a real browser, one of each for all tests of the page."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kv_cache_rl.cli import app

sys.path.insert(0, str(Path(__file__).parent))

NAMES = ("chromium", "chromium-browser", "google-chrome")
SERVE = "from kv_cache_rl.cli import main; main()"


@pytest.fixture(scope="session")
def browser():
    """Chromium without a screen; the tests are skipped, with the remedy, where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("there is no browser: apt-get install chromium")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A folder with a run of two policies, and one whose model has markup for a name."""
    folder = tmp_path_factory.mktemp("runs")
    arguments = ["baselines", "-p", "lru,learned", "-n", "6", "--out", str(folder / "two-policies")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    shutil.copytree(folder / "two-policies", folder / "marked")
    for name in ("config.json", "results.jsonl", "summary.json"):
        path = folder / "marked" / name
        path.write_text(path.read_text().replace('"lru"', json.dumps(MARKUP)))
    return folder


MARKUP = "<img src=x onerror='document.title=1'>"


@pytest.fixture(scope="session")
def server(runs):
    """The address of a server that shows these runs."""
    command = [sys.executable, "-c", SERVE, "serve", "--port", "0", "--runs", str(runs), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        text = ""
        assert process.stdout is not None
        for line in process.stdout:
            text += line
            if line.startswith("}"):
                break
        yield json.loads(text)["url"].rstrip("/")
        process.terminate()


@dataclass
class Watched:
    """A page, and what went wrong in it."""

    page: object
    base: str
    faults: list[str] = field(default_factory=list)

    def open(self, place: str):
        self.page.goto("about:blank")
        self.page.goto(f"{self.base}/{place}")
        return self.page


@pytest.fixture
def watched(browser, server):
    """A page of 1400 pixels; that it asked no other host and met no error is checked at the end."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, accept_downloads=True)
    context.set_default_timeout(60_000)
    page = context.new_page()
    one = Watched(page, server)

    def asked(request):
        if not request.url.startswith((server, "data:", "blob:", "about:")):
            one.faults.append(f"asked another host: {request.url}")

    def said(message):
        if message.type == "error":
            one.faults.append(f"said: {message.text}")

    page.on("request", asked)
    page.on("console", said)
    page.on("pageerror", lambda error: one.faults.append(f"raised: {error}"))
    yield one
    context.close()
    assert one.faults == []
