"""The keys of a sweep definition are those that its reader takes, as they are described."""

import inspect
import json
import re
import tomllib
from pathlib import Path

import pytest

from kv_cache_rl.experiments.hierarchy import keys
from kv_cache_rl.experiments.hierarchy.definition import read_sweep, sweep_of
from kv_cache_rl.experiments.hierarchy.settings import RULES
from kv_cache_rl.experiments.hierarchy.sources import ZIPF
from kv_cache_rl.policies.rank import RANKS
from kv_cache_rl.reports.tables import markdown_table
from kv_cache_rl.sim.hierarchy.generate import WORKLOADS
from kv_cache_rl.sim.hierarchy.peer.history import PEER_POLICIES
from kv_cache_rl.sim.hierarchy.spec import HierarchyError
from kv_cache_rl.sim.hierarchy.traces.load import LOADERS, load_trace

PAGE = Path(__file__).parents[3] / "docs/worlds/hierarchy.md"
CLAUDE = {
    "id": "a",
    "block_size": 64,
    "requests": [{"t": 0.0, "type": "s", "in": 100, "out": 8, "hash_ids": [1, 2]}],
}
BASE = {
    "policies": ["lru"],
    "workloads": [{"workload": "rag_burst", "length": 20}],
    "scenarios": [{"name": "a", "tiers": {"gpu": 4}}],
}


def complaint(change):
    with pytest.raises(HierarchyError) as wrong:
        sweep_of({**BASE, **change})
    return str(wrong.value)


def test_the_keys_are_those_that_the_reader_takes():
    listed = re.search(r"use ([\w, ]+) \(", complaint({"colour": 1}))[1]
    assert set(keys.SWEEP) == set(listed.split(", "))
    scenario = complaint({"scenarios": [{"name": "a", "colour": 1}]})
    assert set(keys.SCENARIO) == set(scenario.split("; use ")[1].split(", "))
    made = {name for one in WORKLOADS.values() for name in inspect.signature(one).parameters}
    assert set(keys.WORKLOAD) == {"workload", "name", *made, *ZIPF}
    takes = {name for one in (load_trace, *LOADERS.values()) for name in inspect.signature(one).parameters}
    assert set(keys.FILE) == {"file", "name", *takes} - {"path", "reading", "options"}
    assert "it takes nothing" in complaint({"policies": [{"policy": "lru", "colour": 1}]})
    tuned = [complaint({"policies": [{"policy": name, "colour": 1}]}) for name in RANKS]
    taken = {one.split("it takes ")[1] for one in tuned} - {"nothing"}
    assert set(keys.POLICY) == {"policy", "name", *taken}
    assert PEER_POLICIES["lru"] == {}, "what the others take under its semantics stands on the page"


def test_defaults_of_rules_are_the_codes_own():
    for name, value in RULES.items():
        written = str(value).lower() if isinstance(value, bool) else str(value)
        assert keys.SCENARIO[name].default == written
    for name in ("accesses", "skew", "page_bytes"):
        assert keys.WORKLOAD[name].default == str(ZIPF[name])


@pytest.mark.parametrize("where", keys.TABLES)
def test_every_example_is_read(tmp_path, where):
    (tmp_path / "mooncake.jsonl").write_text('{"timestamp": 0, "input_length": 5, "hash_ids": [1]}\n')
    (tmp_path / "claude.json").write_text(json.dumps(CLAUDE))
    for name, key in keys.TABLES[where].items():
        if key.kind == "tables":
            continue
        entry = tomllib.loads(key.example)
        assert list(entry) == [name] and isinstance(entry[name], keys.KINDS[key.kind])
        table = {**BASE, **entry} if where == "of the sweep" else dict(BASE)
        if where == "of [[scenarios]]":
            table["scenarios"] = [{"name": "a", "tiers": {"gpu": 4}, **entry}]
            if name == "laboratory":
                table["scenarios"][0].pop("tiers")
        elif "file" in where:
            file = "claude.json" if name in ("selection", "seed") else "mooncake.jsonl"
            table["workloads"] = [{"file": file, **entry}]
        elif "workloads" in where:
            kind = {"period": "periodic_reuse", "burst": "adversarial_burst"}.get(name, "rag_burst")
            of_zipf = key.says.startswith("of `zipf`")
            table["workloads"] = [{"workload": "zipf" if of_zipf else kind, **entry}]
        elif "policies" in where:
            policy = "regret_aware" if name == "regret" else "windowed_recency"
            table["policies"] = [{"policy": policy, **entry}]
        sweep = sweep_of(table, tmp_path)
        assert sweep.cells()
        if "workload" in where and name != "selection":  # of which one session is too few
            assert sweep.sources[0].trace().requests


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"workloads": [{"file": "x", "block_size": "16"}]},
            "block_size = '16' is no whole number; write",
        ),
        (
            {"workloads": [{"file": "x", "limit": True}]},
            "limit = True is no whole number; write limit",
        ),
        ({"workloads": [{"file": "x", "sort": 1}]}, "sort = 1 is no true or false"),
        ({"workloads": [{"workload": "zipf", "accesses": True}]}, "accesses = True is no whole number"),
        ({"scenarios": [{"name": "a", "policies": 5}]}, "scenario 'a': policies = 5 is no list"),
        ({"scenarios": [{"name": "a", "policies": "lru"}]}, "policies = 'lru' is no list"),
        ({"scenarios": [{"name": "a", "model": [1]}]}, r"model = \[1\] is no text; write model = "),
        ({"scenarios": [{"name": "a", "tiers": {"gpu": True}}]}, "must be a table"),
    ],
    ids=str,
)
def test_a_value_of_another_kind_is_refused_with_an_example(change, words):
    assert re.search(words, complaint(change))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = " + "[" * 100_000, "its brackets are nested too deep"),
        ("a = " + "{b=" * 5000, "its brackets are nested too deep"),
        ("n = " + "9" * 5000, "is no TOML: it holds a number of more than"),
    ],
    ids=["lists", "tables", "digits"],
)
def test_a_definition_that_no_parser_takes_is_named(tmp_path, text, words):
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    with pytest.raises(HierarchyError, match=rf"sweep\.toml:? ?{words}"):
        read_sweep(path)


def test_the_page_has_every_key_as_it_is_described():
    columns = dict.fromkeys(("key", "kind", "default", "example", "meaning"), "left")
    page = PAGE.read_text()
    for where, found in keys.TABLES.items():
        rows = (
            [f"`{name}`", key.kind, key.default, f"`{key.example}`", key.says] for name, key in found.items()
        )
        text = f"Keys {where}:\n\n{markdown_table(columns, rows)}"
        assert text in page, f"write this into {PAGE.name}:\n\n{text}"
