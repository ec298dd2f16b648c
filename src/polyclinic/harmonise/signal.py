"""Signals: one rate, one length, one order of leads; a lead that is not there is NaN."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..schema import Payload, Record, Step
from .fingerprint import Fingerprint

LEADS = (
    "i", "ii", "iii", "avr", "avl", "avf", "v1", "v2", "v3", "v4", "v5", "v6", "abp", "resp", "ppg", "eeg", "other",
)  # fmt: skip
_ALSO = {"mlii": "ii", "mliii": "iii", "ml ii": "ii", "art": "abp", "bp": "abp", "pleth": "ppg", "respiration": "resp"}


class SignalStandard(BaseModel):
    """`seconds` at `rate_hz`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["signal"] = "signal"
    rate_hz: float = Field(default=100.0, gt=0)
    seconds: float = Field(default=10.0, gt=0)


def lead_number(name: str) -> int:
    """The row of a lead: its place in LEADS, the last for one that is not known."""
    plain = name.strip().lower().removeprefix("ecg ").removeprefix("lead ")
    plain = _ALSO.get(plain, plain)
    return LEADS.index(plain) if plain in LEADS else len(LEADS) - 1


def harmonise(payload: Payload, record: Record, standard: SignalStandard, fingerprint: Fingerprint) -> Payload:
    """(17 t) float32, each lead about zero median and unit spread; the end that a shorter signal lacks is NaN."""
    from scipy.signal import resample_poly

    assert payload.to_world is not None
    rate = 1.0 / float(payload.to_world[0, 0])
    length = round(standard.seconds * standard.rate_hz)
    ratio = Fraction(standard.rate_hz / rate).limit_denominator(max(2000, ceil(2 * rate / standard.rate_hz)))
    out = np.full((len(LEADS), length), np.nan, dtype=np.float32)
    for row, name in zip(payload.array, payload.names, strict=True):
        number = lead_number(name)
        samples = row[: int((standard.seconds + 1) * rate)]
        measured = np.isfinite(samples)
        if not measured.any() or not np.isnan(out[number]).all():
            continue  # nothing was recorded, or it is the second lead of a name
        known = np.where(measured, samples, np.median(samples[measured]))
        at_rate = np.asarray(resample_poly(known, ratio.numerator, ratio.denominator, padtype="line"))[:length]
        at_rate = at_rate - np.median(at_rate)
        out[number, : len(at_rate)] = np.clip(at_rate / max(float(at_rate.std()), 1e-6), -10, 10)
    step = Step("resample", (payload.array.shape[1],), None, {"rate_hz": rate, "to_rate_hz": standard.rate_hz})
    return Payload(out, np.diag([1.0 / standard.rate_hz, 1.0, 1.0, 1.0]), (step,), names=LEADS)
