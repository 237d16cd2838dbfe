"""Places for what runs at a time: kept, given back whatever happens, and refused where too many wait."""

import asyncio
import threading
import time

import pytest

from kv_cache_rl.adapters.http.errors import Problem
from kv_cache_rl.adapters.http.gates import Gate, Threads


def test_work_runs_in_threads_and_the_loop_goes_on():
    async def both():
        threads, beats = Threads("work", 2, 9), 0
        work = asyncio.create_task(threads(time.sleep, 0.3))
        while not work.done():
            await asyncio.sleep(0.01)
            beats += 1
        threads.close()
        return beats

    assert asyncio.run(both()) > 5


def test_too_many_that_wait_are_refused_with_429():
    async def crowd():
        threads = Threads("work", 1, 2)
        tasks = [asyncio.create_task(threads(time.sleep, 0.05)) for _ in range(6)]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        threads.close()
        return found

    found = asyncio.run(crowd())
    refused = [one for one in found if isinstance(one, Problem)]
    assert len(refused) == 3 and {one.status_code for one in refused} == {429}
    assert all(one.retry_after_s for one in refused)


@pytest.mark.parametrize("how", ["fails", "is hung up", "cannot begin"])
def test_a_place_is_given_back_when_the_work(how):
    def fails():
        raise ZeroDivisionError

    async def use():
        threads = Threads("work", 1, 0)
        if how == "is hung up":
            task = asyncio.create_task(threads(time.sleep, 0.1))
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert threads.gate.running == 1, "it is still running"
            await asyncio.sleep(0.2)
        elif how == "fails":
            with pytest.raises(ZeroDivisionError):
                await threads(fails)
        else:
            await threads(int)
            assert threads._pool is not None
            threads._pool.shutdown()
            with pytest.raises(RuntimeError):
                await threads(int)
            threads.close()
        assert threads.gate.running == 0
        assert await threads(int) == 0
        threads.close()

    asyncio.run(use())


def test_a_gate_counts_what_is_inside():
    async def use():
        gate = Gate("jobs", 1, 1)
        async with gate.entered():
            waiting = asyncio.create_task(gate.enter())
            await asyncio.sleep(0)
            assert (gate.running, gate.waiting) == (1, 1)
            with pytest.raises(Problem, match="1 jobs run and 1 wait"):
                await gate.enter()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        return gate.running, gate.waiting

    assert asyncio.run(use()) == (0, 0)
    assert threading.active_count() < 50
