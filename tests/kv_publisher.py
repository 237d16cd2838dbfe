"""An engine that publishes KV events as vLLM does: three frames over PUB, a ROUTER that replays."""

import threading
import time

import msgspec
import zmq

END = b"\xff" * 8


class Publisher:
    """Publishes what `publish` is given; a new one on the same ports is a restarted engine."""

    def __init__(self, port=0, replay_port=0, keeps=10_000, first=0, names_topic=True):
        self.topic = [b""] if names_topic else []
        self.context = zmq.Context()
        self.pub, self.router = self.context.socket(zmq.XPUB), self.context.socket(zmq.ROUTER)
        self.port, self.replay_port = bound(self.pub, port), bound(self.router, replay_port)
        self.kept, self.keeps, self.number = [], keeps, first
        self.asked = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    @property
    def address(self):
        return f"tcp://127.0.0.1:{self.port}"

    @property
    def replay(self):
        return f"tcp://127.0.0.1:{self.replay_port}"

    def awaits(self):
        """Returns once a subscriber is there."""
        assert self.pub.poll(60_000), "no subscriber came"
        self.pub.recv()

    def publish(self, *events, sent=True, payload=None, ts=None):
        """One batch of events; not sent, it can only be replayed."""
        data = msgspec.msgpack.encode([ts or time.time(), list(events), 0]) if payload is None else payload
        number, self.number = self.number, (self.number + 1) % 2**64
        self.kept = [*self.kept, (number, data)][-self.keeps :]
        if sent:
            self.pub.send_multipart((b"", number.to_bytes(8, "big"), data))

    def frames(self, *frames):
        """A message of any frames."""
        self.pub.send_multipart(frames)

    def close(self):
        self._stop.set()
        self._thread.join()
        self.pub.close(linger=500)
        self.router.close(linger=500)
        self.context.term()

    def _answer(self):
        while not self._stop.is_set():
            if not self.router.poll(20):
                continue
            who, _, number = self.router.recv_multipart()
            self.asked.append(int.from_bytes(number, "big"))
            for one, data in self.kept:
                if one >= self.asked[-1]:
                    self.router.send_multipart((who, b"", *self.topic, one.to_bytes(8, "big"), data))
            self.router.send_multipart((who, b"", *self.topic, END, b""))


def bound(socket, port):
    """Binds a socket to a port, a free one for 0, and returns it."""
    for _ in range(100):
        try:
            socket.bind(f"tcp://127.0.0.1:{port or '*'}")
            break
        except zmq.ZMQError:  # the one before it is not closed yet
            time.sleep(0.05)
    return int(socket.last_endpoint.rpartition(b":")[2])


def stored(blocks, parent=None, size=16):
    """The event of blocks that were stored, as vLLM 0.32 writes it."""
    return {
        "type": "BlockStored",
        "block_hashes": blocks,
        "parent_block_hash": parent,
        "token_ids": [1] * size * len(blocks),
        "block_size": size,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
    }
