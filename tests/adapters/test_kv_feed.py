"""A subscription to an engine's KV events loses nothing which can be had, whatever the engine does."""

import socket
import threading
import time

import pytest
from kv_publisher import Publisher, stored

from kv_cache_rl.adapters.kv_feed import Feed, FeedError, checked_address


class Engine:
    """A publisher with a feed attached to it, and what the feed said."""

    def __init__(self, replay=True, **options):
        self.engine, self.said = Publisher(**options), []
        self.feed = Feed(self.engine.address, self.engine.replay if replay else None, self.said.append)
        self.batches = self.feed.batches()

    def attached(self):
        """Returns once the feed is known to the engine."""
        self.engine.awaits()
        return self

    def take(self, count):
        """The next batches."""
        found = []
        self.until(lambda: len(found) >= count, found)
        return found

    def until(self, over, found=None):
        begun = time.monotonic()
        while not over():
            assert time.monotonic() - begun < 20, (found, self.said)
            if (batch := next(self.batches)) is not None:
                assert found is not None, batch
                found.append(batch)

    def restarted(self, **options):
        """Another process of the engine at the same address."""
        port, replay_port = self.engine.port, self.engine.replay_port
        self.engine.close()
        self.until(lambda: not self.feed.connected)
        self.engine = Publisher(port, replay_port, **options)

    def close(self):
        self.feed.close()
        self.engine.close()


@pytest.fixture
def attach():
    open_ones = []

    def make(**options):
        open_ones.append(Engine(**options))
        return open_ones[-1]

    yield make
    for one in open_ones:
        one.close()


def blocks(batches):
    return [event.blocks for batch in batches for event in batch.events]


@pytest.mark.parametrize("names_topic", [True, False], ids=["vllm 0.32", "before"])
def test_batches_come_as_they_are_published_and_those_before_by_replay(attach, names_topic):
    one = attach(names_topic=names_topic)
    for at in range(3):
        one.engine.publish(stored([at]), sent=False)
    one.attached()
    assert blocks(one.take(3)) == [(0,), (1,), (2,)]
    one.engine.publish(stored([3]))
    [batch] = one.take(1)
    assert (batch.sequence, batch.missed, blocks([batch])) == (3, 0, [(3,)])
    assert not one.feed.trouble


def test_a_gap_is_filled_by_replay(attach):
    one = attach().attached()
    one.engine.publish(stored([0]))
    one.take(1)
    for at in (1, 2):
        one.engine.publish(stored([at]), sent=False)
    one.engine.publish(stored([3]))
    one.engine.publish(stored([4]))
    found = one.take(4)
    assert blocks(found) == [(1,), (2,), (3,), (4,)] and not any(batch.missed for batch in found)


def test_what_the_engine_no_longer_keeps_is_missed_and_named(attach):
    one = attach(keeps=2).attached()
    one.engine.publish(stored([0]))
    one.take(1)
    for at in (1, 2, 3, 4):
        one.engine.publish(stored([at]), sent=False)
    one.engine.publish(stored([5]))
    found = one.take(2)
    assert [batch.missed for batch in found] == [3, 0] and blocks(found) == [(4,), (5,)]
    assert any("3 batches are missing, which the engine no longer keeps" in line for line in one.said)


def test_without_a_replay_address_the_gap_is_counted_and_the_option_named(attach):
    one = attach(replay=False).attached()
    one.engine.publish(stored([0]), sent=False)
    one.engine.publish(stored([1]))
    [batch] = one.take(1)
    assert batch.missed == 1
    assert any("give --replay tcp://HOST:PORT (replay_endpoint" in line for line in one.said)


@pytest.mark.parametrize("more", [1, 5])
def test_an_engine_that_is_started_again_goes_on_with_nothing_lost(attach, more):
    one = attach().attached()
    for at in range(3):
        one.engine.publish(stored([at]))
    one.take(3)
    one.restarted()
    for at in range(more):
        one.engine.publish(stored([100 + at]), sent=False)
    found = one.take(1 + more)
    assert found[0].restarted and blocks(found) == [(100 + at,) for at in range(more)]
    assert [batch.sequence for batch in found[1:]] == list(range(more))
    said = " | ".join(one.said)
    assert "the engine is gone; waiting for it to come back" in said
    assert "connected again" in said and "the engine began anew" in said


def test_a_restart_shows_by_its_numbers_where_nothing_is_replayed(attach):
    one = attach(replay=False).attached()
    for at in range(3):
        one.engine.publish(stored([at]))
    one.take(3)
    one.restarted()
    one.attached()
    one.engine.publish(stored([100]))
    found = one.take(2)
    assert found[0].restarted and blocks(found) == [(100,)]


def test_an_engine_that_was_only_out_of_reach_goes_on_where_it_was(attach):
    one = attach().attached()
    one.engine.publish(stored([0]), ts=5.0)
    one.take(1)
    kept = one.engine.kept
    one.restarted(first=1)
    one.engine.kept = kept
    one.engine.publish(stored([1]), sent=False)
    [batch] = one.take(1)
    assert (batch.restarted, batch.sequence, blocks([batch])) == (False, 1, [(1,)])


def test_numbers_that_wrap_around_are_no_restart(attach):
    one = attach(first=2**64 - 2, replay=False).attached()
    for at in range(4):
        one.engine.publish(stored([at]))
    found = one.take(4)
    assert [batch.sequence for batch in found] == [2**64 - 2, 2**64 - 1, 0, 1]
    assert not any(batch.restarted for batch in found) and [batch.missed for batch in found[1:]] == [0, 0, 0]


GARBAGE = {
    "two frames": [b"", b"x"],
    "a short number": [b"", b"123", b"\x90"],
    "one frame": [b"hello"],
    "five frames": [b""] * 5,
}


@pytest.mark.parametrize("what", GARBAGE)
def test_messages_that_are_no_batches_are_said_once_and_passed_over(attach, what):
    one = attach().attached()
    for _ in range(3):
        one.engine.frames(*GARBAGE[what])
    one.engine.publish(stored([0]))
    assert blocks(one.take(1)) == [(0,)]
    [line] = [line for line in one.said if "passed over" in line]
    assert "topic, number and batch" in line and sum(one.feed.trouble.values()) == 3


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"\xc1\xc1", "no msgpack"),
        (b"", "no msgpack"),
        (b"\x91" * 100_000, "no msgpack"),
        (b"\x05", "expected a batch of KV events"),
        (b"\x92\x01\xa1x", "expected a list"),
    ],
)
def test_a_batch_that_cannot_be_read_counts_as_missed(attach, payload, words):
    one = attach().attached()
    one.engine.publish(payload=payload)
    one.engine.publish(stored([1]))
    found = one.take(2)
    assert (found[0].events, found[0].missed, blocks(found)) == ((), 1, [(1,)])
    assert any(words in line for line in one.said)


def test_a_newer_schema_is_named_and_read_as_far_as_it_is_known(attach):
    one = attach().attached()
    one.engine.publish({"type": "BlockPinned", "ttl": 5}, stored([1]) | {"warmth": 3})
    [batch] = one.take(1)
    assert [batch.events[0].name, batch.events[1].blocks] == ["BlockPinned", (1,)]
    assert any("events of type 'BlockPinned' are not known (a newer engine?)" in line for line in one.said)


def test_what_is_wrong_in_ever_new_ways_is_told_in_few_kinds(attach):
    one = attach().attached()
    for at in range(60):
        one.engine.publish({"type": f"Block\x1b{at}" + "x" * 500})
    one.take(60)
    assert len(one.feed.trouble) <= 21 and len(one.said) <= 24
    assert all("\x1b" not in line and len(line) < 200 for line in one.said)


def test_a_port_at_which_something_else_answers_is_named():
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer_http, args=(server,), daemon=True).start()
        said = []
        feed = Feed(f"tcp://127.0.0.1:{server.getsockname()[1]}", None, said.append)
        batches, begun = feed.batches(), time.monotonic()
        while not said:
            assert time.monotonic() - begun < 20
            next(batches)
        feed.close()
    assert "what answers there speaks no ZeroMQ: check the port" in said[0]


def answer_http(server):
    with server.accept()[0] as peer:
        peer.recv(100)
        peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 100)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:5557", "no address of an engine; write tcp://HOST:PORT"),
        ("http://127.0.0.1:5557", "no address of an engine"),
        ("tcp://127.0.0.1", "no address of an engine"),
        ("tcp://127.0.0.1:99999", "there is no port 99999"),
        ("tcp://127.0.0.1:0", "there is no port 0"),
        ("tcp://no-such-host.invalid:5557", "the host no-such-host.invalid is not known"),
        ("tcp://127.0.0.1:5557/events", "no address of an engine"),
    ],
)
def test_an_address_that_is_none_is_refused(address, words):
    with pytest.raises(FeedError, match="--replay") as caught:
        checked_address(address, "--replay")
    assert words in str(caught.value)


def test_an_engine_that_connects_itself_is_listened_to():
    taken = Publisher()
    with pytest.raises(FeedError, match="ddress already in use"):
        Feed(f"tcp://*:{taken.port}", None, print)
    taken.close()
