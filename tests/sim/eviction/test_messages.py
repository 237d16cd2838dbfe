"""What a model is told after a step, without history."""

from kv_cache_rl.sim.eviction import Call, window_message


def test_calls_with_the_same_result_share_a_line_and_the_observation_is_the_last_one():
    calls = [Call("evict", "a"), Call("compress", "b"), Call("evict", "zz"), Call("evict", "c")]
    text = window_message(calls, ["ok", "ok", "refused: no entry 'zz'", "ok"], '{"left":3}')
    assert text == "evict a c, compress b: ok\nevict zz: refused: no entry 'zz'\n{\"left\":3}"


def test_a_call_without_an_id_and_one_that_could_not_be_read_are_told_too():
    calls = [Call("keep"), Call("?", error="evict: the arguments are not JSON")]
    text = window_message(calls, ["ok", "refused: evict: the arguments are not JSON"], "{}")
    assert text == "keep: ok\nrefused: evict: the arguments are not JSON\n{}"


def test_without_a_call_it_says_that_nothing_changed():
    assert window_message([], [], "{}") == "No tool was called, so nothing changed in that window.\n{}"
