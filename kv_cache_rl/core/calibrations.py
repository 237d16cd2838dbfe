"""The calibrations known by name: the literature's, and one measured with `kv_cache_rl.paged`."""

from types import MappingProxyType

from kv_cache_rl.core.calibration import Calibration, CalibrationError, Scheme
from kv_cache_rl.core.errors import unknown
from kv_cache_rl.core.geometry import MODELS, ModelGeometry
from kv_cache_rl.core.hardware import LINKS, HardwareProfile, Link
from kv_cache_rl.core.precision import PRECISIONS

LITERATURE = Calibration(
    "literature",
    "the tables of core.precision and core.hardware, each with its source",
    MappingProxyType({name: Scheme(precision.multiplier) for name, precision in PRECISIONS.items()}),
)
# The numbers of results/paged/calibration.json to four digits: bytes relative to fp16, KL in nats
# per token over held-out tales, relative attention error, nats by which a token becomes less
# likely, seconds per fp16 byte to quantise and to restore.
MEASURED_CPU = Calibration(
    "measured-cpu",
    "kv-cache-rl paged calibrate, one thread of an AMD EPYC, CPU seconds, 2026-11-23",
    {
        "fp16": Scheme(1.0, 0.0, 0.0, 0.0, None, 0.0),
        "int8": Scheme(0.5315, 4.07e-08, 0.003967, 1.959e-06, 4.682e-09, 1.697e-09),
        "k8v4": Scheme(0.4065, 2.851e-06, 0.04086, 4.121e-06, 4.763e-09, 2.194e-09),
        "k4v8": Scheme(0.4065, 7.333e-06, 0.05359, -3.37e-05, 4.62e-09, 2.061e-09),
        "int4": Scheme(0.2815, 1.021e-05, 0.06764, -3.851e-05, 5.063e-09, 2.928e-09),
        "k8v2": Scheme(0.344, 0.0001339, 0.2081, 0.0002716, 4.491e-09, 2.051e-09),
        "k4v2": Scheme(0.219, 0.0001605, 0.2161, 0.000279, 4.623e-09, 2.859e-09),
        "k2v8": Scheme(0.344, 0.007354, 0.2717, 0.007275, 5.058e-09, 1.813e-09),
        "k2v4": Scheme(0.219, 0.007397, 0.2759, 0.007464, 5.191e-09, 2.807e-09),
        "int2": Scheme(0.1565, 0.008743, 0.3587, 0.008614, 5.172e-09, 2.566e-09),
    },
    Link("measured", 1557000000.0, 778500000.0, 0.0003979),
    HardwareProfile(
        "measured-tales-1m", 1, 25.28, "measured", 1, 0.00576, 5.38e-05, 1.136e-07, 0.006689, 1.58e-06
    ),
    ModelGeometry("tales-1m", 4, 2, 32, 0.001903),
    {"law": {"factor": 0.002239, "exponent": 1.942, "r_squared": 0.9943}},
)
CALIBRATIONS: dict[str, Calibration] = {found.name: found for found in (LITERATURE, MEASURED_CPU)}


def calibration_named(name: str) -> Calibration:
    """The calibration of that name.

    Raises:
        CalibrationError: the name is unknown; the text lists the known ones.
    """
    if name not in CALIBRATIONS:
        raise CalibrationError(unknown("calibration", name, CALIBRATIONS))
    return CALIBRATIONS[name]


def register(calibration: Calibration) -> str:
    """Adds a calibration to `CALIBRATIONS` and returns its name.

    Raises:
        CalibrationError: another calibration has that name.
    """
    if CALIBRATIONS.setdefault(calibration.name, calibration) != calibration:
        raise CalibrationError(
            f"there is another calibration {calibration.name!r}; give this one a name of its own"
        )
    return calibration.name


def geometry_named(name: str) -> ModelGeometry | None:
    """The geometry of a published or calibrated model; None if no model has that name."""
    measured = {c.model.name: c.model for c in CALIBRATIONS.values() if c.model}
    return (MODELS | measured).get(name)


def host_link(calibration: str) -> Link:
    """The link between GPU and host in a calibration; the conservative one where it has none."""
    return CALIBRATIONS.get(calibration, LITERATURE).link or LINKS["pcie4-conservative"]
