"""The picture of a block table says what the stage says: in the terminal and as a figure."""

from rich.console import Console

from kv_cache_rl.reports.block_table import block_table_figure, contents, state, tables

STAGE = {
    "title": "swap out",
    "note": "as an example",
    "block_tokens": 4,
    "references": [2, 1, 0, 0, 1],
    "kept": [3],
    "rows": [
        {"name": "sample 0", "place": "gpu", "blocks": [0, 4], "text": ["to a", "[b]"], "filled": [4, 3]},
        {"name": "sample 1", "place": "gpu", "blocks": [0, 1], "text": ["to a", "\nx"], "filled": [4, 2]},
        {"name": "sample 2", "place": "host", "blocks": [0], "text": ["to a"], "filled": [4]},
        {"name": "sample 3", "place": "gone", "blocks": [], "text": [], "filled": []},
    ],
}


def printed(stage):
    out = Console(width=140, record=True, file=open("/dev/null", "w"))
    for table in tables(stage):
        out.print(table)
    return [line.split() for line in out.export_text().splitlines() if line.strip()]


def test_a_line_per_sequence_names_its_blocks_and_their_text():
    lines = printed(STAGE)
    assert ["sample", "0", "b0", "to·a", "b4", "[b]_"] in lines
    assert ["sample", "1", "b0", "to·a", "b1", "↵x__"] in lines
    assert ["sample", "2", "(host)", "h0", "to·a"] in lines
    assert ["sample", "3", "(done)"] in lines


def test_every_physical_block_has_its_references():
    lines = printed(STAGE)
    assert ["physical", "block", "b0", "b1", "b2", "b3", "b4"] in lines
    assert ["references", "2", "1", "free", "kept", "1"] in lines
    assert [state(STAGE, block) for block in range(5)] == ["2", "1", "free", "kept", "1"]


def test_a_large_pool_is_shown_in_several_lines():
    wide = STAGE | {"references": [0] * 40, "kept": [], "rows": []}
    assert sum(line[0] == "references" for line in printed(wide)) == 3


def test_the_text_of_a_long_block_is_cut_and_says_how_full_it_is():
    long = STAGE | {"block_tokens": 16}
    row = {"text": ["anna walks to th", "e mill", "ab"], "filled": [16, 6, 2]}
    assert contents(long, row) == ["anna·wal…", "e·mill 6/16", "ab 2/16"]


def test_the_figure_has_a_box_for_each_table_entry_and_each_physical_block():
    figure = block_table_figure([STAGE, STAGE])
    assert len(figure.axes) == 4
    left, right = figure.axes[:2]
    assert len(left.patches) == 5 and len(right.patches) == 5
    words = [text.get_text() for text in (*left.texts, *right.texts)]
    assert "block 4\n[b]_" in words and "host 0\nto·a" in words
    assert "block 0\nrefs 2" in words and "block 3\nkept" in words and "block 2\nfree" in words
    colours = {
        text.get_text(): patch.get_facecolor() for text, patch in zip(right.texts, right.patches, strict=True)
    }
    assert len(set(colours.values())) == 4, "shared, held, kept and free are told apart"
    assert left.get_title(loc="left") == "1. swap out: as an example"
