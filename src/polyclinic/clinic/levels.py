"""Grey levels: which of a record's values are black and which white, and the values themselves in sixteen bits.

Source: DICOM PS3.3 C.11.2.1.2 (window centre and width), C.11.2.1.3 (its functions).
"""

from __future__ import annotations

import base64
import math
import zlib

import numpy as np

from ..schema import Modality, Record
from .reply import Levels, Preset

CT_PRESETS = (
    Preset(name="soft tissue", center=40, width=400, function="LINEAR"),
    Preset(name="lung", center=-600, width=1500, function="LINEAR"),
    Preset(name="bone", center=400, width=1800, function="LINEAR"),
    Preset(name="brain", center=40, width=80, function="LINEAR"),
)
"""HU, as they are usual (Radiopaedia, "Windowing (CT)")."""
STEPS = 2**16 - 1
FARTHEST = 16
"""Values further from the usual ones than so many times their span are told as the nearest that is not: one of them would leave
none of the sixteen bits to the others."""


AIR = (-3100, -900)
"""HU of air, and of the padding about it; nothing else that makes volumes has its least value there."""


def levels_of(record: Record, array: np.ndarray) -> Levels:
    """The scale of a record's values, and its windows: the one to begin with first.

    Args:
        record: an image or a volume.
        array: its values, of any shape, in the file's units.
    """
    low, high = _ends(array)
    usual = robust_window(array)
    whole = bool(low == np.rint(low)) and _integers(array)
    if not whole or high - low > STEPS:
        reach = FARTHEST * (usual[1] - usual[0])
        low, high = max(low, usual[0] - reach), min(high, usual[1] + reach)
    slope = 1.0 if whole and high - low <= STEPS else (high - low) / STEPS
    hu = hounsfield(record, low)
    fine = 1.0 if whole else 10 ** math.floor(math.log10(max(usual[1] - usual[0], 1e-9) / 100))
    automatic = _between("automatic", *(float(f"{round(v / fine) * fine:.12g}") for v in usual), whole=whole)
    return Levels(
        unit="HU" if hu else "",
        slope=slope or 1.0,
        intercept=low,
        low=low,
        high=high,
        presets=[
            *own_windows(record),
            *(CT_PRESETS if hu else [automatic]),
            _between("full range", low, high, whole=whole),
        ],
    )


def hounsfield(record: Record, low: float) -> bool:
    """Whether the values are Hounsfield units: of a CT that a DICOM file rescaled, of a volume named one with some below zero, or of a
    volume that says nothing of itself and whose least value is air's, or what scanners put outside of their field.

    Args:
        record: what it is.
        low: the least value.
    """
    if record.kind.startswith("CT"):
        return "photometric" in record.attributes or (record.modality is Modality.VOLUME and low < 0)
    return record.modality is Modality.VOLUME and record.kind.partition(" ")[0] == "volume" and AIR[0] <= low <= AIR[1]


def own_windows(record: Record) -> list[Preset]:
    """The windows that the record's file has, in its order; those that are none (PS3.3 C.11.2.1.2: a width below 1) left out."""
    said = [str(record.attributes.get(f"window_{k}") or "").split("\\") for k in ("center", "width", "explanation")]
    function = str(record.attributes.get("window_function") or "LINEAR")
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        return []
    found: list[Preset] = []
    for number, (center, width) in enumerate(zip(*said[:2], strict=False)):
        name = said[2][number] if number < len(said[2]) else ""
        try:
            c, w = float(center), float(width)
        except ValueError:
            continue
        if math.isfinite(c) and math.isfinite(w) and (w >= 1 if function == "LINEAR" else w > 0):
            called = f"the file’s: {name}" if name else "the file’s"
            found.append(Preset(name=called, center=c, width=w, function=function))
    return found


def shade(values: np.ndarray, window: Preset) -> np.ndarray:
    """Of each value how bright it is, from 0 to 1.

    Source: DICOM PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2 (LINEAR_EXACT).
    """
    x, c, w = values.astype(np.float32), window.center, window.width
    if window.function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (x - c) / w, -80, 80)))
    middle, span = (c - 0.5, w - 1) if window.function == "LINEAR" else (c, w)
    inside = (x - middle) / (span or 1.0) + 0.5
    return np.where(x <= middle - span / 2, 0, np.where(x > middle + span / 2, 1, inside))


def sixteen(values: np.ndarray, levels: Levels) -> np.ndarray:
    """Values (y x) as uint16 samples: a sample s is the value `s * slope + intercept`; what is no number is the least."""
    steps = np.nan_to_num((values - levels.intercept) / levels.slope, nan=0, posinf=STEPS, neginf=0)
    return np.clip(np.rint(steps), 0, STEPS).astype(np.uint16)


def packed(samples: np.ndarray) -> str:
    """Samples (y x) uint16 → base64: zlib of all high bytes and then all low bytes of each one's difference from its left
    neighbour, modulo 65536, as 0, -1, 1, -2 … → 0, 1, 2, 3 …

    A third smaller than a PNG with the bytes in two channels; and a browser that blurs what is read back from a canvas, as those
    that guard against tracking do, cannot touch it.
    """
    step = np.diff(samples, axis=1, prepend=np.uint16(0)).view(np.int16)
    told = ((step << 1) ^ (step >> 15)).view(np.uint16)
    raw = (told >> 8).astype(np.uint8).tobytes() + (told & 255).astype(np.uint8).tobytes()
    return base64.b64encode(zlib.compress(raw, 2)).decode()


def robust_window(array: np.ndarray) -> tuple[float, float]:
    """The 0.5th and 99.5th percentile of the values that are numbers; of about a million of them where there are more."""
    some = _some(array)
    low, high = np.percentile(some, [0.5, 99.5]) if some.size else (0.0, 1.0)
    return float(low), float(high)


def _between(name: str, low: float, high: float, *, whole: bool) -> Preset:
    """The window of which `low` is the last that is black, and `high` the first that is white."""
    if whole:
        return Preset(name=name, center=(low + high + 1) / 2, width=high - low + 1, function="LINEAR")
    return Preset(name=name, center=(low + high) / 2, width=(high - low) or 1.0, function="LINEAR_EXACT")


def _ends(array: np.ndarray) -> tuple[float, float]:
    """The least and the greatest number; 0 and 1 where there is none."""
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        numbers = array[np.isfinite(array)]
        low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 1.0)
    return low, high


def _integers(array: np.ndarray) -> bool:
    some = _some(array)
    return bool((some == np.rint(some)).all())


def _some(array: np.ndarray) -> np.ndarray:
    """The values that are numbers, or a million of them."""
    some = array.reshape(-1)
    if some.size > 1 << 20:  # drawn, not every n-th: that could be one column of every row
        some = some[np.random.default_rng(0).integers(0, some.size, 1 << 20)]
    return some[np.isfinite(some)]
