"""One style of tables: for the terminal, and as Markdown."""

import io

from rich.console import Console

from kv_cache_rl.reports.tables import markdown_table, plain_table

COLUMNS = {"policy": "left", "score": "right"}


def test_a_plain_table_keeps_its_numbers_whole_where_there_is_little_room():
    table = plain_table("scores", COLUMNS, "higher is better")
    table.add_row("a policy with a long name", "+0.123 ± 0.045")
    out = io.StringIO()
    Console(file=out, width=30).print(table)
    assert "+0.123 ± 0.045" in out.getvalue() and "higher is better" in out.getvalue()


def test_a_markdown_table_says_where_its_columns_stand():
    text = markdown_table(COLUMNS, [("lru", "0.5"), ("keep", "0.25")])
    assert text == "| policy | score |\n|---|---:|\n| lru | 0.5 |\n| keep | 0.25 |\n"
