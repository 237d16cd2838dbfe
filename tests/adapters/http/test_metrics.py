"""Metrics: what Prometheus reads, under the names that boards know, with the numbers of the simulator."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kv_cache_rl.sim.serving.columns import GPU_POOL
from kv_cache_rl.theory.controller import QueueingController

VLLM = {
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:num_preemptions_total",
}
QUEUEING = {
    *("queueing_lambda", "queueing_mu", "queueing_rho", "queueing_is_stable", "queueing_lambda_critical"),
    *("queueing_minimum_stable_blocks", "queueing_stability_margin_pct"),
}


def samples(ask):
    """(name, engine) → value."""
    answer = ask("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (one.name, one.labels.get("engine")): (one.value, one.labels)
        for family in text_string_to_metric_families(answer.text)
        for one in family.samples
    }


def test_a_session_is_an_engine_with_the_simulators_numbers(asked_with):
    ask = asked_with()
    id = ask("POST", "/api/sessions", json={"task": "hard", "ticks": 2_000, "seed": 2}).json()["session"]
    ask("POST", f"/api/sessions/{id}/step", json={"agent": "lru", "ticks": 1_000})
    ask("POST", f"/api/sessions/{id}/step", json={"agent": "lru", "ticks": 700})
    found = samples(ask)
    server = ask.lab.sessions.find(id).world.server
    c = server.columns
    names = {name for name, engine in found if engine == "0"}
    assert names == VLLM | QUEUEING
    assert id not in ask("GET", "/metrics").text, "the id of a session is a secret"
    value = {name: found[name, "0"][0] for name in names}
    assert found["vllm:num_requests_running", "0"][1]["model_name"] == "llama-3.1-8b"
    assert value["vllm:num_requests_running"] == c.book["serving"] > 0
    assert value["vllm:num_requests_waiting"] == c.book["queues"]["count"].sum()
    capacity, used = c.book["pools"][GPU_POOL]
    assert value["vllm:kv_cache_usage_perc"] == pytest.approx(used / capacity)
    hits, queries = value["vllm:prefix_cache_hits_total"], value["vllm:prefix_cache_queries_total"]
    assert 0 < hits < queries <= c.requests["prompt"].sum()
    controller = QueueingController()
    controller.flow[:] = c.book["flow"]
    state = controller.compute_stability_state(int(capacity - used), int(capacity), server.seconds)
    assert value["queueing_lambda"] == pytest.approx(state.arrival_rate_lambda)
    assert value["queueing_is_stable"] == state.is_stable
    ask("DELETE", f"/api/sessions/{id}")
    assert ("vllm:num_requests_running", "0") not in samples(ask)


def test_an_eviction_session_is_no_engine(asked_with):
    ask = asked_with()
    ask("POST", "/api/sessions", json={"world": "eviction", "scenario": "eviction-eval-easy-0000-v2"})
    found = samples(ask)
    assert found["kv_cache_rl_sessions", None][0] == 1
    assert not any(engine for _, engine in found)


def test_answers_are_counted_by_status(asked_with):
    ask = asked_with()
    ask("GET", "/nothing")
    text = ask("GET", "/metrics").text
    assert 'kv_cache_rl_http_answers_total{status="404"} 1.0' in text


def test_numbers_of_engines_are_used_again(asked_with):
    ask = asked_with()
    ids = [ask("POST", "/api/sessions", json={"ticks": 20}).json()["session"] for _ in range(3)]
    ask("DELETE", f"/api/sessions/{ids[1]}")
    ask("POST", "/api/sessions", json={"ticks": 20})
    assert {engine for _, engine in samples(ask) if engine} == {"0", "1", "2"}


def test_health_says_what_the_server_does(asked_with):
    ask = asked_with()
    ask("POST", "/api/sessions", json={"ticks": 20})
    said = ask("GET", "/health").json()
    assert (said["status"], said["sessions"], said["simulations"], said["streams"]) == ("ok", 1, 0, 0)
