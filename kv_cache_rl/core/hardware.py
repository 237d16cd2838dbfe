"""Links and hardware profiles: seconds to move, to prefill and to decode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kv_cache_rl.core.geometry import ModelGeometry, mean_bytes_per_token

if TYPE_CHECKING:
    import numpy as np

LINK_LATENCY_S = 20e-6
"""Fixed seconds per CPU-GPU transfer. Source: LLMServingSim configuration."""


@dataclass(frozen=True, slots=True)
class Link:
    """A path between two tiers, rates in bytes per second."""

    name: str
    one_way: float
    both_ways: float
    """Rate of each direction while the other is busy too."""
    latency_s: float = LINK_LATENCY_S


def transfer_microseconds(units, ns_per_unit, fixed_us):
    """Whole microseconds for `units` over a link.

    Plain Python on purpose: simulators compile it into their loops.
    """
    return fixed_us + units * ns_per_unit // 1000


def prefill_microseconds(tokens, past, c1_ns, c2_ps):
    """Whole microseconds to compute the KV of `tokens` new tokens behind `past` cached ones.

    `c1_ns` nanoseconds per token and `c2_ps` picoseconds per pair of tokens. Plain Python on
    purpose: simulators compile it into their loops.
    """
    return (tokens * c1_ns + tokens * (past + tokens // 2) // 1000 * c2_ps) // 1000


LINKS: dict[str, Link] = {
    link.name: link
    for link in (
        # nvbandwidth on an A100 box, NVIDIA forum 352186: 24.8 GB/s one way; while both directions
        # are busy, the inbound one drops to 11.
        Link("pcie4", 24.8e9, 11e9),
        # vLLM blog (DMA, 2 MB blocks): about 50 GB/s one way, 83.4 both ways together.
        Link("pcie5", 50e9, 41.7e9),
        # The default between GPU and host of NVIDIA Dynamo's simulator (config.rs).
        Link("pcie4-conservative", 14e9, 7e9),
        # NVIDIA data sheets: HBM2e of an A100 80 GB (2.0 TB/s, shared by reads and writes), NVLink
        # 4 of an H100 (900 GB/s, half of it each way). HBM has latency 0: a kernel that reads its
        # own memory waits for bytes only.
        Link("hbm2e", 2.0e12, 1.0e12, 0.0),
        Link("nvlink4", 450e9, 450e9, 5e-6),
        # BLIS defaults.yaml.
        Link("nvme4", 7e9, 5e9, 80e-6),
        Link("nvme3", 3.5e9, 3e9, 100e-6),
        Link("sata", 0.55e9, 0.5e9, 150e-6),
        Link("s3", 1e9, 1e9, 30e-3),
    )
}


@dataclass(frozen=True, slots=True)
class HardwareProfile:
    """GPUs that serve one model together.

    Prefill seconds of n tokens behind k cached ones: c0 + c1 n + c2 n (k + n / 2).
    """

    name: str
    gpus: int
    memory_gb: float
    """Per GPU, 10^9 bytes."""
    link: str
    links: int
    """How many such links work side by side."""
    prefill_c0_s: float
    prefill_c1_s: float
    prefill_c2_s: float
    decode_fixed_s: float
    """Seconds of a decode iteration before any KV is read."""
    decode_per_kv_token_s: float


def prefill_seconds(profile: HardwareProfile, tokens: int, past: int = 0) -> float:
    """Seconds to compute the KV of `tokens` new tokens behind `past` cached ones.

    Computing them again costs the same.
    """
    if tokens <= 0:
        return 0.0
    c1_ns, c2_ps = round(profile.prefill_c1_s * 1e9), round(profile.prefill_c2_s * 1e12)
    return profile.prefill_c0_s + prefill_microseconds(tokens, past, c1_ns, c2_ps) / 1e6


GPU_SHARE = 0.9
"""Of a GPU's memory, for weights and cache. Source: vLLM's default."""


def kv_capacity_tokens(
    profile: HardwareProfile,
    model: ModelGeometry,
    share: float = GPU_SHARE,
    lengths: np.ndarray | None = None,
) -> int:
    """Tokens that fit at fp16 when `share` of the memory goes to weights and cache.

    Args:
        lengths: tokens of the sequences that are served, int64 [R]; for a model that is not linear.

    Raises:
        NotLinear: the model is not linear, and there are no lengths.
    """
    free = profile.gpus * profile.memory_gb * 1e9 * share - model.weight_gb * 1e9
    return int(free / mean_bytes_per_token(model, lengths))


HARDWARE: dict[str, HardwareProfile] = {
    profile.name: profile
    for profile in (
        # Prefill: chunks of 2,048 tokens take 148 ms without context and 152 ms behind 2,048 tokens
        # (4 H100, Llama-3.1-70B, measured profile files); halved for twice the GPUs (derived).
        # Decode: 141 GB of weights and the KV bytes at 70 % of 8 x 3.35 TB/s, plus 14 ms for 80
        # layers of launches and all-reduces (derived). One host link per GPU, at the conservative
        # rate of Dynamo's simulator.
        HardwareProfile(
            "8xh100-llama-3.1-70b", 8, 80.0, "pcie4-conservative", 8, 0.0, 36.1e-6, 0.48e-9, 20e-3, 1.75e-8
        ),
        # Fits over measured grids (chunks of 128 tokens and more). MAPE 8 % and 5 %.
        HardwareProfile("rtx4090-llama-3.1-8b", 1, 24.0, "pcie4", 1, 5.0e-3, 86.7e-6, 3.76e-9, 18e-3, 1.9e-7),
        HardwareProfile(
            "rtx-pro-6000-llama-3.1-8b", 1, 96.0, "pcie5", 1, 6.7e-3, 34.5e-6, 1.93e-9, 10e-3, 1.1e-7
        ),
        HardwareProfile("a100-llama-3.1-8b", 1, 80.0, "pcie4", 1, 0.0, 66.7e-6, 2.6e-9, 9e-3, 9.3e-8),
    )
}
