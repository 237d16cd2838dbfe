"""``serve``: every world over HTTP, with a page, until it is interrupted."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

from kv_cache_rl.cli import options
from kv_cache_rl.cli.options import RUNNING, AsJson, Port
from kv_cache_rl.cli.terminal import console, print_json, styled, waiting


def run_serve(
    port: Port = 7860,
    host: Annotated[
        str,
        options.host("Address to listen on; 0.0.0.0 lets other machines in (--allow-host).", RUNNING),
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        options.option(
            RUNNING,
            "--allow-host",
            help="A name that browsers may ask for, such as lab.example.org; by comma or repeated. Any other "
            "is refused, but for this machine's own.",
            # A Hugging Face Space says its name in the first.
            envvar=["SPACE_HOST", "KV_CACHE_RL_ALLOW_HOST"],
        ),
    ] = None,
    runs: Annotated[
        Path,
        options.option(RUNNING, "--runs", help="The folder whose run folders are shown; nothing else is."),
    ] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Serve every world over HTTP: simulations, sessions, streams, run folders, metrics for Prometheus.

    /openapi.json describes the calls, docs/api_http.md explains them. Ctrl-C stops.

    Example: kv-cache-rl serve --port 7860 --runs runs

    For others: kv-cache-rl serve --host 0.0.0.0 --allow-host lab.example.org
    """
    from kv_cache_rl.adapters.http.server import Server, check_hosts, check_runs, compiled, opened, url_of

    names = tuple(options.names_of(allow_host))
    check_hosts(host, names)
    check_runs(runs)
    with opened(port, host) as listener:
        with waiting("compiling the simulators", as_json):
            compiled()
        url = url_of(listener)
        if as_json:
            print_json({"url": url, "runs": str(runs), "allowed_hosts": list(names)})
        else:
            console().print(styled((url, "bold"), f"\nruns: {runs}\nCtrl-C stops"))
        with suppress(KeyboardInterrupt):
            Server(runs=runs, hosts=names).run(sockets=[listener])
