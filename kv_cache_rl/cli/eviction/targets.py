"""What ``eval`` evaluates: policies behind an embedded endpoint, and models on servers of their own."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from kv_cache_rl.cli.eviction.options import choose_history, choose_policies, choose_view
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.files import slug, whole_text

DEFAULT_POLICIES = ["learned", "lru"]
DEFAULT_BASE_URL = "https://api.openai.com/v1"
DEFAULT_KEY_VAR = "OPENAI_API_KEY"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


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


def embedded_targets(policies: list[str]) -> list[dict]:
    return [{"model": name, "base_url": None, "api_key_var": "KV_CACHE_RL_NO_KEY"} for name in policies]


@contextmanager
def served(targets: list[dict]) -> Iterator[str | None]:
    """The base URL of the embedded endpoint, started only where a target needs it."""
    if all(target["base_url"] for target in targets):
        yield None
        return
    from kv_cache_rl.adapters.endpoint import serving

    with serving() as base_url:
        yield base_url


def targets_of(
    policy: list[str] | None, model: str | None, base_url: str | None, api_key_var: str | None
) -> list[dict]:
    """What a new run evaluates. Raises BadInput where the options do not fit together."""
    if model is not None and not model.strip():
        raise BadInput("--model is empty; name the model to evaluate, or leave it out")
    if model is not None and whole_text(model) != model:
        raise BadInput("--model is not UTF-8; name the model as its server lists it")
    if base_url and not model:
        raise BadInput("--base-url is given without --model; name the model to evaluate there")
    targets = embedded_targets(choose_policies(policy, [] if model else DEFAULT_POLICIES))
    targets += [hosted_target(model, base_url, api_key_var or DEFAULT_KEY_VAR)] if model else []
    names = [slug(target["model"], "model") for target in targets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(
            f"{twice[0]!r} is named twice, and both would write to one folder; evaluate one of them in "
            "a run of its own"
        )
    return targets


def shown(targets: list[dict], view: str | None, history: str | None) -> list[dict]:
    """The targets with the view and history that each plays: those given, or a model's brief view and a
    policy's full one, for which policies were written. Raises BadInput for one that does not exist."""
    kept = choose_history(history)
    return [
        target | {"view": choose_view(view, "brief" if target["base_url"] else "full"), "history": kept}
        for target in targets
    ]


def keep_shown(folder: Path, targets: list[dict], view: str | None, history: str | None) -> None:
    """Raises BadInput where a run would go on with another view or history than it began with."""
    for name, given in (("view", view), ("history", history)):
        for target in targets:
            if given is not None and given != target[name]:
                raise BadInput(
                    f"--{name} is {given}, but {folder} was begun with {name} {target[name]} for "
                    f"{target['model']}; leave out --{name}, or start a new run"
                )


def given(**options: float | None) -> dict:
    """The options that the user gave. Raises BadInput for a number that is none."""
    found = {name: value for name, value in options.items() if value is not None}
    if odd := [name for name, value in found.items() if not math.isfinite(value)]:
        raise BadInput(f"{odd[0].replace('_', ' ')} is {found[odd[0]]}; give a number, or leave it out")
    return found


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
