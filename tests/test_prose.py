"""How the documents read: short lines, plain words, links and names that lead somewhere, one glossary."""

import importlib
import re

import pytest
from pages import PAGES, ROOT, SOURCES, name, prose

from kv_cache_rl.reports.documents.api import FACES

COMING = ROOT / "docs" / "coming_from.md"
API = ROOT / "docs" / "api.md"
LISTED = re.compile(r"::: (\S+)\n    options:\n      members: \[(.*)\]")
"""Module and names of a directive of the API page."""
SITE = sorted((ROOT / "docs").rglob("*.md"))


PLAIN = [*SITE, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PERSONS = (
    r"\b(whom|who(so)?ever|(no|some|any|every)body|(some|any|every)one|strangers?|he|him|his|she|hers?"
    r"|bout|deed|fought|shred)\b"
)
"""Words for persons, which things are not, and riddles. A user is "they"."""
SAID = ("eviction/prompt.py", "eviction/episode.py")
"""What these say is part of the environment's version."""


@pytest.mark.parametrize("page", PLAIN, ids=name)
def test_a_line_of_prose_is_short_and_speaks_of_things_as_things(page):
    for number, line in prose(page):
        assert len(line) <= 100, f"{name(page)}, line {number} has {len(line)} columns"
        assert not re.search(PERSONS, line, re.IGNORECASE), line


@pytest.mark.parametrize("page", [page for page in PAGES if page not in PLAIN], ids=name)
def test_other_pages_speak_of_things_as_things_too(page):
    assert [line for _, line in prose(page) if re.search(PERSONS, line, re.IGNORECASE)] == []


def test_code_and_the_names_of_tests_speak_of_things_as_things():
    for path in SOURCES:
        if not path.as_posix().endswith((*SAID, "training/corpus.py")):
            found = re.search(PERSONS, path.read_text(encoding="utf-8"), re.IGNORECASE)
            assert not found, f"{path}: {found}"
    titles = [
        title
        for path in ROOT.glob("tests/**/test_*.py")
        for title in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M)
    ]
    assert [title for title in titles if re.search(PERSONS, title.replace("_", " "))] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_link_leads_to_a_file(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith("http"):
            there = (page.parent / target).resolve()
            assert there.exists(), f"{name(page)}: {target}"
            assert page not in SITE or (ROOT / "docs") in there.parents, f"{target} is not part of the site"


@pytest.mark.parametrize("page", [page for page in PAGES if page != COMING], ids=name)
def test_a_folder_or_file_that_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    for file in re.findall(
        r"`((?:kv_cache_rl|environments|scenarios|notebooks|examples|results)/[\w./-]*)`", text
    ):
        made = file.startswith("results/bench") or file == "results/"
        assert made or (ROOT / file).exists(), file


def test_the_glossary_defines_each_word_once():
    words = re.findall(r"^\*\*(.+)\*\*$", (ROOT / "docs/glossary.md").read_text(encoding="utf-8"), re.M)
    assert len(words) == len(set(words)) > 40
    for word in (
        "Block",
        "Page",
        "Slot",
        "Tier",
        "Window",
        "Tick",
        "Policy",
        "Decider",
        "Agent",
        "Rank",
        "Canary",
    ):
        assert word in words


def test_the_site_has_every_page_in_its_navigation():
    listed = re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    assert sorted(listed) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in SITE)


def test_the_api_page_lists_the_public_names_of_every_package():
    page = API.read_text(encoding="utf-8")
    for package in (f"kv_cache_rl.{face}" for face in FACES):
        section = page.split(f"\n## {package}\n")[1].split("\n## ")[0]
        listed = [name for _, names in LISTED.findall(section) for name in names.split(", ")]
        assert sorted(listed) == sorted(importlib.import_module(package).__all__), package
    for module, names in LISTED.findall(page):
        missing = [name for name in names.split(", ") if not hasattr(importlib.import_module(module), name)]
        assert missing == [], module
