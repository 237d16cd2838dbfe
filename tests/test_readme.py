"""The README: short, in its order, and true. Its code is run by test_docs.py, as that of every page."""

import re

from pages import OUTPUT, ROOT, blocks, prose

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")


def test_the_readme_is_read_in_four_minutes():
    assert len(TEXT.splitlines()) <= 165
    assert [line for _, line in prose(README) if len(line) > 100] == []


def test_its_first_screen_says_what_it_is_shows_an_episode_and_a_result_and_runs():
    places = [
        TEXT.index(mark)
        for mark in (
            "A laboratory",
            "--observe-->",
            f"<!-- {OUTPUT}",
            "table: eviction-line",
            "make eval   ",
            "make test   ",
        )
    ]
    assert places == sorted(places)
    assert TEXT[: places[-1]].count("\n") < 45


def test_its_first_screen_leads_to_the_page_of_questions():
    assert TEXT.index("docs/i_want_to.md") < TEXT.index("## Run it")


def test_it_has_every_world_with_a_result_and_one_table():
    for world in ("eviction", "hierarchy", "serving", "stability", "paged"):
        (section,) = re.findall(rf"\*\*\[[\w ]+\]\(docs/worlds/{world}\.md\)\.\*\*.*?\n\n", TEXT, re.S)
        assert re.search(r"<!-- table: [\w-]+-line -->[^<]+<!-- end -->", section), world
    assert TEXT.count("table: eviction-hard") == 1


def test_it_has_no_badges():
    assert "![" not in TEXT


def test_the_only_code_it_does_not_run_installs_or_needs_a_network():
    kept = [block.mark for block in blocks(README) if block.mark.startswith("not run")]
    assert len(kept) == 2
    assert all("install" in mark or "network" in mark for mark in kept)
