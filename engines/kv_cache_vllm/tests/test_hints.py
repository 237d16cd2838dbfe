"""Hints are what vLLM's own types take."""

import json

import msgspec
from vllm.v1.kv_hints import KvHintsEnvelope


def test_every_envelope_is_one_of_vllm_s(kv, tmp_path):
    made = kv("baselines", "-p", "lru", "-n", "1", "--difficulty", "hard", "--out", "run")
    assert made.code == 0, made.err
    assert kv("engine", "hints", "run", "--soon", "9", "--out", "hints.jsonl").code == 0
    lines = (tmp_path / "hints.jsonl").read_text().splitlines()
    assert lines
    for line in lines:
        envelope = msgspec.json.decode(line, type=KvHintsEnvelope, strict=True)
        assert envelope.actions and msgspec.to_builtins(envelope) == json.loads(line)
