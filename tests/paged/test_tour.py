"""The walk through a paged cache shows what the pool really holds."""

import pytest
from decoders import decoder, prompt

from kv_cache_rl.paged.errors import RequestError
from kv_cache_rl.paged.tour import SPARE, tour


def walk(length=18, tokens=6, block_tokens=4, seed=0):
    model = decoder(0)
    return {stage.title: stage for stage in tour(model, prompt(model, length), tokens, block_tokens, seed)}


def rows(stage):
    return {row.name: row for row in stage.seen.rows}


def test_the_stages_are_those_of_a_sequences_life():
    assert list(walk()) == ["prefill", "fork", "copy on write", "decode", "swap out", "release", "swap in"]
    assert "decode" not in walk(tokens=1)


@pytest.mark.parametrize("length", [17, 18, 20, 1])
@pytest.mark.parametrize("block_tokens", [1, 4, 7])
def test_references_are_the_table_entries_and_no_block_is_lost(length, block_tokens):
    for stage in walk(length, 6, block_tokens).values():
        entries = [block for row in stage.seen.rows if row.place == "gpu" for block in row.blocks]
        assert stage.seen.references == [entries.count(b) for b in range(len(stage.seen.references))]
        for row in stage.seen.rows:
            assert len(row.tokens) == len(row.blocks)
            assert all(len(ids) == block_tokens for ids in row.tokens[:-1])
        assert stage.seen.references.count(0) >= SPARE
        assert all(stage.seen.references[block] == 0 for block in stage.seen.kept)


def test_a_fork_shares_and_a_write_copies():
    stages = walk()
    forked = rows(stages["fork"])
    assert forked["sample 0"].blocks == forked["sample 1"].blocks == forked["sample 2"].blocks
    assert stages["fork"].seen.references[:5] == [3] * 5
    written = rows(stages["copy on write"])
    lasts = {row.blocks[-1] for row in written.values()}
    assert len(lasts) == 3 and len({tuple(row.blocks[:-1]) for row in written.values()}) == 1
    assert "2 blocks copied first" in stages["copy on write"].note


def test_a_prompt_that_fills_its_last_block_is_not_copied():
    assert "0 blocks copied first: the prompt ends with a full block" in walk(length=16)["copy on write"].note


def test_a_swapped_sequence_leaves_shared_blocks_and_comes_back_into_blocks_of_its_own():
    stages = walk()
    out = rows(stages["swap out"])["sample 2"]
    assert out.place == "host" and stages["swap out"].seen.references[:4] == [2] * 4
    gone, back = rows(stages["release"]), rows(stages["swap in"])
    assert gone["sample 1"].place == "gone" and gone["sample 1"].blocks == []
    assert len(stages["release"].seen.kept) == 2
    assert back["sample 2"].place == "gpu" and back["sample 2"].tokens == out.tokens
    assert not {*back["sample 2"].blocks} & {*back["sample 0"].blocks}


@pytest.mark.parametrize(("length", "tokens"), [(0, 3), (3, 0)])
def test_a_walk_without_anything_to_show_is_refused(length, tokens):
    with pytest.raises(RequestError, match="give at least one of each"):
        list(tour(decoder(0), [1] * length, tokens, 4, 0))
