"""Work spread over processes is done once, kept however it ends, and says why where it cannot go on."""

import contextlib
import os
import signal
import threading
import time

import pytest

from kv_cache_rl import code_cache
from kv_cache_rl.cli.terminal import Bar
from kv_cache_rl.experiments import workers
from kv_cache_rl.experiments.workers import WorkerError, mapped, spread


def die(_):
    os._exit(1)


def die_at_three(item):
    if item == 3:
        time.sleep(1)
        os._exit(1)
    return -item


def test_a_worker_that_dies_is_told_with_the_remedy():
    with pytest.raises(WorkerError, match=r"one of 2 worker processes died.*fewer --workers"):
        spread(die, [1, 2], print, 2)


def test_pieces_of_work_cover_everything_once():
    for count in (1, 7, 100, 3000):
        for several in (1, 2, 64):
            assert [index for part in workers.parts(count, several) for index in part] == list(range(count))


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_the_order_of_the_items(count):
    steps = []
    assert mapped(abs, [-3, -2, -1], count, steps.append) == [3, 2, 1]
    assert steps == [1, 2, 3]


def test_an_interrupt_keeps_what_the_workers_were_about_to_finish(monkeypatch):
    def interrupted(futures):
        while not all(future.running() or future.done() for future in futures):
            time.sleep(0.01)  # a part that no worker has taken yet is given up, and rightly
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(workers, "as_completed", interrupted)
    found = {}
    with pytest.raises(KeyboardInterrupt):
        spread(abs, [-3, -2, -1], found.__setitem__, workers=3)
    assert found == {0: 3, 1: 2, 2: 1}


def interrupted_while_running(futures):
    while not any(future.running() for future in futures):
        time.sleep(0.01)
    raise KeyboardInterrupt
    yield


def test_an_interrupt_stops_at_once_what_is_not_saved(monkeypatch):
    monkeypatch.setattr(workers, "as_completed", interrupted_while_running)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        mapped(time.sleep, [60, 60], workers=2)
    assert time.monotonic() - began < 30


def test_a_second_interrupt_stops_what_the_first_one_waits_for(monkeypatch, capsys):
    monkeypatch.setattr(workers, "as_completed", interrupted_while_running)
    monkeypatch.setattr(code_cache, "_said", set())
    began = time.monotonic()
    again = threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT))
    again.start()
    with pytest.raises(KeyboardInterrupt):
        spread(time.sleep, [60, 60], print, workers=2)
    again.join()
    assert time.monotonic() - began < 30
    assert "a second interrupt stops it" in capsys.readouterr().err


def test_an_interrupt_that_a_progress_bar_tells_loses_nothing_that_is_finished(monkeypatch):
    """The bar raises what Python dropped inside a callback, when the next row is kept."""

    def interrupted(futures):
        while not all(future.done() for future in futures):
            time.sleep(0.01)
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(workers, "as_completed", interrupted)
    found = {}
    with Bar("work", quiet=True) as bar:

        def keep(index, result):
            found[index] = result
            bar(len(found), 4)

        with pytest.raises(KeyboardInterrupt):
            spread(abs, [-4, -3, -2, -1], keep, workers=2)
    assert found == {0: 4, 1: 3, 2: 2, 3: 1}


def test_work_that_is_not_saved_is_not_said_to_be():
    with pytest.raises(WorkerError, match=r"out of memory. Run the same again, with fewer --workers"):
        mapped(die, [1, 2], workers=2)


@pytest.mark.parametrize("before", [True, False])
def test_an_interrupt_while_a_result_is_kept_loses_none_of_its_piece(monkeypatch, before):
    """It lands before or behind the moment at which the third result of a piece is safe."""
    monkeypatch.setattr(workers, "parts", lambda count, _: [range(count // 2), range(count // 2, count)])
    found = []

    def keep(index, result):
        if before and len(found) == 2 and not interrupted:
            interrupted.append(index)
            raise KeyboardInterrupt
        found.append((index, result))
        if not before and len(found) == 3:
            raise KeyboardInterrupt

    interrupted = []
    with pytest.raises(KeyboardInterrupt):
        spread(abs, [-value for value in range(8)], keep, workers=2)
    whole = {index // 4 for index, _ in found}
    assert dict(found) == {index: index for index in range(8) if index // 4 in whole}
    assert len(found) - len(dict(found)) == (0 if before else 1)  # given again: `keep` may not have ended


def test_what_others_finished_is_kept_when_a_worker_dies(monkeypatch):
    monkeypatch.setattr(workers, "parts", lambda count, _: [range(k, k + 1) for k in range(count)])

    def late(futures):  # the dead worker is noticed first
        while not all(future.done() for future in futures):
            time.sleep(0.01)
        yield from reversed(list(futures))

    monkeypatch.setattr(workers, "as_completed", late)
    found = {}
    with pytest.raises(WorkerError, match="worker processes died"):
        spread(die_at_three, [0, 1, 2, 3], found.__setitem__, workers=2)
    assert found == {0: 0, 1: -1, 2: -2}
