"""Servers as they are: whatever one does, the rollout ends with a score or with a reason to act on."""

import json
import time

import pytest
from conftest import environment, episodes
from scripted_model import ERROR_500, calls, cut, observation, refuses, replies_so_far, says, sends, serving

FULL = "This model's maximum context length is 8192 tokens, the messages have 9000. Reduce their length."


def inside(code: int, text: str) -> dict:
    """An error in place of a reply, as OpenRouter sends it: with status 200."""
    return sends(json.dumps({"error": {"message": text, "code": code}}).encode())


def keeps(turn: int, body: dict) -> dict:
    return calls(("keep", {}))


@pytest.fixture(scope="module")
def kept():
    """The trace of an episode in which every reply is keep."""
    with serving(keeps) as model:
        [episode] = episodes(environment(), model.base_url)
    return episode.traces[0]


def at(turn_of: int, failure: dict, then=keeps):
    """A script that fails at one turn, every time it is asked."""
    return lambda turn, body: failure if turn == turn_of else then(turn, body)


def once_each(failures: list[dict]):
    """A script that fails in these ways in turn, once each at the fourth call."""
    left = list(failures)
    return lambda turn, body: left.pop(0) if turn == 3 and left else keeps(turn, body)


def strict(turn: int, body: dict) -> dict:
    """A server that checks what comes back as the strictest in the field do."""
    seen = set()
    for message in body["messages"]:
        if message["role"] == "assistant":
            assert "content" in message and message.get("tool_calls") != []
            for call in message.get("tool_calls", ()):
                assert isinstance(json.loads(call["function"]["arguments"]), dict)
                assert call["id"] and call["id"] not in seen
                seen.add(call["id"])
        if message["role"] == "tool":
            assert message["tool_call_id"] in seen
    ids = observation(body)["visible_seq_ids"]
    # The first two once only: a reply without a call makes the `null` harness begin anew, which is slow.
    return [
        says("I wait."),
        {**says("I wait."), "tool_calls": []},
        calls(("evict", {"seq_id": ids[0]})),
        calls(("evict", '{"seq_id": "'), ("functions.evict", ""), ("evict", '"twice"')),
    ][turn if turn < 2 else 2 + turn % 2]


@pytest.mark.parametrize("other", [False, True], ids=["own harness", "null harness"])
def test_a_strict_server_never_sees_a_past_turn_that_it_would_refuse(play, null_harness, other):
    wrong = []

    def watched(turn: int, body: dict) -> dict:
        try:
            return strict(turn, body)
        except AssertionError as error:
            wrong.append(error)
            raise

    trace, requests = play(watched, **({"harness": null_harness} if other else {}))
    assert not wrong
    assert trace.ok, trace.errors
    assert len(requests) == 15


@pytest.mark.parametrize(
    "failures",
    [
        [refuses(429, "slow down", retry_after="0.05")] * 9,
        [refuses(503, "loading model")] * 5,
        [refuses(502, "bad gateway"), refuses(504, "too late"), ERROR_500],
        [sends(b'{"choices": []}'), sends(b'{"error": {"message": "overloaded"}}')],
        [inside(429, "slow down")] * 9,
        [says(""), sends(b"<html>")],
        [{**says("I will"), "finish": end} for end in ("error", "abort")],
    ],
    ids=["429", "503", "5xx", "200 without a reply", "429 inside a 200", "nothing", "half a reply"],
)
def test_a_refusal_that_passes_costs_no_rollout(play, failures):
    trace, requests = play(once_each(failures))
    assert trace.ok, trace.errors
    assert len(requests) == 15 + len(failures) and trace.num_turns == 15


def test_the_wait_that_a_server_names_is_kept(play):
    trace, _ = play(once_each([refuses(429, "slow down", retry_after="1")]))
    assert trace.ok and trace.timing.agent.duration >= 1


def test_a_server_that_stays_busy_fails_with_its_words_and_the_option_that_waits_longer(play):
    trace, requests = play(
        at(2, refuses(429, "rate limit reached", retry_after="3600")), harness={"patience": 5}
    )
    assert not trace.ok and len(requests) == 3
    message = trace.last_error.message
    assert "rate limit reached" in message and "asks to wait 3,600 s more, the patience is 5 s" in message
    assert "--patience" in message


FULLS = [refuses(400, FULL), refuses(413, "too large"), refuses(500, FULL), inside(400, FULL)]


@pytest.mark.parametrize("other", [False, True], ids=["own harness", "null harness"])
@pytest.mark.parametrize("full", FULLS)
def test_a_dialogue_that_outgrows_the_context_is_scored_as_played(play, kept, null_harness, other, full):
    if other and full is not FULLS[0]:
        pytest.skip("one status is enough for the slow harness")
    trace, _ = play(at(6, full), **({"harness": null_harness} if other else {}))
    assert trace.ok and trace.stop_condition == "context_overflow"
    assert len(trace.info["actions"]) == trace.num_turns == 6
    assert trace.reward == kept.reward, "what was not played counts as keep"
    assert (trace.metrics["unplayed_steps"], kept.metrics["unplayed_steps"]) == (9, 0)
    [note] = trace.info["notes"]
    assert "after 6 of 15 model calls; the rest counts as keep" in note
    assert full.get("text", FULL) in note


def test_an_account_that_is_spent_in_mid_play_is_said_at_once(play):
    trace, requests = play(at(2, inside(402, "Insufficient credits")))
    assert not trace.ok and "upstream 402" in trace.last_error.message and len(requests) == 3


@pytest.mark.parametrize("status", [400, 500])
def test_a_template_of_one_call_a_turn_gets_one_call_a_turn_from_then_on(play, status):
    def llama(turn: int, body: dict) -> dict:
        past = [m["tool_calls"] for m in body["messages"] if m["role"] == "assistant"]
        if any(len(made) > 1 for made in past):
            return refuses(status, "This model only supports single tool-calls at once!")
        return calls(("keep", {}), ("evict", {"seq_id": "s0"}))

    trace, requests = play(llama)
    assert trace.ok and trace.num_turns == 15, trace.errors
    assert len(requests) == 16, "asked twice only once"
    roles = [message["role"] for message in requests[-1]["messages"][2:]]
    assert roles == ["assistant", "tool"] * 28
    whole, _ = play(lambda turn, body: calls(("keep", {}), ("evict", {"seq_id": "s0"})))
    assert trace.reward == whole.reward


def test_a_first_prompt_that_does_not_fit_is_a_failure_with_the_servers_words(play):
    trace, requests = play(at(0, refuses(400, FULL)))
    assert not trace.ok and FULL in trace.last_error.message and len(requests) == 1


def test_replies_cut_at_a_length_limit_are_counted_and_said(play):
    def script(turn: int, body: dict) -> dict:
        return cut(says("Let me think about")) if turn in (3, 4, 9) else keeps(turn, body)

    trace, _ = play(script)
    assert trace.ok and trace.num_turns == 15
    assert (trace.metrics["cut_replies"], trace.metrics["text_only_steps"]) == (3, 3)
    assert trace.info["notes"][0].startswith("3 of 15 replies were cut at a length limit")


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "evict", "arguments": {}}</tool_call>',
        '{"name": "evict", "parameters": {"seq_id": "a"}}',
        '[evict(seq_id="a")]',
    ],
)
def test_a_call_that_the_server_left_in_the_text_is_said_from_one_on(play, text):
    trace, _ = play(lambda turn, body: says(f"So: {text}") if turn == 4 else keeps(turn, body))
    [note] = trace.info["notes"]
    assert note.startswith("1 of 15 replies hold a call as text that the server did not parse")
    assert text[1:12] in note
    trace, _ = play(lambda turn, body: says("I keep all, and evict none") if turn == 4 else keeps(turn, body))
    assert "notes" not in trace.info


def test_a_prompt_whose_count_stays_while_the_dialogue_grows_is_said(play):
    def counted(turn: int, body: dict) -> dict:
        usage = {"prompt_tokens": min(600 + 420 * turn, 2048), "completion_tokens": 3, "total_tokens": 9}
        choice = {"index": 0, "message": keeps(turn, body), "finish_reason": "tool_calls"}
        head = {"id": "a", "object": "chat.completion", "created": 1, "model": "m", "usage": usage}
        return sends(json.dumps({**head, "choices": [choice]}).encode())

    trace, _ = play(counted)
    [note] = trace.info["notes"]
    assert note.startswith(
        "the server counts 2,048 tokens of prompt from call 5 on, while the dialogue grows"
    )
    trace, _ = play(counted, history="window")
    assert "notes" not in trace.info


def test_a_reply_in_which_the_model_refuses_is_marked_as_one_that_was_withheld(play):
    refused = {"role": "assistant", "content": None, "refusal": "I can't help with that."}
    trace, requests = play(lambda turn, body: refused if turn in (3, 9) else keeps(turn, body))
    assert trace.ok and len(requests) == 15, trace.errors
    [note] = trace.info["notes"]
    assert note.startswith("2 of 15 replies were withheld") and "refused by the model" in note


ODD = {
    "nested": calls(("evict", "[" * 5000)),
    "nested objects": calls(("evict", '{"a":' * 900 + "1" + "}" * 900)),
    "three thousand calls": calls(*[("evict", {"seq_id": "s0"})] * 3000),
    "a megabyte": calls(("evict", {"seq_id": "s" * 1_000_000})),
    "a long name": calls(("evict" * 100_000, {})),
    "no unicode": sends(
        b'{"choices": [{"message": {"content": "\\ud800", "tool_calls": [{"id": "a", "type": "function", '
        b'"function": {"name": "evict", "arguments": "{\\"seq_id\\": \\"\\\\ud800\xff\\"}"}}]}}]}'
    ),
    "no names": sends(b'{"choices": [{"message": {"tool_calls": [null, {}, {"function": null}, 7]}}]}'),
    "equal ids": {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "", "type": "function", "function": {"name": "evict", "arguments": "{}"}}] * 3,
    },
    "a garbled reply": refuses(
        500, "The model produced output that does not match the expected peg-native format"
    ),
    "a failed call": refuses(400, '{"code": "tool_use_failed", "failed_generation": "<evict>"}'),
}


@pytest.mark.parametrize("name", ODD)
def test_nothing_that_a_model_writes_fails_its_episode(play, name):
    trace, requests = play(lambda turn, body: ODD[name] if turn in (2, 7) else keeps(turn, body))
    assert trace.ok, trace.errors
    assert trace.num_turns == 15
    asked = len(ODD[name].get("tool_calls", ())) or name.startswith("no ")
    refused = trace.metrics["invalid_calls"]
    assert (refused > 0) == bool(asked)
    last = requests[-1]["messages"]
    results = [m["content"] for m in last if m["role"] == "tool" and m["content"].startswith("refused")]
    assert bool(results) == bool(asked)


def test_what_was_not_read_says_so_to_the_model_and_counts(play):
    def script(turn: int, body: dict) -> dict:
        return calls(*[("keep", {})] * 3000) if turn == 0 else calls(("evict", "x" * 9000))

    trace, requests = play(script)
    results = [m["content"] for m in requests[1]["messages"] if m["role"] == "tool"]
    assert len(results) == 17
    assert results[16].startswith(
        "refused: only the first 16 calls of a message count; 2984 calls after them were not read"
    )
    assert "evict: arguments of 9,000 characters were not read" in requests[2]["messages"][-1]["content"]
    assert trace.metrics["invalid_calls"] == 2984 + 14
    assert len(trace.info["actions"][0]) == 17


def test_replies_without_counts_of_tokens_are_told_where_others_have_them(play):
    def script(turn: int, body: dict) -> dict:
        kept = keeps(turn, body)
        head = {"id": f"c{turn}", "object": "chat.completion", "created": 1, "model": body["model"]}
        choice = {"index": 0, "message": kept, "finish_reason": "tool_calls"}
        return (
            sends(json.dumps(head | {"choices": [choice], "usage": None}).encode()) if turn % 3 == 0 else kept
        )

    trace, _ = play(script)
    [note] = trace.info["notes"]
    assert note.startswith("5 of 15 replies came without counts of tokens; the tokens and the money are of")


def test_thousands_of_calls_cost_no_more_than_sixteen():
    env = environment(num_examples=2)
    tasks = list(env.taskset)

    def seconds(count: int) -> float:
        with serving(lambda turn, body: calls(*[("evict", {"seq_id": "s0"})] * count)) as model:
            started = time.process_time()
            assert all(episode.ok for episode in episodes(env, model.base_url, tasks))
            return time.process_time() - started

    few = min(seconds(16) for _ in range(2))
    # The scripted server is in this process: writing and reading 3,000 calls is its share.
    assert seconds(3000) < 3 * few + 4


def test_a_harness_that_streams_gets_bounded_replies_too(play, null_harness):
    trace, requests = play(
        lambda turn, body: ODD["nested"] if turn == 1 else keeps(turn, body), harness=null_harness
    )
    assert trace.ok and trace.metrics["invalid_calls"] == 1
    assert len(requests) == 15 and replies_so_far(requests[-1]) == 14


def test_counts_of_tokens_that_cannot_be_are_said_once_and_leave_the_score(play):
    usage = {"prompt_tokens": -5, "completion_tokens": 2.5, "total_tokens": "3"}
    head = {"id": 7, "object": "chat.completion", "created": "now", "model": None, "usage": usage}
    choice = {"index": 0, "message": calls(("keep", {})), "finish_reason": "tool_calls"}
    trace, _ = play(lambda turn, body: sends(json.dumps({**head, "choices": [choice]}).encode()))
    assert trace.ok and trace.usage.input_tokens == trace.usage.completion_tokens == 0
    assert [note for note in trace.info["notes"] if "prompt_tokens -5, completion_tokens 2.5" in note]


@pytest.mark.parametrize(
    ("failure", "says_so"),
    [
        (
            refuses(307, "", location="http://there:9/v2/chat/completions"),
            "give --base-url http://there:9/v2",
        ),
        (refuses(302, "", location="/login?next=x"), "/login; check --base-url"),
        (refuses(307, "", location="/v1/chat/completions"), "/v1/chat/completions; check --base-url"),
        (sends(b"<html>login</html>"), "it begins '<html>login</html>'"),
        (sends(b""), "empty"),
        (sends(b"data: {}\n\ndata: [DONE]"), "it begins 'data: {} data: [DONE]'"),
    ],
    ids=["moved", "login", "loop", "html", "nothing", "stream"],
)
def test_what_came_instead_of_a_reply_is_said(play, failure, says_so):
    trace, _ = play(at(0, failure), harness={"id": "kv-cache-eviction", "max_retries": 0})
    assert not trace.ok and says_so in trace.last_error.message


@pytest.mark.parametrize("other", [False, True], ids=["own harness", "null harness"])
def test_a_reply_that_its_limit_cut_before_the_first_word_counts_as_keep(play, kept, null_harness, other):
    trace, requests = play(
        lambda turn, body: cut(says("")) if turn in (3, 14) else keeps(turn, body),
        **({"harness": null_harness} if other else {}),
    )
    assert trace.ok, trace.errors
    assert len(requests) == trace.num_turns == 15 and trace.reward == kept.reward
    assert (trace.metrics["cut_replies"], trace.metrics["text_only_steps"]) == (2, 2)
    assert "2 of 15 replies were cut" in trace.info["notes"][0]
    assert "raise --max-tokens" in trace.info["notes"][0]


def test_a_reply_that_a_filter_withheld_counts_as_keep_and_the_notes_name_the_reason(play):
    withheld = {**says(""), "finish": "content_filter"}
    trace, requests = play(lambda turn, body: withheld if turn in (3, 9) else keeps(turn, body))
    assert trace.ok and len(requests) == 15, trace.errors
    assert "2 of 15 replies were withheld by the server's filter" in trace.info["notes"][0]


@pytest.mark.parametrize("status", [400, 422])
def test_a_model_that_wants_the_newer_name_of_the_limit_gets_it_from_then_on(status):
    def reasoning(turn: int, body: dict) -> dict:
        if "max_tokens" in body:
            return refuses(status, "Unsupported: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return keeps(turn, body)

    with serving(reasoning) as model:
        [episode] = episodes(environment(), model.base_url, max_tokens=500)
    assert episode.ok, episode.errors
    assert len(model.requests) == 16
    assert all(body.get("max_completion_tokens") == 500 for body in model.requests[1:])


def test_a_full_context_that_names_both_limits_is_no_wish_for_the_newer_name():
    full = "'max_tokens' or 'max_completion_tokens' is too large: 800. " + FULL
    with serving(at(6, refuses(400, full))) as model:
        [episode] = episodes(environment(), model.base_url, max_tokens=500)
    assert episode.traces[0].stop_condition == "context_overflow" and len(model.requests) == 7


@pytest.mark.parametrize(
    "fields",
    [
        {"function_call": {"name": "evict", "arguments": "{}"}},
        {"tool_calls": {"0": {"id": "a"}}},
        {"tool_calls": "evict"},
    ],
    ids=["legacy", "object", "text"],
)
def test_calls_in_a_form_that_is_not_read_are_named(play, fields):
    body = {"choices": [{"message": {"role": "assistant", "content": None, **fields}}]}
    trace, _ = play(
        at(0, sends(json.dumps(body).encode())), harness={"id": "kv-cache-eviction", "max_retries": 0}
    )
    message = trace.last_error.message
    assert not trace.ok and f"the field {next(iter(fields))!r} in a form that is not read" in message
    assert "overloaded" not in message


def test_a_reply_behind_a_byte_order_mark_is_read(play):
    head = {"id": "a", "object": "chat.completion", "created": 1, "model": "m"}
    choice = {"index": 0, "message": calls(("keep", {})), "finish_reason": "tool_calls"}
    reply = sends(b"\xef\xbb\xbf" + json.dumps({**head, "choices": [choice]}).encode())
    trace, requests = play(at(3, reply))
    assert trace.ok and len(requests) == 15, trace.errors
