"""``python -m kv_cache_rl.adapters.http.warm``: has everything compiled that the server may run.

A container image is built with it, so that neither a start nor a first request waits for the compiler.
"""

import argparse
import asyncio

from kv_cache_rl.adapters.http import episodes, jobs, serving
from kv_cache_rl.adapters.http.lab import COMPILE_S
from kv_cache_rl.adapters.http.limits import Limits
from kv_cache_rl.adapters.http.server import compiled
from kv_cache_rl.adapters.http.worlds import ServingWorld
from kv_cache_rl.agents import AGENTS
from kv_cache_rl.code_cache import Locator
from kv_cache_rl.sim.eviction import DECIDERS, load_scenarios
from kv_cache_rl.sim.hierarchy.policies import POLICIES
from kv_cache_rl.sim.serving.spec import task


def warm_serving(limits: Limits) -> None:
    """Every agent, for a few ticks of an episode and of a session."""
    scenario = task("hard", ticks=5)
    world = ServingWorld(scenario, 0)
    for name in AGENTS:
        serving.simulated(name, scenario, 0, limits)
        world.reset(scenario, 0)
        world.play(name, 2)
    world.numbers()


def warm_eviction() -> None:
    """Every decider, for an episode."""
    (scenario,) = load_scenarios("hard", num_examples=1)
    for name in DECIDERS:
        episodes.told(scenario, episodes.by_policy(name, scenario))


async def warm_jobs(limits: Limits, *works: str) -> None:
    """Works of jobs, one after the other, with every policy that they may be asked for."""
    for work in works:
        small = jobs.SMALL[work]
        given = small | ({"policies": list(POLICIES)} if "policies" in small else {})
        await jobs.run(work, given, COMPILE_S, limits.job_bytes)


async def warm(limits: Limits) -> None:
    """Everything. The hierarchy lab, which shares no code with the worlds, is compiled beside them."""
    hierarchy = [work for work in jobs.SMALL if work != "plan"]

    def worlds() -> None:
        compiled()
        warm_serving(limits)
        warm_eviction()

    await asyncio.gather(asyncio.to_thread(worlds), warm_jobs(limits, *hierarchy))
    await warm_jobs(limits, "plan")  # on the code that the worlds have left


def main() -> None:
    """Compiles; says where the code lies."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    asyncio.run(warm(Limits()))
    print(Locator.folder)


if __name__ == "__main__":
    main()
