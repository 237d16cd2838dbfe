"""Figures that are worked out rather than timed say so, and are worked out right."""

from decoders import decoder

from kv_cache_rl.core.geometry import bytes_per_token
from kv_cache_rl.paged.measure import figures
from kv_cache_rl.paged.measure.calibrate import Moves, Seconds, geometry_of


def test_swapping_quantised_is_called_estimated_and_pays_below_the_bytes_saved_by_the_seconds_spent(
    monkeypatch,
):
    """Two ways across the link, each of half the bytes, for a microsecond to quantise and one to restore."""
    monkeypatch.setattr(
        figures, "move_seconds", lambda *_: Moves((128, 512), (1.0, 1.0), (1.0, 1.0), (1.0, 6.0))
    )
    monkeypatch.setattr(figures, "scheme_seconds", lambda *_: Seconds(0.5, 1e-6, 1e-6))
    model = decoder()
    found, _ = figures.preemption(figures.Setup(model, [], 0, True))
    (figure,) = (
        figure for figure in found if figure.name == "quantised swap, estimated: int8, bytes of fp16"
    )
    assert figure.value == 0.5 and bytes_per_token(geometry_of(model)) == 128
    assert figure.remark.startswith("pays below 64 MB/s")
    assert not [
        figure.name for figure in found if "quantised" in figure.name and "estimated" not in figure.name
    ]
