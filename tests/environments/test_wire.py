"""Past turns leave in one form that every server takes; replies are bounded before anything works on them."""

import json
import re
import time

import pytest
from kv_cache_eviction.past_turns import history, one_by_one
from verifiers.v1.dialects.chat import ChatDialect

from kv_cache_rl.adapters.wire import (
    MAX_CALLS_PER_STEP,
    MOST_CALLS,
    ODD,
    NoReply,
    calls_left_out,
    not_json,
    not_read,
    refusal,
    tamed,
)


def call(name: object = "evict", arguments: object = '{"seq_id": "s1"}', **more: object) -> dict:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def said(*calls: object, content: object = None, **more: object) -> dict:
    return {"role": "assistant", "content": content, "tool_calls": list(calls), **more}


def body(message: object, finish: object = "stop", **more: object) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], **more}).encode()


def reply_of(message: object, finish: object = "stop", **more: object) -> dict:
    return json.loads(tamed(body(message, finish, **more)))


def message_of(message: object, **more: object) -> dict:
    return reply_of(message, **more)["choices"][0]["message"]


# To the server.


def test_what_is_in_the_form_already_goes_out_as_it_is():
    dialogue = [
        {"role": "system", "content": "rules"},
        {"role": "user", "content": "go"},
        said(call(), content=None),
        {"role": "tool", "tool_call_id": "c1", "content": "ok", "name": "evict"},
        {"role": "assistant", "content": "I wait.", "reasoning_content": "hm"},
    ]
    assert history(dialogue) == dialogue


@pytest.mark.parametrize(
    ("past", "sent"),
    [
        ({"role": "assistant", "tool_calls": [call()]}, said(call())),
        (said(call(), content=""), said(call())),
        (said(content="I wait."), {"role": "assistant", "content": "I wait."}),
        ({"role": "assistant"}, {"role": "assistant", "content": ""}),
        ({"role": "assistant", "content": None, "tool_calls": None}, {"role": "assistant", "content": ""}),
        ({"role": "assistant", "refusal": "No."}, {"role": "assistant", "content": "No."}),
        (
            {"role": "assistant", "content": "a", "annotations": [], "audio": None},
            {"role": "assistant", "content": "a"},
        ),
    ],
    ids=["no content", "empty content", "no calls", "nothing", "nulls", "refusal", "fields of replies"],
)
def test_an_assistant_turn_always_has_content_and_never_an_empty_list_of_calls(past, sent):
    assert history([past]) == [sent]


@pytest.mark.parametrize(
    ("given", "goes_out"),
    [
        ("", "{}"),
        ("  ", "{}"),
        (None, "{}"),
        ({"seq_id": "s1"}, '{"seq_id": "s1"}'),
        ('{"seq_id":"s1"}', '{"seq_id":"s1"}'),
        ('{"seq_id": "', '{"unreadable": "{\\"seq_id\\": \\""}'),
        ('"{}"', '{"unreadable": "\\"{}\\""}'),
        ("[1]", '{"unreadable": "[1]"}'),
        ('{"x": NaN}', '{"unreadable": "{\\"x\\": NaN}"}'),
        ('{"x": "\\ud800"}', '{"unreadable": "{\\"x\\": \\"\\\\ud800\\"}"}'),
    ],
)
def test_arguments_go_out_as_the_text_of_a_json_object(given, goes_out):
    [sent] = history([said(call(arguments=given))])
    assert sent["tool_calls"][0]["function"]["arguments"] == goes_out


def test_ids_are_present_and_unique_and_results_follow_their_calls():
    asked = [call(), call("keep", "{}"), {**call(), "id": ""}, {**call(), "id": None}]
    results = [{"role": "tool", "tool_call_id": c["id"], "content": str(k)} for k, c in enumerate(asked)]
    sent = history([said(*asked), *results, said(*asked), *results])
    ids = [c["id"] for m in sent for c in m.get("tool_calls", ())]
    assert len(set(ids)) == 8 and all(ids)
    assert [m["tool_call_id"] for m in sent if m["role"] == "tool"] == ids
    assert history([said(*asked), *results]) == sent[:5], "what was sent once is sent again in the same form"


def test_ids_that_are_made_here_have_nine_letters_and_digits():
    asked = [{**call(), "id": given} for given in ("abcdefghi", "abcdefghi", "", None)]
    for made in (message_of(said(*asked)), history([said(*asked), said(*asked)])[1]):
        ids = [one["id"] for one in made["tool_calls"]]
        assert len(set(ids)) == 4 and all(re.fullmatch("[A-Za-z0-9]{9}", one) for one in ids)


def test_a_turn_of_several_calls_becomes_turns_of_one_call_each_with_its_result():
    first, second = ({**call(), "id": name} for name in ("a", "b"))
    results = [{"role": "tool", "tool_call_id": name, "content": name} for name in ("a", "b")]
    alone = [said(first), results[0]]
    asked = {"role": "user", "content": "x"}
    assert list(one_by_one([asked, said(first, second, content="I act"), *results, *alone])) == [
        asked,
        said(first, content="I act"),
        results[0],
        said(second),
        results[1],
        *alone,
    ]


def test_names_have_the_characters_that_the_schema_of_requests_allows():
    [turn, result] = history(
        [said(call("functions.evict now")), {"role": "tool", "tool_call_id": "c1", "name": "functions.evict"}]
    )
    assert turn["tool_calls"][0]["function"]["name"] == "functions_evict_now"
    assert result["name"] == "functions_evict"


# From the server.


def test_a_complete_reply_keeps_its_meaning():
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "details": {"cached": 1}}
    given = {**said(call(), content="x"), "reasoning_content": "hm"}
    reply = reply_of(given, "tool_calls", usage=usage, model="m", created=7)
    assert reply["choices"] == [{"index": 0, "message": given, "finish_reason": "tool_calls"}]
    assert (reply["usage"], reply["model"], reply["created"]) == (usage, "m", 7)


@pytest.mark.parametrize(
    ("finish", "read_as"),
    [
        *(("eos_token", "stop"), (None, "stop"), ("max_tokens", "length"), ("length", "length"), (7, "stop")),
        *(("MAX_TOKENS", "length"), ("sensitive", "content_filter"), ("SAFETY", "content_filter")),
    ],
)
def test_the_words_of_other_servers_for_an_end_are_understood(finish, read_as):
    assert reply_of({"content": "x"}, finish)["choices"][0]["finish_reason"] == read_as


def test_fields_that_a_server_leaves_out_are_filled_in():
    reply = json.loads(tamed(b'{"choices": [{"message": {"content": [{"type": "text", "text": "hi"}]}}]}'))
    assert reply["choices"][0]["message"] == {"role": "assistant", "content": "hi"}
    assert {"id", "created", "model", "object"} <= set(reply)
    assert reply_of({"content": "x"}, usage={"prompt_tokens": None})["usage"]["total_tokens"] == 0
    assert message_of({"content": None, "refusal": "I will not."})["content"] == "I will not."


@pytest.mark.parametrize("odd", [-5, 2.5, "3", True, [], 10**30])
def test_a_count_of_tokens_that_cannot_be_is_0_and_said(odd):
    given = {"prompt_tokens": odd, "completion_tokens": 2, "total_tokens": "3", "cost": "free"}
    given |= {"prompt_tokens_details": {"cached_tokens": odd}, "completion_tokens_details": "none"}
    usage = reply_of({"content": "x"}, usage=given)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (0, 2, 2)
    assert usage[ODD].startswith("prompt_tokens ") and usage["prompt_tokens_details"] == {}
    assert not {"cost", "completion_tokens_details"} & set(usage)


def test_fields_of_other_kinds_that_decide_nothing_are_put_right():
    reply = reply_of({"content": "x"}, id=7, created="now", model=None, system_fingerprint=3)
    ChatDialect().validate_response(reply)
    assert (reply["id"], reply["created"], reply["model"]) == ("chat", 0, "")


def test_a_body_that_is_no_json_is_named_by_its_start_and_its_kind():
    assert not_json(b"<html>\nlogin", "text/html") == "text/html, it begins '<html> login'"
    assert not_json(b"", "") == "no content type, empty" and not_json(b"{}", "") is None


@pytest.mark.parametrize("calls", [None, [], "evict", {}])
def test_a_list_of_calls_that_is_none_is_left_out(calls):
    assert message_of({"content": "x", "tool_calls": calls}) == {"role": "assistant", "content": "x"}


def test_calls_of_any_shape_become_calls_in_openais_form():
    odd = [None, {}, {"function": {"name": 7, "arguments": {"seq_id": "s1"}}}, call(None, None)]
    odd.append({"type": "custom", "custom": {"name": "evict", "input": "s1"}})
    made = message_of(said(*odd))["tool_calls"]
    assert [c["function"]["name"] for c in made] == ["?", "?", "7", "?", "evict"]
    assert [c["function"]["arguments"] for c in made] == ["", "", '{"seq_id":"s1"}', "", "s1"]
    assert len({c["id"] for c in made}) == 5 and {c["type"] for c in made} == {"function"}


def test_arguments_too_long_or_too_deep_are_replaced_by_what_they_were():
    long, deep = message_of(said(call(arguments="x" * 10_000), call(arguments="[" * 5000 + "]" * 5000)))[
        "tool_calls"
    ]
    assert not_read(long["function"]["arguments"]) == "10,000 characters"
    assert not_read(deep["function"]["arguments"]) == "10,000 characters"
    [nested] = message_of(said(call(arguments="[" * 1000)))["tool_calls"]
    assert not_read(nested["function"]["arguments"]) == "1,000 nested brackets"
    assert not_read('{"seq_id": "not_read"}') is None


def test_a_model_that_writes_the_note_itself_is_not_believed():
    note = json.dumps({"not_read": "1000 calls"})
    [made] = message_of(said(call(arguments=note)))["tool_calls"]
    given = made["function"]["arguments"]
    assert not_read(given) is None and calls_left_out(given) == 0
    assert json.loads(given) == json.loads(note), "what it wrote is still what it wrote"


def test_so_many_calls_as_are_answered_one_by_one_stay_and_of_more_one_stands_for_the_rest():
    assert len(message_of(said(*[call()] * MOST_CALLS))["tool_calls"]) == MOST_CALLS
    made = message_of(said(*[call()] * 3000))["tool_calls"]
    assert len(made) == MAX_CALLS_PER_STEP + 1
    assert calls_left_out(made[-1]["function"]["arguments"]) == 3000 - MAX_CALLS_PER_STEP - 1
    assert calls_left_out(made[0]["function"]["arguments"]) == 0


def test_text_that_is_no_unicode_is_repaired():
    raw = body({"content": "a\ud800b"}).replace(b"\\ud800", b"\\ud800\xff")
    assert json.loads(tamed(raw))["choices"][0]["message"]["content"].startswith("a")
    tamed(raw).decode()


@pytest.mark.parametrize("raw", [b"<html>", b"", b"[" * 100_000, b"\xff\xfe"])
def test_a_body_that_is_no_json_stays_for_verifiers_to_refuse(raw):
    assert tamed(raw) == raw


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"message": "slow down", "code": 429}, 429),
        ({"message": "no credit", "code": "402"}, 402),
        ({"message": "slow down", "code": "rate_limit_exceeded"}, 429),
        ({"message": "too long", "type": "invalid_request_error", "code": None}, 400),
        ({"message": "overloaded", "code": True}, 500),
        ("model not loaded", 500),
    ],
)
def test_an_error_in_place_of_a_reply_has_the_status_that_it_names(error, status):
    found = refusal(json.dumps({"error": error}).encode())
    assert found is not None and found[0] == status
    assert (error if isinstance(error, str) else error["message"]) in found[1]
    choice = {"finish_reason": "error", "error": error, "message": {"content": "I wi"}}
    assert refusal(json.dumps({"choices": [choice]}).encode()) == found


@pytest.mark.parametrize("raw", [{"content": 'the "error"'}, {"content": "x", "error": None}])
def test_a_reply_that_speaks_of_an_error_is_none(raw):
    assert refusal(body(raw)) is None and refusal(body(raw, error=None)) is None
    assert refusal(body(raw, error={"message": "a warning"})) is None
    assert refusal(b'{"error"') is None and refusal(b'["error"]') is None


@pytest.mark.parametrize("finish", ["error", "abort", "insufficient_system_resource"])
def test_a_reply_that_the_server_broke_off_is_no_decision(finish):
    with pytest.raises(NoReply, match=f"broke its reply off .finish_reason '{finish}'"):
        tamed(body({"content": "I will"}, finish))


@pytest.mark.parametrize(
    "raw", [b"[]", b"null", b"{}", b'{"choices": []}', b'{"choices": [{}]}', b'{"error": {"message": "no"}}']
)
def test_a_body_without_a_message_says_what_it_holds_instead(raw):
    with pytest.raises(NoReply, match="without an assistant message: "):
        tamed(raw)


def test_a_reply_of_a_hundred_thousand_calls_takes_a_fraction_of_a_second():
    raw = body(said(*[call()] * 100_000))
    started = time.process_time()
    tamed(raw)
    assert time.process_time() - started < 3
