"""Values in msgpack, one after the other in a file, as they are cut out of it and decoded.

msgspec decodes one value and no more, so where each ends is found here.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from kv_cache_rl.core.numbers import unread
from kv_cache_rl.extras import need
from kv_cache_rl.files import LINE_LIMIT
from kv_cache_rl.traces.errors import Place
from kv_cache_rl.traces.files import TORN, torn

CHUNK = 2**20
BEGINNINGS = (b"\x92\xcb", b"\x93\xcb", b"\x82\xa2ts", b"\x83\xa2ts")
"""A list of two or three whose first item is a float, an object of two or three whose first name is ts."""
FIXED = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
FIXED |= {0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}
"""First byte of a number or an extension → bytes behind it."""
MEASURED = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)}
MEASURED |= {0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)}
"""First byte of bytes, a text or an extension → bytes of its length, and bytes ahead of the content."""
GROUPED = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
"""First byte of a list or an object → bytes of its length, and values for each item."""


def looks_packed(head: bytes) -> bool:
    """Whether binary data begin as a batch of KV events in msgpack."""
    return head.startswith(BEGINNINGS)


def packed_values(content: io.BufferedReader, path: str) -> Iterator[tuple[Place, Any]]:
    """The values of a content, each with its number in place of a line.

    Raises:
        TraceError: at the first that is damaged or cut off.
        MissingExtra: msgspec is not installed.
    """
    need("reading KV events in msgpack", "msgspec", instead="or record them as JSON, one batch a line")
    import msgspec  # pyrefly: ignore [missing-import]

    data, at, number = b"", 0, 0
    while True:
        here = Place(path, number + 1)
        try:
            end = end_of(data, at)
            if end is None:
                more = _more(content, here, len(data) - at)
                if not more:
                    break
                data, at = data[at:] + more, 0
                continue
            value = msgspec.msgpack.decode(memoryview(data)[at:end])
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise here.error(f"batch {number + 1:,} is no msgpack ({unread(error)})", REMEDY) from None
        yield here, value
        at, number = end, number + 1
    if at < len(data):
        raise here.error(f"the file ends inside batch {number + 1:,} (cut off?)", REMEDY)


REMEDY = "cut the file off before it, or record it again: kv-cache-rl engine attach"


def _more(content: io.BufferedReader, here: Place, held: int) -> bytes:
    if held > LINE_LIMIT:
        raise here.error(f"one batch of over {LINE_LIMIT:,} bytes", REMEDY)
    try:
        return content.read(max(CHUNK, held))
    except TORN as error:
        raise torn(here, error) from None


def end_of(data: bytes, at: int = 0) -> int | None:
    """The position behind the value that begins at `at`; None where the data end inside it.

    Raises:
        ValueError: no value begins so.

    >>> end_of(bytes([0x92, 0x01, 0xA1, 0x61, 0x05])), end_of(bytes([0x92, 0x01]))
    (4, None)
    """
    values = 1
    while values:
        if at >= len(data):
            return None
        first, at, values = data[at], at + 1, values - 1
        if 0x80 <= first <= 0x8F:
            values += 2 * (first & 0x0F)
        elif 0x90 <= first <= 0x9F:
            values += first & 0x0F
        elif 0xA0 <= first <= 0xBF:
            at += first & 0x1F
        elif first in FIXED:
            at += FIXED[first]
        elif first in MEASURED:
            width, more = MEASURED[first]
            at += width + more + int.from_bytes(data[at : at + width], "big")
        elif first in GROUPED:
            width, each = GROUPED[first]
            values += each * int.from_bytes(data[at : at + width], "big")
            at += width
        elif first == 0xC1:
            raise ValueError("byte 0xc1 begins no value")
    return at if at <= len(data) else None
