"""The network: an untrained one is `tuned`, the order of the entries does not matter, files are checked."""

import json

import numpy as np
import pytest

from kv_cache_rl.search.eviction.proposals import new_log
from kv_cache_rl.search.eviction.rollout import play_learned, play_tuned, policy_return
from kv_cache_rl.sim.eviction import DIFFICULTIES
from kv_cache_rl.sim.eviction.actions import ALL_VERBS
from kv_cache_rl.sim.eviction.constants import LABELS, START
from kv_cache_rl.sim.eviction.deciders import MAX_OUT, decide_view, policy_id
from kv_cache_rl.sim.eviction.dynamics import new_state
from kv_cache_rl.sim.eviction.learned import new_room, write_entry, write_head
from kv_cache_rl.sim.eviction.network import ENTRY, HEAD, SHAPES, SIZE, packed, scales, unpacked, untrained
from kv_cache_rl.sim.eviction.observe import Row, head_of, new_view, rows_of, view
from kv_cache_rl.sim.eviction.trained import FOLDER, LEARNED, WeightsError, learned_bytes, read_learned
from kv_cache_rl.tensors import NotTensors, read_tensors, write_tensors


def random_network(seed=0):
    return START_NETWORK + 0.3 * scales() * np.random.default_rng(seed).standard_normal(SIZE)


START_NETWORK = untrained(START, 0)


def played(play, made, *arguments):
    calls, counts = new_log(made.steps)
    total = play(*new_state(made), *arguments, calls, counts)
    return total, [[tuple(c) for c in calls[t, : counts[t]].tolist()] for t in range(made.steps)]


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_an_untrained_network_is_the_weighing_with_its_constants(made, difficulty):
    for index in range(4):
        plain = played(play_tuned, made(difficulty, index), START, ALL_VERBS, False, 0)
        assert played(play_learned, made(difficulty, index), START_NETWORK) == plain
        assert played(play_learned, made(difficulty, index), random_network()) != plain


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_the_decider_plays_the_committed_network(made, difficulty):
    for index in range(3):
        total = played(play_learned, made(difficulty, index), LEARNED.weights)[0]
        assert policy_return(made(difficulty, index), "learned") == pytest.approx(total, abs=2e-6)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_the_order_of_the_entries_does_not_matter(made, difficulty):
    rng, changed = np.random.default_rng(1), 0
    for index in range(6):
        rows, head = new_view()
        n = view(*new_state(made(difficulty, index)), rows, head)
        order = rng.permutation(n)
        mixed = rows.copy()
        mixed[:n] = rows[order]
        plain, other = (told(table, head) for table in (rows, mixed))
        assert plain == other
        changed += len(plain)
    assert changed > 3


def told(rows, head):
    """The calls as (verb, slot), sorted: entries that are equal in all but their slot count as one."""
    out = np.zeros((MAX_OUT, 2), np.int64)
    count = decide_view(policy_id("learned"), rows, head, out)
    slot = Row._fields.index("slot")
    return sorted((verb, *np.delete(rows[k], slot).tolist()) for verb, k in out[:count].tolist())


def test_every_feature_has_a_name_and_stays_between_its_bounds(made):
    for difficulty in DIFFICULTIES:
        rows, head = new_view()
        n = view(*new_state(made(difficulty, 0)), rows, head)
        for k in range(n):
            room = new_room()
            write_entry(rows_of(rows)[k], head_of(head), room.x)
            assert room.x.shape == (len(ENTRY),) and room.x.min() >= 0.0 and room.x.max() <= 1.0
            chosen = [name for name, value in zip(ENTRY, room.x, strict=True) if value == 1.0]
            assert sum(name.split()[0] in ("kind", "status", "class") for name in chosen) == 3
        room = new_room()
        write_head(head_of(head), room.g)
        assert room.g.shape == (len(HEAD),) and np.abs(room.g).max() <= 1.0


def test_the_network_is_small_and_its_vector_is_its_layers():
    assert SIZE < 50_000
    constants, layers = unpacked(random_network())
    assert {name: layer.shape for name, layer in layers.items()} == SHAPES
    assert packed(constants, layers).tolist() == random_network().tolist()
    assert np.count_nonzero(scales()[: len(LABELS)]) == 0


@pytest.fixture
def file(tmp_path):
    """file(change) → the committed file, with its bytes changed."""

    def write(change):
        path = tmp_path / "learned.safetensors"
        path.write_bytes(change((FOLDER / "learned.safetensors").read_bytes()))
        return path

    return write


def edited(**metadata):
    def change(data):
        tensors, about = read_tensors(data)
        return write_tensors(tensors, about | {name: json.dumps(value) for name, value in metadata.items()})

    return change


def reshaped(name, tensor):
    def change(data):
        tensors, about = read_tensors(data)
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
        return write_tensors(tensors, about)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"", "is no .safetensors file, or was cut off"),
        (lambda data: data[:100], "is no .safetensors file, or was cut off"),
        (lambda data: data[:-8], "does not lie where the header says; the file was cut off"),
        (lambda data: data[:8] + b"[" + data[9:], "its header is damaged: it is not JSON"),
        (edited(environment_version="0"), "is of environment version '0', and this release plays"),
        (edited(entry_features=["size"]), "reads other entry features than this release shows"),
        (reshaped("pair", np.zeros((3, 3))), r"layer 'pair' is (3, 3), and must be"),
        (reshaped("pair", None), "layer 'pair' is missing, and must be"),
        (reshaped("pear", np.zeros(3)), "unknown layer 'pear'; did you mean pair"),
        (reshaped("entry_bias", np.full(SHAPES["entry_bias"], np.nan)), "holds what is no number"),
    ],
)
def test_weights_that_cannot_be_used_are_named_with_the_remedy(file, change, words):
    with pytest.raises(WeightsError) as refused:
        read_learned(file(change))
    said = str(refused.value)
    assert words in said and "learned.safetensors" in said
    assert said.endswith(
        "; train them with `kv-cache-rl train --policy learned` and put them there, or restore the file"
    )


def test_what_is_written_is_read_back_and_by_the_library_too(tmp_path):
    weights = untrained(START, 3)
    path = tmp_path / "learned.safetensors"
    path.write_bytes(learned_bytes(weights, {"environment_version": LEARNED.about["environment_version"]}))
    assert read_learned(path).weights.tolist() == weights.tolist()
    library = pytest.importorskip("safetensors.numpy")
    tensors = library.load_file(path)
    assert set(tensors) == {"constants", *SHAPES}
    assert packed(tensors["constants"], tensors).tolist() == weights.tolist()


def test_a_file_of_the_library_is_read():
    library = pytest.importorskip("safetensors.numpy")
    tensors = {"a": np.arange(6.0).reshape(2, 3), "b": np.ones(2, np.float32)}
    found, about = read_tensors(library.save(tensors, {"made": "here"}))
    assert about == {"made": "here"} and {name: one.tolist() for name, one in found.items()} == {
        name: one.tolist() for name, one in tensors.items()
    }
    with pytest.raises(NotTensors, match="tensor 'a' is not described as float32 or float64"):
        read_tensors(library.save({"a": np.arange(3)}))
