"""``kv-cache-rl stability plan``: the numbers of the theory from any trace, in a table and as JSON."""

import json

import pytest

from kv_cache_rl.core.geometry import MODELS
from kv_cache_rl.core.hardware import HARDWARE, kv_capacity_tokens
from kv_cache_rl.theory.plan import plan

AZURE = ["TIMESTAMP,ContextTokens,GeneratedTokens"] + [
    f"2023-11-16 18:{second // 60:02}:{second % 60:02},{1000 + second},{200 + second}" for second in range(90)
]


@pytest.fixture
def azure(write):
    return write(AZURE, "azure.csv")


@pytest.fixture
def sessions(write):
    call = {
        "type": "n",
        "model": "m",
        "out": 100,
        "stop": "end_turn",
        "api_time": 10.0,
        "think_time": 1.0,
        "it": [],
        "ot": [],
    }
    lines = [call | {"t": 0.0, "in": 640, "h": [[0, 10]]}, call | {"t": 90.0, "in": 1280, "h": [[0, 20]]}]
    line = {
        "models": ["m"],
        "block_size": 64,
        "hash_id_scope": "local",
        "tool_tokens": 64,
        "system_tokens": 64,
    }
    return write([line | {"id": "a", "exact_duplicate": False, "requests": lines}])


def test_the_plan_of_a_trace_is_the_theorys(kv, azure):
    said = kv(
        "stability",
        "plan",
        "--trace",
        azure,
        "--gpus",
        2,
        "--target-utilisation",
        0.7,
        "--scale",
        20,
        "--json",
    )
    assert said.code == 0, said.err
    lengths = [1000 + second for second in range(90)], [200 + second for second in range(90)]
    hardware = HARDWARE["a100-llama-3.1-8b"]
    memory = kv_capacity_tokens(hardware, MODELS["llama-3.1-8b"])
    expected = plan(
        *lengths,
        arrival_rate=20.0,
        hardware=hardware,
        memory_tokens=memory,
        peak_rate=20.0,
        gpus=2,
        target_utilisation=0.7,
    )
    found = said.json
    assert found["gpus_needed"] == expected.plain.gpus > 1
    assert found["gpus_needed_at_peak"] == expected.plain.peak_gpus
    assert found["service_rate"] == pytest.approx(expected.plain.rate.per_s)
    assert (found["verdict"], found["rho"]) == (expected.plain.verdict, pytest.approx(expected.plain.rho))
    assert (found["binding"], found["memory_tokens"], found["format"]) == ("memory", memory, "azure")
    assert found["with_all_prefixes_found"] is None


def test_a_configuration_is_counted_as_the_requests_fill_its_windows(kv, azure, tmp_path):
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 1024}
    config = {"model_type": "gemma3_text", "num_hidden_layers": 6, **heads}
    (tmp_path / "config.json").write_text(json.dumps(config))
    plan = ("stability", "plan", "--trace", azure, "--model", "config.json", "--json")
    said = kv(*plan)
    assert said.code == 2 and "the weights of" in said.err and "or give --memory-tokens" in said.err
    assert kv(*plan, "--memory-tokens", 10_000).json["memory_tokens"] == 10_000
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {"total_size": 8000000000}}')
    tokens = [1200 + 2 * second for second in range(90)]
    held = sum(4096 * (length + 5 * 1024) for length in tokens)
    assert kv(*plan).json["memory_tokens"] == int((0.9 * 80e9 - 8e9) / (held / sum(tokens)))


def test_the_table_names_the_gpus_the_resource_and_the_verdict(kv, azure):
    said = kv("stability", "plan", "--trace", azure, "--gpus", 1, "--scale", 100, "--token-budget", 64)
    assert said.code == 0
    for words in (
        "90 requests (azure), 100/s, 100/s in the busiest minute",
        "token budget",
        "rho on 1",
        "overloaded",
        "no prefix hits",
    ):
        assert words in said.out


def test_sessions_need_a_number_of_users_and_get_a_second_row(kv, sessions):
    said = kv("stability", "plan", "--trace", sessions, "--users", 50, "--json").json
    assert said["arrival_rate"] == pytest.approx(50 * 2 / 100)
    kept = (640 + 100) // 64 * 64  # the full blocks of prompt and answer
    assert said["history_share"] == pytest.approx(kept / 1920)
    assert said["with_all_prefixes_found"]["service_rate"] > said["service_rate"]
    assert (
        "all prefixes found (37% of prompts)" in kv("stability", "plan", "--trace", sessions, "--rate", 3).out
    )


def test_another_model_and_other_hardware_change_the_memory(kv, azure):
    def tokens(*options):
        return kv("stability", "plan", "--trace", azure, *options, "--json").json["memory_tokens"]

    profile = HARDWARE["rtx-pro-6000-llama-3.1-8b"]
    assert tokens("--model", "qwen2.5-7b") == kv_capacity_tokens(
        HARDWARE["a100-llama-3.1-8b"], MODELS["qwen2.5-7b"]
    )
    assert tokens("--hardware", profile.name) == kv_capacity_tokens(profile, MODELS["llama-3.1-8b"])
    assert tokens("--memory-tokens", 50_000) == 50_000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--hardware", "a10"], "unknown hardware 'a10'; use one of 8xh100"),
        (["--model", "llama"], "unknown model 'llama'; did you mean llama-2-7b?"),
        (
            ["--model", "llama-3.1-70b"],
            "llama-3.1-70b has 141.1 GB of weights and a100-llama-3.1-8b 80 GB; choose larger hardware",
        ),
        (["--users", "5", "--rate", "2"], "--users and --rate both say how many requests come"),
        (["--users", "5"], "this one has arrival times, leave it out"),
        (["--rate", "0"], "--rate is 0.0; give requests per second"),
        (["--rate", "1e308"], "1e+308 requests per second, and a plan is for at most 1e+09; lower --rate"),
        (["--scale", "1e300"], "a plan is for at most 1e+09; lower --scale"),
        (["--scale", "nan"], "--scale is nan"),
        (["--target-utilisation", "0"], "--target-utilisation is 0.0; give a share above 0"),
        (["--memory-tokens", "100"], "none of 90 requests fits: the shortest has 1200 tokens"),
        (["--hardware", "8xh100-llama-3.1-70b", "--gpus", "4"], "4 GPUs are fewer than the 8"),
    ],
)
def test_bad_options_end_with_two_and_one_line_that_says_what_to_do(kv, azure, options, words):
    said = kv("stability", "plan", "--trace", azure, *options)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    assert words in said.err


def test_traces_without_a_rate_or_without_lengths_are_refused_with_a_remedy(kv, write, sessions):
    moment = write([AZURE[0], AZURE[1]], "moment.csv")
    lost = write(["TIMESTAMP,ContextTokens", "2023-11-16 18:00:00,5"], "lost.csv")
    assert "give --users N, or --rate R" in kv("stability", "plan", "--trace", sessions).err
    assert (
        "arrive at one moment, which is no rate; give --rate R"
        in kv("stability", "plan", "--trace", moment).err
    )
    assert kv("stability", "plan", "--trace", moment, "--rate", 2).code == 0
    assert "fits no known trace format" in kv("stability", "plan", "--trace", lost).err
    assert "nothing.csv: there is no such file" in kv("stability", "plan", "--trace", "nothing.csv").err
    folder = kv("stability", "plan", "--trace", ".")
    assert folder.code == 2 and "give --users N" in folder.err, "the folder holds the sessions"


def test_where_times_tell_no_rate_a_number_of_users_does_not_either(kv, write):
    call = {"t": 0, "type": "s", "in": 200, "out": 80, "hash_ids": [1, 2, 3]}
    short = write([{"id": "s", "block_size": 64, "requests": [call]}], "short.jsonl")
    talk = write([{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]}])
    for more in ((), ("--users", 5)):
        assert "last no time, and so tell no rate" in kv("stability", "plan", "--trace", short, *more).err
        assert "no arrival times, and so no rate" in kv("stability", "plan", "--trace", talk, *more).err


def test_the_hierarchy_lab_keeps_a_reserve_when_asked(kv):
    replay = ("hierarchy", "replay", "workload:rag_burst", "--capacity", 24, "--policy", "lru", "--json")
    without, with_one = kv(*replay).json, kv(*replay, "--reserve", "stability").json
    assert (without["method"], with_one["method"]) == ("run-length", "engine")
    assert with_one["hit_rate"] <= without["hit_rate"]
    refused = kv(*replay, "--reserve", "15%")
    assert refused.code == 2 and "use one of none, 5%, 10%, 20%, stability" in refused.err


def test_the_stability_decider_is_known_to_the_commands(kv):
    said = kv("baselines", "--policy", "stability", "--difficulty", "hard", "-n", 1, "--json")
    assert said.code == 0, said.err
    assert "stability" in [row["policy"] for row in said.json["rows"]]
