"""The networks: what they read, their arithmetic, their files."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kv_cache_rl.agents import agent, factory_of, outside
from kv_cache_rl.agents.networks import WeightsError, network_bytes, read_network, shipped
from kv_cache_rl.sim.serving.actions import ACTIONS, NOTHING
from kv_cache_rl.sim.serving.network import (
    FEATURES,
    HIDDEN,
    INPUTS,
    LAYERS,
    memory_of_layers,
    network,
    write_features,
)
from kv_cache_rl.sim.serving.observe import RICH, new_view

NAMES = ("neural", "ppo")
VIEWS = arrays(np.float32, 24, elements=st.floats(-1, 1, width=32))
MASKS = arrays(np.int8, 18, elements=st.integers(0, 1)).map(lambda mask: np.r_[mask[:17], np.int8(1)])


def layers_of(memory: np.ndarray) -> dict[str, np.ndarray]:
    """The layers of a memory by name."""
    found, at = {}, 0
    for name, shape in LAYERS.items():
        count = int(np.prod(shape))
        found[name] = memory[at : at + count].reshape(shape)
        at += count
    return found


def drawn(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in LAYERS.items()}


def features(seen, mask):
    x = np.zeros(INPUTS)
    write_features(seen, mask, x)
    return x


def plain(layers, x):
    h = np.maximum(x @ layers["first"] + layers["first_bias"], 0)
    g = np.maximum(h @ layers["second"] + layers["second_bias"], 0)
    return g @ layers["last"] + layers["last_bias"]


@given(seen=VIEWS, mask=MASKS, seed=st.integers(0, 50))
def test_the_allowed_action_of_the_highest_value_is_taken(seen, mask, seed):
    layers = {name: layer.astype(np.float64) for name, layer in drawn(seed).items()}
    action = network(seen, mask, memory_of_layers(layers))
    values = plain(layers, features(seen, mask))
    assert mask[action]
    assert values[action] == pytest.approx(max(values[mask > 0]), abs=1e-9)


@given(seen=VIEWS, mask=MASKS)
def test_features_are_the_view_the_mask_and_what_follows_from_them(seen, mask):
    x = dict(zip(FEATURES, features(seen, mask), strict=True))
    assert all(-1 <= value <= 1 for value in x.values())
    assert [x[name] for name in RICH] == seen.tolist()
    assert [x[f"can {name}"] for name in ACTIONS] == mask.tolist()
    room = 1.0 - float(x["gpu_utilization_pct"])
    assert x["free share of the GPU, to 4 %"] == pytest.approx(min(room / 0.04, 1.0))
    older = x["vip_age_max"] - x["free_age_max"]
    assert x["VIP cache idle longer than the Free one"] == np.sign(older)


def test_values_that_are_no_numbers_decide_nothing():
    seen, mask = new_view()
    mask[:] = 1
    layers = drawn() | {"last": np.full(LAYERS["last"], np.nan, np.float32)}
    assert network(seen, mask, memory_of_layers(layers)) == NOTHING


def test_a_file_holds_what_was_written(tmp_path):
    path, layers = tmp_path / "a.safetensors", drawn()
    path.write_bytes(network_bytes(layers, {"command": "x", "training": {"seed": 3}}))
    memory, about = read_network(path, "ppo")
    for name, layer in layers_of(memory).items():
        assert (layer == layers[name]).all()
    assert about["training"] == {"seed": 3} and about["features"] == list(FEATURES)


def test_the_library_of_the_format_reads_it_too(tmp_path):
    from safetensors.numpy import load

    found = load(network_bytes(drawn(), {}))
    assert found.keys() == LAYERS.keys() and (found["last"] == drawn()["last"]).all()


DAMAGE = {
    "cut": (lambda data: data[: len(data) // 2], "cut off"),
    "empty": (lambda data: b"", "is no .safetensors file, or was cut off"),
    "text": (lambda data: b"PK\x03\x04 a zip of Stable-Baselines3", "is no .safetensors file"),
    "version": (lambda data: data.replace(b'"version":"1"', b'"version":"0"'), "network version 0"),
    "observation": (lambda data: data.replace(b"vip_age_mean", b"vip_age_mode"), "trained on other features"),
    "actions": (lambda data: data.replace(b"do_nothing", b"do_nothink"), "trained on other"),
    "layer": (lambda data: data.replace(b'"second":', b'"secont":'), "layer 'second' is missing"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_weights_that_cannot_be_used_are_named_with_the_remedy(tmp_path, damage):
    path = tmp_path / "ppo.safetensors"
    change, words = DAMAGE[damage]
    written = network_bytes(drawn(), {})
    assert change(written) != written
    path.write_bytes(change(written))
    with pytest.raises(WeightsError, match=words) as said:
        factory_of(str(path))()
    assert str(path) in str(said.value) and "serving train --agent ppo" in str(said.value)
    with pytest.raises(WeightsError, match=words):
        outside.tried(str(path), factory_of(str(path)))


def test_a_missing_file_and_a_network_of_another_shape_are_named(tmp_path):
    with pytest.raises(WeightsError, match="No such file"):
        factory_of(str(tmp_path / "none.safetensors"))()
    from kv_cache_rl.tensors import write_tensors

    wide = drawn() | {"second_bias": np.zeros(HIDDEN + 1, np.float32)}
    about = {"version": "1", "features": json.dumps(FEATURES), "actions": json.dumps(ACTIONS)}
    path = tmp_path / "wide.safetensors"
    path.write_bytes(write_tensors(wide, about))
    with pytest.raises(WeightsError, match=rf"'second_bias' is \({HIDDEN + 1},\), and must be \({HIDDEN},\)"):
        read_network(path, "ppo")


def test_weights_that_are_no_numbers_are_neither_written_nor_played(tmp_path):
    from kv_cache_rl.tensors import write_tensors

    broken = drawn()
    broken["first"][3, 4] = np.nan
    with pytest.raises(WeightsError, match=r"'first' holds what is no number.*lower learning rate"):
        network_bytes(broken, {})
    about = {"version": "1", "features": json.dumps(FEATURES), "actions": json.dumps(ACTIONS)}
    path = tmp_path / "nan.safetensors"
    path.write_bytes(write_tensors(broken, about))
    with pytest.raises(WeightsError, match="'first' holds what is no number; train"):
        read_network(path, "ppo")


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_network_says_how_it_was_made(name):
    from kv_cache_rl.agents.training.plan import NetworkTraining, first_seed, seeds_of
    from kv_cache_rl.sim.serving.seeds import SEEDS

    record = json.loads(shipped(name).with_suffix(".json").read_text())
    about = read_network(shipped(name), name)[1]
    assert {key: about[key] for key in ("command", "training", "seeds")} == {
        key: record[key] for key in ("command", "training", "seeds")
    }
    assert record["command"].startswith(f"kv-cache-rl serving train --agent {name}")
    plan = NetworkTraining(**record["training"])
    assert record["seeds"] == seeds_of(plan)
    begun = [first_seed(plan, k) for k in range(plan.rounds)]
    assert len(set(begun)) == plan.rounds
    assert all(seed in SEEDS["train"] for seed in record["seeds"]["train"])
    assert all(seed in SEEDS["select"] for seed in record["seeds"]["select"])


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_network_plays_without_any_trainer(name):
    program = (
        "import sys\n"
        "for library in ('torch', 'gymnasium', 'stable_baselines3', 'sb3_contrib', 'safetensors'):\n"
        "    sys.modules[library] = None\n"
        "import numpy as np\n"
        "from kv_cache_rl.agents import agent\n"
        "mask = np.zeros(18, np.int8); mask[[8, 17]] = 1\n"
        f"print(agent({name!r}).act(np.zeros(24, np.float32), mask))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip() in ("8", "17")


@pytest.mark.parametrize("name", ["lru", "random", "qlearning", "ppo"])
def test_a_file_of_weights_is_played_whatever_it_is_called(tmp_path, name):
    path = tmp_path / f"{name}.safetensors"
    path.write_bytes(network_bytes(drawn(), {}))
    one = agent(str(path))
    begun = one.memory.copy()
    one.reset(3)
    assert (one.memory == begun).all()
    mask = np.zeros(18, np.int8)
    mask[[8, 17]] = 1
    assert one.act(np.zeros(24, np.float32), mask) in (8, 17)


@pytest.mark.parametrize("name", NAMES)
def test_two_agents_of_a_name_do_not_share_what_they_work_with(name):
    one, other = agent(name), agent(name)
    assert not np.shares_memory(one.memory, other.memory)
