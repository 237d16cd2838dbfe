"""Options of a chat model, for every command that asks one: where it is served, how it writes, what it costs,
how long it is waited for.
"""

import os
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlsplit

from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.options import DECODING, OUTPUT, POLICIES, RUNNING, model, option, temperature

DEFAULT_BASE_URL = "https://api.openai.com/v1"
DEFAULT_KEY_VAR = "OPENAI_API_KEY"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PARSERS = (
    "does the server parse tool calls? (vLLM: --enable-auto-tool-choice --tool-call-parser NAME; "
    "llama.cpp: --jinja; SGLang: --tool-call-parser NAME.)"
)
"""What to look at where no reply held a tool call."""

Model = Annotated[str | None, model("A model on an OpenAI-compatible server.")]
BaseUrl = Annotated[
    str | None,
    option(POLICIES, "--base-url", help=f"Its server; default $OPENAI_BASE_URL or {DEFAULT_BASE_URL}."),
]
KeyVar = Annotated[
    str | None,
    option(
        POLICIES,
        "--api-key-var",
        help=f"Environment variable that holds its API key; default {DEFAULT_KEY_VAR}.",
    ),
]
MaxTokens = Annotated[int | None, option(DECODING, "--max-tokens", help="Longest reply, in tokens.", min=1)]
Temperature = Annotated[float | None, temperature()]
PriceIn = Annotated[
    float | None,
    option(OUTPUT, "--price-in", help="Price of a million tokens read, to show money.", min=0),
]
PriceOut = Annotated[float | None, option(OUTPUT, "--price-out", help="Of a million tokens written.", min=0)]
PriceCached = Annotated[
    float | None,
    option(OUTPUT, "--price-cached", help="Of a million read from a cache; default: --price-in.", min=0),
]
MaxConcurrent = Annotated[
    int | None,
    option(
        RUNNING,
        "--max-concurrent",
        help="Episodes in flight, default 32, in the serving world 8; a local server with one slot wants 1.",
        min=1,
    ),
]
Timeout = Annotated[
    float | None,
    option(
        RUNNING,
        "--timeout",
        help="Seconds that one model call may take; default 600, in the serving world 60.",
        min=1,
    ),
]
MaxRetries = Annotated[
    int | None,
    option(
        RUNNING,
        "--max-retries",
        help="Repetitions of a call that was lost or ended in a server error; default 6, in the serving "
        "world 2.",
        min=0,
    ),
]
Patience = Annotated[
    float | None,
    option(
        RUNNING,
        "--patience",
        help="Seconds that one call may wait for a busy server (429, 503); default 300, in the serving "
        "world 60.",
        min=0,
    ),
]


def hosted_target(model: str, base_url: str | None, api_key_var: str) -> dict:
    """A model on an OpenAI-compatible server.

    Raises BadInput for a bad URL or a missing key for a remote server.
    """
    url = base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.scheme in ("http", "https") and parts.port != 0 else None
    except ValueError:
        host = None
    if not host:
        raise BadInput(f"--base-url {url!r} is not an address; give something like http://127.0.0.1:8000/v1")
    if not os.environ.get(api_key_var) and host not in LOOPBACK:
        raise BadInput(
            f"{api_key_var} is not set, and {host} wants a key; export it, or name another --api-key-var"
        )
    return {"model": model, "base_url": url, "api_key_var": api_key_var}


def refuse_without_model(base_url: str | None, api_key_var: str | None, sampling: Mapping) -> None:
    """Raises BadInput for what is said to a model where none is named: the policies would not hear it."""
    said = {"base_url": base_url, "api_key_var": api_key_var, **sampling}
    if alone := next((name for name, value in said.items() if value is not None), None):
        option = alone.replace("_", "-")
        raise BadInput(f"--{option} is given without --model; name the model that it is for")


def given(**options: float | None) -> dict:
    """The options that the user gave."""
    return {name: value for name, value in options.items() if value is not None}


def prices_of(read: float | None, written: float | None, cached: float | None) -> dict:
    """The prices that were given; cached tokens cost what others do unless said.

    Raises BadInput where one of the two that are needed is missing.
    """
    prices = given(price_in=read, price_out=written, price_cached=cached)
    if not prices:
        return {}
    for name in ("price_in", "price_out"):
        if name not in prices:
            has = next(iter(prices)).replace("_", "-")
            raise BadInput(
                f"--{has} is given without --{name.replace('_', '-')}; give both, per million tokens"
            )
    read = prices["price_in"]
    return {"in": read, "out": prices["price_out"], "cached": prices.get("price_cached", read)}
