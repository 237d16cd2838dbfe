"""Takes the pictures of the page for the documents: ``python -m tests.web.pictures``."""

import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.web.watching import until

PLACE = Path(__file__).parents[2] / "results" / "page"
PORT = 7899
PICTURES = {
    "serving": (
        "#/serving?task=hard&agents=lru,stability,watermark_90,qlearning&seed=30000&ticks=4000&pace=0&go=1",
        "document.body.dataset.seconds",
        1180,
    ),
    "episode": (
        "#/episode?scenario=eviction-eval-hard-0000-v2&policy=learned&window=2",
        "document.querySelectorAll('figure svg').length > 5",
        1120,
    ),
}
"""Name -> address, what holds when it is drawn, height in pixels."""


def main() -> None:
    command = [sys.executable, "-c", "from kv_cache_rl.cli import main; main()", "serve", "--port", str(PORT)]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        while not server.stdout.readline().startswith("}"):
            pass
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            for name, (place, drawn, height) in PICTURES.items():
                page = browser.new_page(viewport={"width": 1400, "height": height})
                page.goto(f"http://127.0.0.1:{PORT}/{place}")
                until(page, drawn)
                page.wait_for_timeout(500)
                page.screenshot(path=PLACE / f"{name}.png")
                print(PLACE / f"{name}.png")
            browser.close()
        server.terminate()


if __name__ == "__main__":
    main()
