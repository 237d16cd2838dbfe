"""Every route with what no one would send, and sessions in orders that no one would try (schemathesis)."""

import os

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import checks as rules

from kv_cache_rl.adapters.http.app import create_app
from kv_cache_rl.adapters.http.limits import Limits

SMALL = Limits(ticks=200, requests=2_000, rows=5_000, sessions=32, run_seconds=20.0)
"""What a request may ask for, so that one takes milliseconds."""
EXAMPLES = int(os.environ.get("KV_CACHE_RL_FUZZ_EXAMPLES", "4"))
"""Requests for each route; more look longer."""
HELD = (
    rules.not_a_server_error,
    rules.status_code_conformance,
    rules.content_type_conformance,
    rules.response_schema_conformance,
    rules.use_after_free,
)
"""What every answer is held to. That a body of the right shape is taken is not: a name may not exist."""
APP = create_app(SMALL, hosts=("testserver", "localhost"))
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP)
PROCESSES = "/api/hierarchy/(curves|replays|traces)$"
"""Each starts a process; test_hierarchy sends these what is wrong."""
STREAMS = "stream$|events$"
CALM = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


@SCHEMA.exclude(path_regex=f"{PROCESSES}|{STREAMS}").parametrize()
@CALM
def test_no_request_breaks_the_server_or_the_description(case):
    case.call_and_validate(checks=HELD)


class Machine(SCHEMA.exclude(path_regex=f"{PROCESSES}|{STREAMS}").as_state_machine()):
    """Calls in an order that the links allow: what one made is stepped, read, reset and deleted by others."""

    def validate_response(self, response, case, **more):
        case.validate_response(response, checks=HELD)


class TestOrders(Machine.TestCase):
    settings = settings(CALM, max_examples=EXAMPLES, stateful_step_count=10, phases=(Phase.generate,))
