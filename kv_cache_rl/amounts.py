"""Numbers of bytes, and counts with their nouns, as people write them."""

DECIMAL = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}
BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50}
UNITS: dict[str, int] = {"B": 1} | {name.upper(): size for name, size in (DECIMAL | BINARY).items()}
"""Unit in capitals -> its bytes."""


def amount(count: float) -> str:
    """Bytes in at most four digits: in a decimal unit, or a binary one where that is exact and shorter.

    >>> amount(50_000_000_000), amount(137_438_953_472), amount(8_388_608 * 100), amount(640)
    ('50 GB', '128 GiB', '800 MiB', '640 B')
    >>> amount(123_456_789)
    '123.5 MB'
    """
    found = [_in_unit(count, units) for units in (DECIMAL, BINARY)]
    exact = sorted((text for text, exactly in found if exactly), key=lambda text: len(text.split()[0]))
    return exact[0] if exact else found[0][0]


def _in_unit(count: float, units: dict[str, int]) -> tuple[str, bool]:
    """The text in the largest unit of which there is one, and whether it is exact."""
    name, size = "B", 1
    for larger, its in units.items():
        if abs(count) >= 0.99995 * its:
            name, size = larger, its
    digits = f"{count / size:.4g}" if size > 1 or count != int(count) else f"{int(count)}"
    return f"{digits} {name}", size == 1 or float(digits) * size == count


def counted(number: int, what: str) -> str:
    """A count with its noun.

    >>> counted(1, "rollout"), counted(1_500, "rollout")
    ('1 rollout', '1,500 rollouts')
    """
    return f"{number:,} {what}" + ("" if number == 1 else "s")
