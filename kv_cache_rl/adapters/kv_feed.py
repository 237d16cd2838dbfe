"""The KV events of a running engine: a subscription over ZeroMQ that loses nothing which can be had.

    engine  PUB     topic | number, 8 bytes, big-endian | batch in msgpack
            ROUTER  asked for a number, sends topic | number | batch for all from it on that it keeps, and
                    -1 at the end

    connected         the replay is asked for all that the engine keeps
    a number missing  the replay is asked for it
    connected again   the replay is asked for the last batch: another content, or none, is another process
    no ZeroMQ, no msgpack, not three frames, no batch: said once, counted, passed over

Source: vLLM 0.32, distributed/kv_events.py (ZmqEventPublisher).
"""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator

from kv_cache_rl.adapters.kv_order import NUMBERS, Order, Place
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.extras import need
from kv_cache_rl.traces import errors
from kv_cache_rl.traces.kv_events import Batch, Unknown, batch_of

need("attaching to an engine", "zmq", "msgspec")

import msgspec  # pyrefly: ignore [missing-import]
import zmq
from zmq.utils.monitor import recv_monitor_message

END = (NUMBERS - 1).to_bytes(8, "big")
"""The number of the replay's last message, which has no content."""
BEAT_MS = 100
REPLY_MS = 10_000
"""Milliseconds that an answer of the replay is waited for; vLLM looks for questions ten times a second."""
REPLAYED = (3, 4)
"""Frames of an answer: the empty envelope, the topic in newer versions, number, batch."""
KINDS = 20
"""Kinds of trouble that are told apart."""
TRIES = 3
"""Questions for the same batch, since a ROUTER drops what its peer cannot take."""
ADDRESS = re.compile(r"(tcp://(\*|\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):\d{1,5}|ipc://.+)")
HOW = "tcp://HOST:PORT, the endpoint of --kv-events-config '{\"enable_kv_cache_events\": true, ...}'"
EVENTS: dict[int, str] = {
    zmq.EVENT_HANDSHAKE_SUCCEEDED: "connected",
    zmq.EVENT_DISCONNECTED: "gone",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "foreign",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "foreign",
}
"""What a socket reports → what it means here."""


class FeedError(Refused):
    """An engine that cannot be attached to: says what is wrong with the address, and the remedy."""


def checked_address(address: str, option: str = "") -> str:
    """The address itself.

    Raises:
        FeedError: it is none, or its host has no address.
    """
    named = f"{option} {address}".strip()
    if not ADDRESS.fullmatch(address):
        raise FeedError(f"{named}: no address of an engine; write {HOW}")
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    if address.startswith("ipc://") or host == "*":
        return address
    if not 0 < int(port) < 65536:
        raise FeedError(f"{named}: there is no port {port}; give one from 1 to 65535")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except OSError as error:
        raise FeedError(f"{named}: the host {host} is not known ({error.strerror}); check its name") from None
    return address


class Feed:
    """A subscription; `say` is called with what happens to it, a sentence each."""

    def __init__(self, address: str, replay: str | None, say: Callable[[str], None]) -> None:
        """Attaches.

        Raises:
            FeedError: an address that is none, or that cannot be listened at.
        """
        self.address = checked_address(address)
        self.replay = replay and checked_address(replay, "--replay")
        self.say, self.order = say, Order()
        self.trouble: Counter[str] = Counter()
        """What was wrong with a message → how many had it."""
        self.connected = False
        self._lost = self._unsure = False
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.set_hwm(0)
        self._socket.setsockopt(zmq.IPV6, 1)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._monitor = self._socket.get_monitor_socket(sum(EVENTS))
        try:
            # An engine whose own endpoint names no "*" connects to whatever listens there.
            self._socket.bind(address) if "*" in address else self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise FeedError(f"{address}: {error.strerror}; give {HOW}") from None

    def close(self) -> None:
        """Detaches."""
        self._socket.disable_monitor()
        self._context.destroy(linger=0)

    def batches(self) -> Iterator[Batch | None]:
        """The batches as they come, without end; None ten times a second while none does."""
        while True:
            self._listen()
            if not self._socket.poll(BEAT_MS):
                if self._unsure:
                    yield from self._resumed()
                yield None
                continue
            found = self._frames(self._socket.recv_multipart())
            if found is not None:
                yield from self._taken(*found)

    def _listen(self) -> None:
        """Takes in what the socket reports about its connection."""
        while self._monitor.poll(0):
            event = EVENTS.get(recv_monitor_message(self._monitor)["event"], "")
            if event == "connected":
                self.say(f"{self.address}: connected{' again' if self._lost else ''}")
                self.connected, self._lost = True, False
                self._unsure = self.replay is not None
            elif event == "gone" and self.connected:
                self.connected, self._lost = False, True
                self.say(f"{self.address}: the engine is gone; waiting for it to come back")
            elif event == "foreign":
                self._wrong("what answers there speaks no ZeroMQ: check the port")

    def _wrong(self, what: str, more: str = "") -> None:
        """Counts what was wrong, and says it the first time, with `more` of that time."""
        if what not in self.trouble and len(self.trouble) >= KINDS:
            what, more = "something else was wrong with a message", ""
        if not self.trouble[what]:
            self.say(f"{self.address}: {what}{more}")
        self.trouble[what] += 1

    def _frames(self, frames: list[bytes]) -> tuple[int, bytes] | None:
        """Number and payload of a message; None for one that is none of these."""
        if len(frames) != 3 or len(frames[1]) != 8:
            self._wrong("a message that is not topic, number and batch is passed over")
            return None
        return int.from_bytes(frames[1], "big"), frames[2]

    def _taken(self, number: int, payload: bytes, again: bool = True) -> Iterator[Batch]:
        """A batch, and those before it that were missing."""
        if self._unsure:
            yield from self._resumed()
        place = self.order.place(number, payload)
        if place is Place.ANEW:
            yield self._began_anew()
        if place is not Place.AGAIN and number != self.order.expected and again and self.replay is not None:
            yield from self._replayed(number)
            place = self.order.place(number, payload)
        if place is Place.AGAIN:
            return
        missed = self.order.ahead(number)
        if missed:
            self._missing(missed)
        self.order.take(number, payload)
        yield self._decoded(number, payload, missed)

    def _missing(self, missed: int) -> None:
        if self.replay is None:
            self._wrong(
                "batches are missing; give --replay tcp://HOST:PORT (replay_endpoint in --kv-events-config)"
            )
        else:
            self.say(f"{self.replay}: {missed:,} batches are missing, which the engine no longer keeps")

    def _began_anew(self) -> Batch:
        """The batch that says so."""
        self.say(f"{self.address}: the engine began anew, its numbers from zero and its cache empty")
        self.order.begin()
        return Batch((), restarted=True)

    def _resumed(self) -> Iterator[Batch]:
        """After a connection: all that the engine keeps, from the last batch on; another process is told by
        the content of that batch.
        """
        self._unsure = False
        if self.order.last is None:
            yield from self._replayed(None)
            return
        answers = self._asked(self.order.last)
        if answers is None:
            return
        first = next(iter(answers), None)
        if first is None or (first[0] == self.order.last and not self.order.same(*first)):
            yield self._began_anew()
            answers = self._asked(0) or []
        for number, payload in answers:
            yield from self._taken(number, payload, again=False)

    def _replayed(self, until: int | None) -> Iterator[Batch]:
        """The batches from the one that is expected up to `until`, as far as the engine keeps them."""
        for _ in range(TRIES):
            begun = self.order.expected
            for number, payload in self._asked(begun) or []:
                yield from self._taken(number, payload, again=False)
            if (
                until is None
                or self.order.expected == begun
                or not 0 < self.order.ahead(until) < NUMBERS // 2
            ):
                return

    def _asked(self, number: int) -> list[tuple[int, bytes]] | None:
        """What the engine keeps from a batch on; None where it does not answer."""
        found: list[tuple[int, bytes]] = []
        with self._context.socket(zmq.DEALER) as question:
            question.set_hwm(0)
            question.setsockopt(zmq.IPV6, 1)
            question.linger = 0
            question.connect(self.replay or "")
            question.send_multipart([b"", number.to_bytes(8, "big")])
            while question.poll(REPLY_MS):
                frames = question.recv_multipart()
                if len(frames) in REPLAYED and frames[-2] == END and not frames[-1]:
                    return found
                # The envelope is empty; versions before 0.32 leave the topic out.
                if (one := self._frames(frames[1:] if len(frames) == 4 else frames)) is not None:
                    found.append(one)
        self._wrong(f"no answer from --replay {self.replay}: check it, and that the engine has it")
        return found or None

    def _decoded(self, number: int, payload: bytes, missed: int) -> Batch:
        """The batch of a payload; an empty one where it is none, which counts as missed."""
        try:
            found = batch_of(msgspec.msgpack.decode(payload), errors.Place(self.address))
        except errors.TraceError as error:
            self._wrong("a batch that cannot be read is passed over", f" ({error.field}: {error.problem})")
            return Batch((), sequence=number, missed=missed + 1)
        except (msgspec.DecodeError, ValueError, RecursionError):
            self._wrong("a batch that is no msgpack is passed over")
            return Batch((), sequence=number, missed=missed + 1)
        for event in found.events:
            if isinstance(event, Unknown):
                self._wrong(f"events of type {event.name!r} are not known (a newer engine?): they are kept")
        return Batch(found.events, found.time_s, found.rank, number, missed)
