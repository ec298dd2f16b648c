"""Signals: one rate, one length, one order of leads; a lead that is not there is NaN."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator

from ..schema import Payload, Record, Step
from .fingerprint import Fingerprint

LEADS = (
    "i", "ii", "iii", "avr", "avl", "avf", "v1", "v2", "v3", "v4", "v5", "v6", "abp", "resp", "ppg", "eeg", "other",
)  # fmt: skip
_ALSO = {"mlii": "ii", "mliii": "iii", "ml ii": "ii", "art": "abp", "bp": "abp", "pleth": "ppg", "respiration": "resp"}


class SignalStandard(BaseModel):
    """`seconds` at `rate_hz`.

    Args:
        rate_hz: None for the median of the training signals.
        seconds: from the beginning; a shorter signal ends in NaN.
        band_hz: what passes, both ways so that no wave is shifted, such as (0.5, 40) for an ECG's rhythm or (0.05, 150) for
            its ST segments (Kligfield et al. 2007); of each lead, where its rate allows.
        mains_hz: 50 or 60: the hum that is notched out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["signal"] = "signal"
    rate_hz: float | None = Field(default=100.0, gt=0)
    seconds: float = Field(default=10.0, gt=0)
    band_hz: tuple[PositiveFloat, PositiveFloat] | None = None
    mains_hz: Literal[50, 60] | None = None

    @model_validator(mode="after")
    def _band(self) -> Self:
        if self.band_hz is not None and self.band_hz[0] >= self.band_hz[1]:
            raise ValueError(f"a band from {self.band_hz[0]} to {self.band_hz[1]} Hz; expected the lower end first")
        return self


def filtered(samples: np.ndarray, rate_hz: float, standard: SignalStandard) -> np.ndarray:
    """(t,) without what the standard leaves out: a Butterworth of second order and a notch of quality 30, forward and back.

    An end of the band that the rate cannot carry does nothing.
    """
    from scipy.signal import butter, iirnotch, sosfiltfilt, tf2sos

    sections, half = [], rate_hz / 2
    if standard.band_hz is not None:
        low, high = standard.band_hz
        if low < half:
            sections.append(butter(2, low, "highpass", fs=rate_hz, output="sos"))
        if high < half:
            sections.append(butter(2, high, "lowpass", fs=rate_hz, output="sos"))
    if standard.mains_hz is not None and standard.mains_hz < half:
        sections.append(tf2sos(*iirnotch(standard.mains_hz, 30.0, fs=rate_hz)))
    for sos in sections:
        around = min(len(samples) - 1, round(3 * rate_hz))  # what rings at the ends does so outside
        samples = sosfiltfilt(sos, samples, padlen=around)
    return samples


def lead_number(name: str) -> int:
    """The row of a lead: its place in LEADS, the last for one that is not known."""
    plain = name.strip().lower().removeprefix("ecg ").removeprefix("lead ")
    plain = _ALSO.get(plain, plain)
    return LEADS.index(plain) if plain in LEADS else len(LEADS) - 1


def harmonise(payload: Payload, record: Record, standard: SignalStandard, fingerprint: Fingerprint) -> Payload:
    """(17 t) float32, each lead about zero median and unit spread; the end that a shorter signal lacks is NaN."""
    from scipy.signal import resample_poly

    assert payload.to_world is not None
    rate, to_rate = 1.0 / float(payload.to_world[0, 0]), standard.rate_hz or fingerprint.rate_hz
    length = round(standard.seconds * to_rate)
    ratio = Fraction(to_rate / rate).limit_denominator(max(2000, ceil(2 * rate / to_rate)))
    out = np.full((len(LEADS), length), np.nan, dtype=np.float32)
    for row, name in zip(payload.array, payload.names, strict=True):
        number = lead_number(name)
        samples = row[: int((standard.seconds + 1) * rate)]
        measured = np.isfinite(samples)
        if not measured.any() or not np.isnan(out[number]).all():
            continue  # nothing was recorded, or it is the second lead of a name
        known = np.where(measured, samples, np.median(samples[measured]))
        known = filtered(known, rate, standard)
        at_rate = np.asarray(resample_poly(known, ratio.numerator, ratio.denominator, padtype="line"))[:length]
        at_rate = at_rate - np.median(at_rate)
        out[number, : len(at_rate)] = np.clip(at_rate / max(float(at_rate.std()), 1e-6), -10, 10)
    step = Step("resample", (payload.array.shape[1],), None, {"rate_hz": rate, "to_rate_hz": to_rate})
    return Payload(out, np.diag([1.0 / to_rate, 1.0, 1.0, 1.0]), (step,), names=LEADS)
