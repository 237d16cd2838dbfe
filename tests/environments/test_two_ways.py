"""The default harness and any other one play the same episode."""

from scripted_model import calls, observation, says


def lively(turn: int, body: dict) -> dict:
    """Good calls, bad calls, more than count, and replies without any, the last word one of them."""
    ids = observation(body)["visible_seq_ids"]
    if turn in (4, 14):
        return says("Let me wait and see.")
    if turn == 2:
        return calls(("keep", {}))
    if turn == 6:
        return calls(
            ("evict", "{not json"),
            ("fly", {"to": "the moon"}),
            ("evict", [1, 2]),
            ("swap_to_cpu", {"seq_id": 7}),
        )
    if turn == 9:
        return calls(*[("compress", {"seq_id": seq_id}) for seq_id in ids[:3]], *[("keep", {})] * 16)
    if turn % 4 == 3:
        return calls(("swap_to_cpu", {"seq_id": ids[turn % 5]}), ("keep", {}))
    return calls(("evict", {"seq_id": ids[0]}), ("compress", {"seq_id": ids[-1]}), text="Making room.")


def dialogue(trace) -> list[tuple]:
    return [
        (m.role, m.content or "", [(c.name, c.arguments) for c in getattr(m, "tool_calls", None) or []])
        for m in trace.messages
    ]


def test_both_harnesses_give_the_same_actions_rewards_and_messages(play, null_harness):
    options = {"difficulty": "hard", "seed": 3}
    own, asked_own = play(lively, **options)
    other, asked_other = play(lively, harness=null_harness, **options)

    assert own.ok and other.ok, (own.errors, other.errors)
    assert own.info == other.info
    assert len(own.info["actions"]) == 15
    assert own.rewards == other.rewards
    assert own.metrics == other.metrics
    assert dialogue(own) == dialogue(other)
    assert own.stop_condition == other.stop_condition == "episode_over"
    assert len(asked_own) == len(asked_other) == 15

    def offered(body: dict) -> list[tuple]:
        tools = [tool["function"] for tool in body["tools"]]
        return [
            (tool["name"], tool["description"], sorted(tool["parameters"].get("required", [])))
            for tool in tools
        ]

    assert offered(asked_own[0]) == offered(asked_other[0])
