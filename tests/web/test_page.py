"""What people do with the page, in a browser, against the server."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from watching import until

import kv_cache_rl
from kv_cache_rl.reports.eviction.outcome import from_report, write_results
from kv_cache_rl.sim.eviction import DECIDERS, ORACLE, Episode, load_scenarios, play, replay

WEB = Path(kv_cache_rl.__file__).parent / "web"
UPLOT = "1.6.32"
DIGESTS = {
    "uplot.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uplot.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
"""SHA-256 of what `npm pack uplot@1.6.32` holds as dist/uPlot.iife.min.js and dist/uPlot.min.css."""
WINDOWS = range(1, 16)
KEYS = {"evict": "e", "compress": "c", "swap_to_cpu": "s"}


def api(server: str, path: str, body: object = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server + path, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def shown(value: float, digits: int = 3) -> str:
    """A number as the page writes it."""
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def test_no_file_of_the_page_names_another_host():
    for path in WEB.rglob("*"):
        if path.is_file() and path.suffix in (".js", ".css", ".html") and path.name != "uplot.js":
            found = re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]{2,}", path.read_text(), re.IGNORECASE)
            assert not found, f"{path.name}: {found}"


def test_the_chart_library_is_the_published_one_with_its_licence():
    for name, digest in DIGESTS.items():
        assert hashlib.sha256((WEB / name).read_bytes()).hexdigest() == digest, f"{name} of uPlot {UPLOT}"
    assert "MIT" in (WEB / "uplot.LICENSE").read_text()


def test_agents_run_and_end_with_the_score_that_the_api_gives(watched, server):
    page = watched.open("#/serving?task=easy&agents=lru,stability&seed=3&ticks=300&pace=20")
    cell = "document.querySelector('#agents tbody td:nth-child(4)')"
    note = f"seen.add(Number({cell}?.textContent.replaceAll(',', '')) || 0)"
    every = "{subtree: true, childList: true, characterData: true}"
    page.evaluate(
        f"window.seen = new Set(); new MutationObserver(() => {note}).observe(document.body, {every})"
    )
    page.click("#start")
    until(page, "document.body.dataset.seconds")
    ticks = [count for count in page.evaluate("[...seen]") if count]
    assert len(ticks) > 1 and ticks == sorted(ticks), "the numbers move while it runs"
    assert page.locator(".chart canvas").count() == 6
    for agent in ("lru", "stability"):
        body = {"agent": agent, "task": "easy", "seed": 3, "ticks": 300, "tick_logs": False}
        score = api(server, "/api/simulate", body)["session_logs"]["final_score"]
        assert page.inner_text(f"#score-{agent}") == f"{score:.4f}"
    assert page.locator(".badge.completed").count() == 2


def test_a_run_that_is_refused_says_why(watched):
    page = watched.open("#/serving?task=easy&agents=lru")
    page.wait_for_selector("#gpu_blocks")
    page.evaluate("document.querySelector('#gpu_blocks').removeAttribute('min')")
    page.fill("#gpu_blocks", "3")
    page.click("#start")
    assert "16" in page.inner_text(".problem")
    watched.faults = [fault for fault in watched.faults if "422" not in fault]


def test_too_many_agents_are_said_to_be_and_waits_are_in_seconds(watched, server):
    page = watched.open("#/serving?task=easy&agents=lru&seed=3&ticks=300&pace=0&go=1")
    until(page, "document.body.dataset.seconds")
    body = {"agent": "lru", "task": "easy", "seed": 3, "ticks": 300, "tick_logs": False}
    found = api(server, "/api/simulate", body)
    p99 = found["report"]["first_token"]["p99"] * found["traffic"]["tick_s"]
    assert f", {p99:.2f} s" in page.inner_text("#focus")
    for box in page.locator("form input[type=checkbox]").all():
        box.check()
    page.click("#start")
    page.wait_for_selector(".problem")
    assert "at most 16" in page.inner_text(".problem")
    assert page.locator(".badge.failed").count() == page.locator("#agents tbody tr").count()
    watched.faults = [fault for fault in watched.faults if "422" not in fault]


def test_a_run_that_is_cancelled_says_so(watched):
    page = watched.open("#/serving?task=hard&agents=lru,fifo&seed=2&pace=200&go=1")
    page.wait_for_selector(".badge.running")
    page.click("#cancel")
    until(page, "document.querySelectorAll('.badge.cancelled').length === 2")


def test_a_run_folder_opens_down_to_a_call(watched, server):
    page = watched.open("#/eviction")
    page.click("#runs >> text=two-policies")
    page.wait_for_selector("#summary")
    assert page.locator(".cells a").count() == 12
    assert page.locator(".dots a").count() == 12
    found = api(server, "/api/eviction/runs/two-policies")
    mean = sum(row["normalized"] for row in found["rows"]) / 12
    assert page.inner_text(".tile strong >> nth=0") == shown(mean)
    page.click("#episodes a >> nth=0")
    page.wait_for_selector("#calls table, #calls p")
    worst = min(found["rows"], key=lambda row: row["normalized"])
    assert page.inner_text("h1") == worst["scenario_id"]
    assert page.inner_text("#normalised") == shown(worst["normalized"])
    page.wait_for_selector("figure svg")
    first = page.inner_text("#calls")
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelector('.scrub strong').textContent.startsWith('window 2')")
    assert page.inner_text("#calls") != first and "window=2" in page.url
    page.click("#ask")
    page.wait_for_selector("#advice strong")
    assert ORACLE in page.inner_text("#advice")


def test_an_address_opens_what_it_names(watched):
    page = watched.open("#/episode?scenario=eviction-eval-hard-0000-v2&policy=lru&window=7")
    page.wait_for_selector("#calls")
    until(page, "document.querySelector('.scrub strong').textContent.startsWith('window 7')")
    page = watched.open("#/episode?scenario=nothing&policy=lru")
    assert "no scenario" in page.inner_text(".problem")
    watched.faults = [fault for fault in watched.faults if "404" not in fault]


def test_what_is_asked_of_an_element_that_is_not_there_yet_is_waited_for(watched):
    page = watched.open("#/training")
    drawn = "document.body.append(Object.assign(document.createElement('p'), {id: 'late'}))"
    page.evaluate(f"setTimeout(() => {drawn}, 200)")
    until(page, "document.querySelector('#late').textContent === ''")
    with pytest.raises(AssertionError, match=r"#never.*of null"):
        until(page, "document.querySelector('#never').textContent === ''", 0.1)


def test_the_curve_of_a_training_grows_while_it_trains(watched, server, runs):
    page = watched.open("#/training")
    page.wait_for_selector("h1")
    assert "kv-cache-rl serving train" in page.inner_text("#content")
    words = ["serving", "train", "--task", "easy", "--episodes", "100000", "--out", str(runs / "learning")]
    command = [sys.executable, "-c", "from kv_cache_rl.cli import main; main()", *words]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as training:
        try:
            until(page, "document.querySelector('.badge.running') !== null", 240)
            until(page, "document.querySelector('#curve canvas') !== null", 240)
            first = page.inner_text(".tile >> nth=0")
            until(page, f"document.querySelector('.tile').innerText !== {json.dumps(first)}", 240)
        finally:
            training.terminate()
    until(page, "document.querySelector('#trainings .badge.failed') !== null")
    page.click("#curve .numbers summary")
    found = api(server, "/api/trainings/learning/qlearning")
    score = found["curve"][-1]["select"]["easy"]
    until(page, f"document.querySelector('#curve tbody tr:last-child').textContent.includes('{score:.3f}')")
    assert found["status"] == "stopped" and "goes on where it stopped" in page.inner_text("#content")
    later = runs / "later" / "qlearning.log"
    later.parent.mkdir()
    later.touch()
    until(page, "document.querySelector('#curve') === null")
    later.unlink()
    until(page, "document.querySelector('#curve canvas') !== null")
    page = watched.open("#/training?training=learning%2Flru")
    assert "no training" in page.inner_text(".problem")
    watched.faults = [fault for fault in watched.faults if "404" not in fault]


def test_markup_in_names_is_text(watched):
    page = watched.open("#/run?run=marked")
    page.wait_for_selector("#episodes")
    assert "<img src=x" in page.inner_text("#content")
    assert page.locator("#content img").count() == 0 and page.title() != "1"


def play_with(page, choose) -> None:
    """Plays the game to its end; `choose` marks entries of a window and plays it."""
    page.wait_for_selector("#entries tbody tr")
    for window in range(1, 16):
        assert page.inner_text("#at") == f"{window} of 15"
        choose(window)
        until(
            page,
            f"document.querySelector('#at')?.textContent !== '{window} of 15'",
        )
    page.wait_for_selector("#scores")


def score_of(page, scenario_id: str, verbs: list[str]) -> float:
    """The score that `replay` gives to the calls that the game played, one in each window with a verb."""
    with page.expect_download() as waiting:
        page.click("text=Download the calls")
    found = json.loads(Path(waiting.value.path()).read_text())
    assert found["scenario"] == scenario_id
    scenario = next(one for one in load_scenarios(split="train", difficulty="easy") if one.id == scenario_id)
    report = replay(scenario, found["log"])
    assert report.metrics["calls_per_step"] > 0
    played = [[call[0] for call in window if call[0] != "keep"] for window in found["log"]]
    assert played == [[verb] if verb else [] for verb in verbs]
    return report.normalized


def test_an_episode_is_played_with_the_mouse(watched):
    page = watched.open("#/play?tier=easy&scenario=eviction-train-easy-0001-v2")
    page.click("#begin")

    def choose(window):
        page.click(f"#entries tbody tr >> nth={window % 3} >> text={'compress' if window % 2 else 'evict'}")
        page.click("#go")

    play_with(page, choose)
    score = score_of(page, "eviction-train-easy-0001-v2", ["compress" if n % 2 else "evict" for n in WINDOWS])
    assert page.inner_text("#score") == shown(score)
    until(page, "document.querySelectorAll('#scores tbody tr').length === 7")
    assert "learned" in page.inner_text("#scores") and "oracle" in page.inner_text("#scores")


def test_an_episode_is_played_with_the_keyboard_alone(watched):
    page = watched.open("#/play?tier=easy&scenario=eviction-train-easy-0002-v2")
    page.wait_for_selector("#begin")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "begin":
            break
    page.keyboard.press("Enter")

    def choose(window):
        until(page, "document.activeElement.tagName === 'TR'")
        if window % 2:
            page.keyboard.press("ArrowDown")
            page.keyboard.press(list(KEYS.values())[window % 3])
        page.keyboard.press("Enter")

    play_with(page, choose)
    score = score_of(
        page, "eviction-train-easy-0002-v2", [list(KEYS)[n % 3] if n % 2 else "" for n in WINDOWS]
    )
    assert page.inner_text("#score") == shown(score)


def test_curves_are_those_of_the_api(watched, server):
    page = watched.open("#/hierarchy?workload=rag_burst&policies=lru,arc&points=8")
    page.wait_for_selector("#rates")
    body = {"workload": "rag_burst", "policies": ["lru", "arc"], "points": 8, "model": "llama-3.1-8b"}
    found = api(server, "/api/hierarchy/curves", body)
    cells = page.locator("#rates tbody tr:last-child td").all_inner_texts()
    assert cells[2] == f"{100 * found['hit_rate']['lru'][-1]:.1f} %"
    with page.expect_download() as waiting:
        page.click("text=Download as CSV")
    lines = Path(waiting.value.path()).read_text().splitlines()
    assert lines[0].startswith("capacity_bytes,blocks,lru,arc") and len(lines) == len(found["capacities"]) + 1


def test_a_trace_of_ones_own_is_drawn_and_a_bad_one_is_named(watched, tmp_path):
    page = watched.open("#/hierarchy")
    page.wait_for_selector("#rates")
    bad = tmp_path / "bad.jsonl"
    bad.write_text("not a trace\n")
    page.set_input_files("#file", bad)
    page.wait_for_selector(".problem")
    good = tmp_path / "mine.jsonl"
    rows = [
        {"timestamp": 100 * n, "input_length": 1024, "output_length": 1, "hash_ids": [n % 5, 10 + n % 5]}
        for n in range(50)
    ]
    good.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page.set_input_files("#file", good)
    page.wait_for_selector("text=50 requests")
    page.click("#compute")
    page.wait_for_selector("h3:has-text('mine.jsonl')")
    watched.faults = [fault for fault in watched.faults if "422" not in fault]


def test_a_saved_page_opens_without_a_server(watched, browser, tmp_path):
    page = watched.open("#/hierarchy?workload=rag_burst&policies=lru")
    page.wait_for_selector("#rates")
    with page.expect_download() as waiting:
        page.click("#save")
    path = tmp_path / "saved.html"
    waiting.value.save_as(path)
    text = path.read_text()
    assert "<script" not in text and "localhost" not in text and "127.0.0.1" not in text
    alone = browser.new_page()
    asked = []
    alone.on("request", lambda request: asked.append(request.url))
    alone.goto(path.as_uri())
    assert alone.locator("#rates tbody tr").count() == page.locator("#rates tbody tr").count()
    assert alone.evaluate("document.querySelector('.plot img').naturalWidth") > 200
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    alone.close()


def test_a_saved_page_shows_the_settings_that_were_chosen(watched, browser, tmp_path):
    page = watched.open("#/hierarchy?workload=rag_burst&policies=lru,arc&points=8")
    page.wait_for_selector("#rates")
    page.select_option("#points", "20")
    page.uncheck("input[value=arc]")
    page.check("input[value=fifo]")
    with page.expect_download() as waiting:
        page.click("#save")
    path = tmp_path / "saved.html"
    waiting.value.save_as(path)
    page = watched.open("#/serving?task=easy&agents=lru&seed=3")
    page.fill("#seed", "12")
    with page.expect_download() as waiting:
        page.click("#save")
    numbers = tmp_path / "numbers.html"
    waiting.value.save_as(numbers)
    alone = browser.new_page()
    alone.goto(path.as_uri())
    assert alone.input_value("#points") == "20"
    boxes = {name: alone.is_checked(f"input[value={name}]") for name in ("lru", "arc", "fifo")}
    assert boxes == {"lru": True, "arc": False, "fifo": True}
    alone.goto(numbers.as_uri())
    assert alone.input_value("#seed") == "12" and alone.input_value("#task") == "easy"
    alone.close()


def copied(runs, name, number=-1):
    """A run that does not end, copied from the one of two policies, so far as `number` rollouts."""
    folder = runs / name
    folder.mkdir(exist_ok=True)
    config = json.loads((runs / "two-policies" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_examples": number}))
    return folder, (runs / "two-policies" / "results.jsonl").read_text().splitlines(keepends=True)


def test_a_run_that_begins_anew_while_it_is_watched_says_so(watched, runs):
    folder, lines = copied(runs, "restarted")
    (folder / "results.jsonl").write_text("".join(lines[:4]))
    page = watched.open("#/run?run=restarted")
    page.wait_for_selector(".badge >> text=STOPPED")  # no process plays
    time.sleep(1.0)
    (folder / "results.jsonl").write_text(lines[5])
    page.wait_for_selector(".problem")
    assert "begun anew" in page.inner_text(".problem") and "Reload the page" in page.inner_text(".problem")
    shutil.rmtree(folder)


def test_a_run_over_a_whole_set_says_of_how_many(watched, runs):
    folder, lines = copied(runs, "whole")
    (folder / "results.jsonl").write_text("".join(lines[:3]))
    page = watched.open("#/eviction")
    page.wait_for_selector("#runs")
    row = page.inner_text("#runs tbody tr:has-text('whole')")
    assert re.search(r"\b3 of \d+", row) and "null" not in page.inner_text("#runs")
    shutil.rmtree(folder)


def test_an_episode_of_no_committed_scenario_says_what_it_has_not(watched, runs):
    folder, _ = copied(runs, "windows", 1)
    scenario = replace(load_scenarios("easy", num_examples=1)[0], id="trace-window-0001")
    episode = play(Episode(scenario), DECIDERS["lru"]())
    write_results(folder / "results.jsonl", [from_report(scenario, "lru", episode.report(), episode.log)])
    (folder / "lru").mkdir()
    said = {"task": {"data": {"id": scenario.id, "scenario": scenario.to_json()}}, "traces": []}
    (folder / "lru" / "traces.jsonl").write_text(json.dumps(said) + "\n")
    page = watched.open("#/episode?run=windows&model=lru&scenario=trace-window-0001")
    page.wait_for_selector("#unknown")
    assert "not one of the committed ones" in page.inner_text("#unknown")
    assert page.locator("#ask, .problem, figure").count() == 0
    shutil.rmtree(folder)


def test_an_address_that_names_nothing_says_so(watched):
    assert "No run is named" in watched.open("#/run").inner_text(".problem")
    assert watched.open("#/constructor").inner_text("h1") == "No such page"


def test_an_address_with_ticks_that_cannot_be_says_what_they_may_be(watched):
    page = watched.open("#/serving?task=easy&agents=lru&ticks=0&go=1")
    page.wait_for_selector(".problem")
    assert "ticks is '0'; give a whole number from 1 to 50,000" in page.inner_text(".problem")
    watched.faults = [fault for fault in watched.faults if "422" not in fault]


def test_the_address_of_a_curve_keeps_the_trace_that_was_sent(watched, tmp_path):
    page = watched.open("#/hierarchy?policies=lru&points=8")
    page.wait_for_selector("#rates")
    mine = tmp_path / "mine.jsonl"
    row = {"timestamp": 0, "input_length": 1024, "output_length": 1, "hash_ids": [1, 2]}
    mine.write_text((json.dumps(row) + "\n") * 20)
    page.set_input_files("#file", mine)
    page.wait_for_selector("text=mine.jsonl: 20 requests")
    page.click("#compute")
    page.wait_for_selector("h3:has-text('mine.jsonl')")
    address = page.evaluate("location.hash")
    assert "trace=" in address
    page = watched.open(address)
    page.wait_for_selector("h3:has-text('mine.jsonl')")
    page.select_option("#workload", "zipf")
    page.click("#compute")
    page.wait_for_selector("h3:has-text('zipf')")
    assert "trace=" not in page.evaluate("location.hash")
    page = watched.open("#/hierarchy?trace=gone&policies=lru")
    assert "expired" in page.inner_text(".problem")
    watched.faults = [fault for fault in watched.faults if "404" not in fault]


def test_the_map_says_what_the_length_of_a_bar_is(watched):
    page = watched.open("#/episode?scenario=eviction-eval-easy-0000-v2&policy=lru")
    assert "square root of the pages" in page.inner_text(".legend")


PLACES = (
    "#/",
    "#/serving?task=easy&agents=lru&ticks=60&go=1",
    "#/training",
    "#/eviction",
    "#/run?run=two-policies",
    "#/episode?scenario=eviction-eval-easy-0000-v2&policy=lru",
    "#/hierarchy?workload=rag_burst&policies=lru",
    "#/play?scenario=eviction-train-easy-0000-v2",
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_is_in_the_way_of_a_screen_reader(watched, scheme):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python"
    )
    watched.page.emulate_media(color_scheme=scheme)
    for place in PLACES:
        page = watched.open(place)
        page.wait_for_selector("h1")
        if "play" in place:
            page.click("#begin")
            page.wait_for_selector("#entries")
        page.wait_for_load_state("networkidle")
        found = axe.Axe().run(page).response["violations"]
        serious = [
            (place, one["id"], one["nodes"][0]["html"][:120])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert serious == []


@pytest.mark.parametrize("place", PLACES)
def test_a_phone_scrolls_no_page_sideways(watched, place):
    watched.page.set_viewport_size({"width": 390, "height": 844})
    page = watched.open(place)
    page.wait_for_selector("h1")
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
