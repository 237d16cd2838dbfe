"""A promised figure beside its target, and what all measurements of figures begin with."""

from dataclasses import asdict, dataclass
from typing import Any

from kv_cache_rl.paged.model import Decoder


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number, with the range that it should be in; without a range it informs only."""

    name: str
    value: float | None
    """None where it was not measured."""
    unit: str = ""
    low: float | None = None
    high: float | None = None
    remark: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it is in range; None without a range or a value."""
        if self.value is None or (self.low is None and self.high is None):
            return None
        return (self.low is None or self.value >= self.low) and (self.high is None or self.value <= self.high)

    def to_json(self) -> dict:
        """The figure and whether it met its target, as plain values."""
        return {**asdict(self), "met": self.met}


@dataclass(frozen=True, slots=True)
class Setup:
    """The inputs of all measurements."""

    model: Decoder
    text: list[int]
    """16,000 or more tokens that the model was not trained on."""
    seed: int
    fast: bool

    def choose(self, fast: Any, full: Any) -> Any:
        """`fast` where the bench must be short, else `full`."""
        return fast if self.fast else full


BLOCK_SIZES = (1, 4, 8, 16, 32, 64)
Found = tuple[list[Figure], dict[str, Any]]
