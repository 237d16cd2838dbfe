"""Calibrations: named profiles of bytes, seconds and divergence of cached keys and values.

A simulator takes the literature's unless a scenario names another. Task losses always come from the
literature (`core.precision`): a small model cannot measure reasoning.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.core.geometry import ModelGeometry
from kv_cache_rl.core.hardware import HardwareProfile, Link

FORMAT, VERSION = "kv-cache-rl calibration", 1


class CalibrationError(Refused):
    """A calibration that cannot be used: says what is wrong, where, and what to do."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """What storing keys and values at one precision costs."""

    multiplier: float
    """Bytes relative to fp16; scales counted where they were measured."""
    kl: float | None = None
    """Divergence of the next token's distribution from that over an fp16 cache, nats per token.

    None: not measured.
    """
    attention_error: float | None = None
    """Relative error of the attention output, root mean square."""
    delta_nll: float | None = None
    """Nats per token that a text becomes less likely."""
    encode_s_per_byte: float | None = None
    """Seconds per fp16 byte to quantise. None: the time to read and write the bytes in place."""
    decode_s_per_byte: float = 0.0
    """Seconds per fp16 byte to restore it at each read."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A named profile of the precision and link tables."""

    name: str
    source: str
    schemes: Mapping[str, Scheme]
    link: Link | None = None
    """Between the device that computes and the host's memory. None: as the tiers say."""
    hardware: HardwareProfile | None = None
    """What computing again takes. None: as the scenario says."""
    model: ModelGeometry | None = None
    """The model with the cache that was measured."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Everything else that was measured, for people to read."""

    def scheme(self, precision: str) -> Scheme:
        """The scheme of that precision.

        Raises:
            CalibrationError: the precision was not measured.
        """
        if precision not in self.schemes:
            raise CalibrationError(
                f"calibration {self.name!r} has no {precision!r}; use one of {', '.join(self.schemes)}"
            )
        return self.schemes[precision]

    def to_json(self) -> dict:
        """The calibration as plain JSON values; `from_json` gives it back."""

        def plain(part: Any) -> Any:
            if part is None:
                return None
            return {name: value for name, value in dataclasses.asdict(part).items() if name != _DERIVED}

        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "source": self.source,
            "schemes": {name: plain(scheme) for name, scheme in self.schemes.items()},
            "link": plain(self.link),
            "hardware": plain(self.hardware),
            "model": plain(self.model),
            "notes": dict(self.notes),
        }

    @staticmethod
    def from_json(data: Any, where: str = "calibration") -> "Calibration":
        """The calibration in parsed JSON.

        Raises:
            CalibrationError: something is missing or out of range; the text names `where`, the
                field and the remedy.
        """
        if not isinstance(data, dict) or (data.get("format"), data.get("version")) != (FORMAT, VERSION):
            raise CalibrationError(f"{where}: is not a calibration of version {VERSION}; {_REMEDY}")
        if not isinstance(data.get("schemes"), dict) or "fp16" not in data["schemes"]:
            raise CalibrationError(f"{where}: schemes has no 'fp16'; {_REMEDY}")
        parts: dict[str, Any] = {
            "schemes": {
                name: _built(Scheme, value, f"{where}.schemes.{name}")
                for name, value in data["schemes"].items()
            }
        }
        for name, cls in (("link", Link), ("hardware", HardwareProfile), ("model", ModelGeometry)):
            parts[name] = None if data.get(name) is None else _built(cls, data[name], f"{where}.{name}")
        for name in ("name", "source"):
            if not isinstance(data.get(name), str) or not data[name].strip():
                raise CalibrationError(
                    f"{where}: {name} is {data.get(name)!r:.80}, expected a text; {_REMEDY}"
                )
        notes = {} if data.get("notes") is None else data["notes"]
        if not isinstance(notes, dict):
            raise CalibrationError(f"{where}: notes is {notes!r:.80}, expected an object; {_REMEDY}")
        found = Calibration(data["name"], data["source"], notes=notes, **parts)
        for name, scheme in found.schemes.items():
            if not 0 < scheme.multiplier <= 1:
                problem = f"multiplier {scheme.multiplier} must be above 0, at most 1"
                raise CalibrationError(f"{where}.schemes.{name}: {problem}; {_REMEDY}")
        if found.schemes["fp16"].multiplier != 1:
            raise CalibrationError(
                f"{where}.schemes.fp16: multiplier must be 1, bytes are relative to fp16; {_REMEDY}"
            )
        return found


_REMEDY = "make one with `kv-cache-rl paged calibrate --out FILE`"


def _built(cls: type, value: Any, where: str) -> Any:
    known = {f.name: f for f in dataclasses.fields(cls) if f.name != _DERIVED}
    if not isinstance(value, dict) or not set(value) <= set(known):
        raise CalibrationError(f"{where}: expected the fields {', '.join(known)}; {_REMEDY}")
    for name, f in known.items():
        if name not in value and f.default is dataclasses.MISSING:
            raise CalibrationError(f"{where}: field {name!r} is missing; {_REMEDY}")
        wanted = _wanted(name, str(getattr(f.type, "__name__", f.type)), value[name]) if name in value else ""
        if wanted:
            raise CalibrationError(f"{where}: {name} is {value[name]!r:.80}, expected {wanted}; {_REMEDY}")
    return cls(**value)


def _wanted(name: str, kind: str, value: Any) -> str:
    """What a field of that type should hold instead, in words; empty where the value is fine."""
    if kind == "str":
        return "" if isinstance(value, str) and value else "a name"
    if value is None and "None" in kind:
        return ""
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
    if kind == "int":
        return "" if number and isinstance(value, int) and value >= 1 else "a whole number of 1 or more"
    if name in _ABOVE_ZERO:
        return "" if number and value > 0 else "a number above 0"
    return "" if number and (value >= 0 or name in _SIGNED) else "a number of 0 or more"


_SIGNED, _ABOVE_ZERO = ("delta_nll",), ("one_way", "both_ways", "memory_gb")
_DERIVED = "groups"
"""Of a model's geometry: calibrations are measured with decoders whose layers are all alike."""
_LARGEST = 1e18
"""No measurement is larger, and a simulator's whole numbers would overflow beyond it."""
