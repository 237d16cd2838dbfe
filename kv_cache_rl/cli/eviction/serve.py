"""``serve-policy``: a policy as a chat model on this machine."""

import socket
from contextlib import suppress
from typing import Annotated

from kv_cache_rl.cli import options
from kv_cache_rl.cli.failures import choose
from kv_cache_rl.cli.options import AsJson, Port
from kv_cache_rl.cli.terminal import console, print_json, styled, waiting


def run_serve(
    policy: Annotated[str | None, options.policy("Serve this policy only; default: all of them.")] = None,
    port: Port = 8000,
    as_json: AsJson = False,
) -> None:
    """Serve policies as chat models, from an OpenAI-compatible server on loopback.

    The model's name is the policy's.

    Example: kv-cache-rl serve-policy --policy learned --port 8000
    """
    from kv_cache_rl.adapters.endpoint import base_url_of, compiled, listen, server_for
    from kv_cache_rl.sim.eviction import DECIDERS

    models = list(DECIDERS) if policy is None else [choose("policy", policy, DECIDERS)]
    listener: socket.socket = listen(port)
    base_url = base_url_of(listener)
    with listener:
        with waiting("compiling the policies", as_json):
            compiled()
        if as_json:
            print_json({"base_url": base_url, "models": models})
        else:
            console().print(
                styled(
                    (base_url, "bold"), f"\nmodels: {', '.join(models)}\nany API key will do; Ctrl-C stops"
                )
            )
        with suppress(KeyboardInterrupt):
            server_for(policy).run(sockets=[listener])
