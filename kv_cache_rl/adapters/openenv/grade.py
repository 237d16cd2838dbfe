"""``python -m kv_cache_rl.adapters.openenv.grade URL``: grades a running OpenEnv server of this project.

It does over the WebSocket what OpenEnv's own validation does not yet: the oracle's actions reach their
return, canaries stay at or below the floor, the same seed gives the same bytes, sessions know nothing of one
another, places of clients that are gone are free again, and what is wrong is answered with a sentence.

Run it against a server that nothing else plays on: it takes every session there is for a moment.
"""

import argparse
import json
import sys
import time
import urllib.request
from collections.abc import Iterable, Sequence
from typing import Any

from kv_cache_rl.adapters.openenv.checks import CHECKS, Server
from kv_cache_rl.adapters.openenv.plays import WORLDS
from kv_cache_rl.adapters.openenv.socket import Unreachable, socket_url
from kv_cache_rl.core.errors import Refused, unknown
from kv_cache_rl.files import json_text


def name_at(url: str) -> str:
    """The environment that a server plays. Raises Unreachable where it is none of this project's."""
    socket_url(url)
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/list_environments", timeout=60) as answer:
            names = json.load(answer)
    except (OSError, ValueError) as wrong:
        raise Unreachable(
            f"no OpenEnv server answers at {url[:80]} ({wrong}); start one, or give the address of one"
        ) from None
    known = [name for name in names if name in WORLDS] if isinstance(names, list) else []
    if not known:
        raise Unreachable(
            f"the server at {url[:80]} plays {str(names)[:80]}; this grades {', '.join(WORLDS)}"
        )
    return known[0]


def graded(server: Server, names: Iterable[str]) -> list[dict[str, Any]]:
    """Each of these checks with what it found."""
    rows = []
    for name in names:
        started = time.monotonic()
        try:
            passed, found = True, CHECKS[name](server)
        except Refused as wrong:
            passed, found = False, str(wrong)
        rows.append({"check": name, "passed": passed, "found": found, "seconds": time.monotonic() - started})
        print(f"{'PASS' if passed else 'FAIL'}  {name}: {found[:300]}", file=sys.stderr, flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Says for each check what was found; exit code 1 where one failed, 2 where there is nothing to grade."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url", help="such as http://127.0.0.1:8000")
    parser.add_argument(
        "--sessions", type=int, default=64, help="how many sessions the server has to give away"
    )
    parser.add_argument("--idle-s", type=float, help="after how long it has to close a silent session")
    parser.add_argument("--check", action="append", help="one of the checks; repeated; default: every one")
    parser.add_argument("--json", action="store_true", help="what was found as JSON on stdout, too")
    given = parser.parse_args(arguments)
    try:
        if not 1 <= given.sessions <= 1_000:
            raise Refused(f"--sessions is {given.sessions}; give a whole number from 1 to 1,000")
        for check in given.check or ():
            if check not in CHECKS:
                raise Refused(f"--check: {unknown('check', check, CHECKS)}")
        name = name_at(given.url)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    server = Server(given.url.rstrip("/"), name, WORLDS[name], given.sessions, given.idle_s)
    rows = graded(server, given.check or CHECKS)
    if given.json:
        print(json_text({"environment": name, "url": server.url, "checks": rows}))
    raise SystemExit(not all(row["passed"] for row in rows))


if __name__ == "__main__":
    main()
