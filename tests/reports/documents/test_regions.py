"""Marked regions: rewritten from results files, and refused where they cannot be."""

import gzip
import json
from pathlib import Path

import pytest

from kv_cache_rl.reports.documents import TABLES, regions
from kv_cache_rl.reports.documents.__main__ import main
from kv_cache_rl.reports.documents.markdown import number, spread, table

ROOT = Path(__file__).parents[3]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with one region, `sum`, over one packed results file."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results/two.json.gz").write_bytes(gzip.compress(json.dumps([1, 2]).encode()))
    monkeypatch.setitem(TABLES, "sum", (lambda found: str(sum(found)), "two.json.gz"))
    monkeypatch.setitem(
        TABLES, "rows", (lambda found: table(["n"], [[str(n)] for n in found]), "two.json.gz")
    )
    monkeypatch.setattr("kv_cache_rl.reports.documents.__main__.FIGURES", {})
    return tmp_path


def test_a_region_in_a_line_stays_in_its_line_and_a_table_stands_on_its_own(checkout):
    text = "Sum: <!-- table: sum -->old<!-- end -->.\n\n<!-- table: rows --><!-- end -->\n"
    new = regions.rewritten(text, checkout)
    assert new.startswith("Sum: <!-- table: sum -->3<!-- end -->.\n")
    assert "<!-- table: rows -->\n| n |\n|---|\n| 1 |\n| 2 |\n<!-- end -->" in new
    assert regions.rewritten(new, checkout) == new


def test_the_command_rewrites_what_differs_and_names_it(checkout, capsys):
    (checkout / "README.md").write_text("<!-- table: sum -->4<!-- end -->\n")
    (checkout / "CHANGELOG.md").write_text("no region\n")
    main(checkout)
    assert capsys.readouterr().out == "written: README.md\n"
    assert "-->3<!--" in (checkout / "README.md").read_text()
    main(checkout)
    assert capsys.readouterr().out == ""


def test_an_unknown_region_and_a_missing_file_are_refused_with_the_remedy(checkout):
    with pytest.raises(ValueError, match=r"unknown region 'nothing'; use one of .*eviction-hard"):
        regions.content("nothing", checkout)
    with pytest.raises(
        ValueError, match=r"evaluate\.json\.gz is missing; results/README\.md has the command"
    ):
        regions.content("serving-tasks", checkout)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="has no folder results/"):
        main(tmp_path)


def test_every_region_is_used_by_a_document():
    text = "".join(page.read_text(encoding="utf-8") for page in regions.pages(ROOT))
    assert [name for name in TABLES if f"<!-- table: {name} -->" not in text] == []


def test_numbers_are_written_with_three_digits_and_intervals_with_one_sign():
    assert (number(1234.5), number(0.12345)) == ("1,234", "0.123")
    assert spread({"mean": -0.5, "high": -0.25}, "{:+.2f}") == "-0.50 ± 0.25"
    assert spread({"mean": 0.5, "high": None}, "{:.1f}", 100) == "50.0"
