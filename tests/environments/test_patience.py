"""What a refusal means, and how long it is waited for."""

from email.utils import formatdate

import httpx
import pytest
import verifiers.v1 as vf
from kv_cache_eviction.patience import Patience, asked_to_wait, meaning, pause_after

from kv_cache_rl.adapters import patience
from kv_cache_rl.cli.eviction.findings import hint


def refused(status: int, text: str = "", **headers: str) -> vf.ProviderError:
    """The error that verifiers makes of an answer."""
    request = httpx.Request("POST", "http://there/v1/chat/completions")
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = httpx.Response(status, headers=given, request=request)
    error = vf.ProviderError(f"upstream {status}: {text}", status_code=status)
    error.__cause__ = httpx.HTTPStatusError("", request=request, response=answer)
    return error


def lost(status: int = 503) -> vf.ProviderError:
    error = vf.ProviderError("All connection attempts failed", status_code=status)
    error.__cause__ = httpx.ConnectError("All connection attempts failed")
    return error


def wrong(text: str) -> vf.ProviderError:
    """The client's own error for an answer that is no reply."""
    return vf.ProviderError(text, status_code=502)


OVERFLOWS = [
    "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens",
    '{"code": "context_length_exceeded"}',
    "'max_tokens' is too large: 800. This model's maximum context length is 8192 tokens and your request has",
    "the request exceeds the available context size, try increasing it",
    '{"type": "exceed_context_size_error"}',
    "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
    "Requested token count exceeds the model's maximum context length of 8192 tokens.",
    "the input length exceeds the context length",
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8192. Given: 9000",
    "Input validation error: `inputs` must have less than 8191 tokens. Given: 9000",
    "prompt is too long: 210000 tokens > 200000 maximum",
    "Please reduce the length of the messages or completion.",
    "Your input exceeds the context window of this model.",
    "The input token count (9000) exceeds the maximum number of tokens allowed (8192).",
    "input length and `max_tokens` exceed context limit: 8190 + 500 > 8192",
    "Context size has been exceeded.",
    "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]",
    "Invalid request: Your request exceeded model token limit: 8192",
    "This model's maximum prompt length is 131072 but the request contains 140000 tokens.",
    "The number of tokens to keep from the initial prompt is greater than the context length.",
    "prompt too long; exceeded max context length by 812 tokens",
    "Prompt exceeds max length",
    "too many tokens: size limit exceeded by 900 tokens. Try using shorter or fewer inputs.",
    "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 280000 tokens.",
    "The decoder prompt (length 9000) is longer than the maximum model length of 8192.",
    "max_tokens must be at least 1, got -83.",
    "litellm.ContextWindowExceededError: litellm.BadRequestError",
]
TOO_FAST = "Request too large on tokens per minute (TPM): Limit 6000, Requested 8000. rate_limit_exceeded"


@pytest.mark.parametrize("text", OVERFLOWS)
@pytest.mark.parametrize("status", [400, 500])
def test_the_known_wordings_of_a_full_context_are_told_from_other_refusals(text, status):
    assert meaning(refused(status, text)) == "overflow"


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (refused(413, "too large"), "overflow"),
        (refused(413, TOO_FAST), "final"),
        (refused(402, "insufficient credits"), "final"),
        (refused(429, "rate limit reached"), "busy"),
        (refused(429, "You exceeded your current quota, check your billing"), "final"),
        (refused(503, "loading model"), "busy"),
        (refused(429, "Rate limit exceeded: 20 requests per minute"), "busy"),
        (refused(403, "Key limit exceeded (total limit)"), "final"),
        (refused(400, "Your credit balance is too low to access the API"), "final"),
        (refused(400, "This model only supports single tool-calls at once!"), "single calls"),
        (refused(400, "Conversation roles must alternate user/assistant/user/assistant/..."), "final"),
        (refused(529, "overloaded"), "busy"),
        (lost(503), "broken"),
        (lost(504), "broken"),
        (refused(500, "CUDA error"), "broken"),
        (refused(502), "broken"),
        (refused(408), "broken"),
        (refused(500, "output that does not match the expected peg-native format"), "garbled"),
        (refused(400, '{"code": "tool_use_failed", "failed_generation": "<evict>"}'), "garbled"),
        (refused(400, "unknown field"), "final"),
        (refused(401, "no key"), "final"),
        (refused(404, "no such model"), "final"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_every_refusal_has_one_meaning(error, what):
    assert meaning(error) == what


def test_the_server_names_its_wait_in_seconds_in_milliseconds_or_as_a_date():
    now = 1_700_000_000.0
    assert asked_to_wait(refused(429, retry_after="5")) == 5
    assert asked_to_wait(refused(429, retry_after="0.5")) == 0.5
    assert asked_to_wait(refused(429, retry_after_ms="1500", retry_after="9")) == 1.5
    assert asked_to_wait(refused(429, retry_after=formatdate(now + 60, usegmt=True)), now) == 60
    assert asked_to_wait(refused(429, retry_after=formatdate(now - 60, usegmt=True)), now) == 0
    assert asked_to_wait(refused(429, retry_after="soon")) is None
    assert all(
        asked_to_wait(refused(429, retry_after=said)) is None for said in ("inf", "nan", "1e400", "", "-inf")
    )
    assert asked_to_wait(refused(429, retry_after_ms="nan", retry_after="9")) == 9
    assert asked_to_wait(refused(429)) is None and asked_to_wait(lost()) is None


def test_the_servers_wait_is_kept_and_pauses_without_one_grow_to_half_a_minute(monkeypatch):
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 1.0)
    assert 5 <= pause_after(refused(429, retry_after="5"), 1, 0, Patience(), False) <= 5.25
    pauses = [pause_after(refused(503), tries, 0, Patience(), True) for tries in range(1, 9)]
    assert all(0.75 * 2**k <= pause <= 2**k for k, pause in enumerate(pauses[:5]))
    assert max(pauses) <= 30


def test_a_busy_server_is_waited_for_as_long_as_the_patience_lasts():
    limits = Patience(max_retries=0, seconds=100)
    assert pause_after(refused(429, retry_after="20"), 9, 60, limits, False) >= 20
    with pytest.raises(vf.ProviderError, match="asks to wait 20 s more, the patience is 100 s; raise"):
        pause_after(refused(429, retry_after="20"), 9, 90, limits, False)


@pytest.mark.parametrize("said", ["0", "0.05", "-3", formatdate(1, usegmt=True)])
def test_a_busy_server_that_asks_for_no_pause_is_not_asked_without_end(said):
    limits, waited, tries = Patience(max_retries=0, seconds=5), 0.0, 0
    with pytest.raises(vf.ProviderError, match=r"waited [1-5] s, the patience is 5 s; raise --patience"):
        while tries < 100:
            tries += 1
            waited += pause_after(refused(429, retry_after=said), tries, waited, limits, True)


def test_a_broken_call_is_repeated_a_few_times_and_fewer_where_nothing_was_ever_answered():
    limits = Patience(max_retries=4)
    for proven, most in ((True, 4), (False, 3)):
        for tries in range(1, most + 1):
            pause_after(lost(), tries, 0, limits, proven)
        with pytest.raises(vf.ProviderError, match=f"failed; gave up after {most + 1} tries"):
            pause_after(lost(), most + 1, 0, limits, proven)


@pytest.mark.parametrize("error", [refused(401, "no key"), refused(400, OVERFLOWS[0])])
def test_what_no_waiting_mends_is_said_at_once(error):
    with pytest.raises(vf.ProviderError) as told:
        pause_after(error, 1, 0, Patience(), True)
    assert told.value is error


TARGET = {"base_url": "http://there/v1", "api_key_var": "MY_KEY", "model": "m"}


@pytest.mark.parametrize(
    ("error", "says"),
    [
        *((refused(400, text), "the first prompt alone does not fit") for text in OVERFLOWS),
        (refused(400, "no context is given"), "its words above say why"),
        (refused(413, "entity too large"), "client_max_body_size"),
        (refused(413, TOO_FAST), "raise its limit of tokens"),
        (refused(429, "insufficient_quota"), "the account of the key in MY_KEY is spent; add credit"),
        (refused(402, "insufficient credits"), "is spent"),
        (refused(429, "slow down"), "lower --max-concurrent"),
        (lost(), "does http://there/v1 answer"),
        (refused(401, "Incorrect API key"), "does not take the key in MY_KEY"),
        (refused(403, "Key limit exceeded (total limit)"), "is spent"),
        (refused(403, "Country, region, or territory not supported"), "its words above say why"),
        (refused(400, "only supports single tool-calls at once!"), "--history window"),
        (
            refused(500, "After the system message, roles must alternate"),
            "no results of tools; evaluate it with",
        ),
        (wrong("the server answered with the field 'function_call' in a form"), "in no form that is read"),
        (wrong("the server answered without an assistant message: {}"), "in no form that is read"),
        (wrong("malformed upstream response: no JSON came"), "in no form that is read"),
        (wrong("Error -3 while decompressing data: incorrect header check"), "what comes is damaged"),
        (wrong("illegal chunk header: bytearray(b'zz')"), "what comes is damaged"),
        (wrong("peer closed connection without sending complete message body (received 3 bytes)"), "damaged"),
        (refused(307, "the server sends it on to http://a; give --base-url http://a"), "error names"),
        (refused(302, "the server sends the call on to http://a/login; check --base-url"), "a log-in page"),
        (wrong("the server broke its reply off (finish_reason 'abort')"), "answers, but fails"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_hint_after_a_failure_takes_it_as_the_client_does(error, says):
    assert says in hint(TARGET, str(error))
