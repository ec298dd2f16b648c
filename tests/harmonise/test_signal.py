from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyclinic import records
from polyclinic.harmonise import LEADS, Fingerprint, SignalStandard, fit, harmonise
from polyclinic.harmonise.signal import lead_number
from polyclinic.schema import Modality, Payload, Record

ECG = Record("s", "P", None, Modality.SIGNAL, "ECG", "s")
NOTHING = Fingerprint()


def wave(rate: float, seconds: float, hz: float = 3.0) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def harmonised(
    array: np.ndarray, rate: float, names: tuple[str, ...], standard: SignalStandard | None = None
) -> Payload:
    payload = Payload(array, np.diag([1 / rate, 1, 1, 1]), names=names)
    return harmonise(payload, ECG, standard or SignalStandard(), NOTHING)


@pytest.mark.parametrize("rate", [100.0, 128.0, 250.0, 257.0, 360.0, 500.0, 1000.0, 50.0, 12_500.0])
def test_a_wave_keeps_its_frequency_at_any_rate(rate: float) -> None:
    found = harmonised(wave(rate, 12)[None] * 40 + 7, rate, ("II",))
    assert found.array.shape == (len(LEADS), 1000)
    row = found.array[LEADS.index("ii")]
    expected = wave(100, 10) * np.sqrt(2)  # about zero, of unit spread
    assert np.abs(row - expected)[20:-20].max() < 0.03
    assert found.to_world is not None
    assert found.to_world[0, 0] == 0.01


@pytest.mark.parametrize("rate", [1e6, 0.5])
def test_rates_that_no_instrument_has_do_not_break_it(rate: float) -> None:
    row = harmonised(np.random.default_rng(0).normal(size=(1, 3000)), rate, ("i",)).array[0]
    there = min(len(row), math.ceil(3000 / rate * 100))
    assert np.isfinite(row[:there]).all()
    assert np.isnan(row[there:]).all()


def test_less_than_a_sample_in_the_window_is_nothing() -> None:
    assert np.isnan(harmonised(np.ones((1, 3000)), 1e-3, ("i",)).array).all()


def test_leads_go_by_name_and_a_missing_one_is_nan() -> None:
    array = np.stack([wave(100, 10, hz) for hz in (1, 2, 3, 4)])
    found = harmonised(array, 100, ("V1", "MLII", "ABP", "lead aVR"))
    present = {LEADS[i] for i in range(len(LEADS)) if np.isfinite(found.array[i]).all()}
    assert present == {"v1", "ii", "abp", "avr"}
    assert np.isnan(found.array[LEADS.index("iii")]).all()
    again = harmonised(array[::-1], 100, ("lead aVR", "ABP", "MLII", "V1"))
    assert np.allclose(again.array, found.array, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "lead"),
    [
        ("II", "ii"),
        (" mlii ", "ii"),
        ("ECG V3", "v3"),
        ("ART", "abp"),
        ("Pleth", "ppg"),
        ("CO2", "other"),
        ("", "other"),
    ],
)
def test_a_lead_is_known_by_its_names(name: str, lead: str) -> None:
    assert LEADS[lead_number(name)] == lead


def test_a_gap_is_filled_and_a_lead_of_nothing_is_missing() -> None:
    array = np.stack([wave(100, 10), np.full(1000, np.nan)])
    array[0, 300:320] = np.nan
    found = harmonised(array, 100, ("I", "V5"))
    assert np.isfinite(found.array[0]).all()
    assert np.isnan(found.array[LEADS.index("v5")]).all()


def test_of_two_leads_of_a_name_the_first_counts() -> None:
    array = np.stack([wave(100, 10, 1), wave(100, 10, 5)])
    found = harmonised(array, 100, ("II", "MLII"))
    assert np.corrcoef(found.array[LEADS.index("ii")], array[0])[0, 1] > 0.99


def test_what_a_short_signal_lacks_is_not_made_up_and_a_long_one_is_cut() -> None:
    short = harmonised(wave(100, 4)[None], 100, ("I",)).array[0]
    assert np.isnan(short[400:]).all()
    assert abs(short[:400].std() - 1) < 0.01
    assert np.allclose(
        harmonised(wave(100, 60)[None], 100, ("I",)).array[0], harmonised(wave(100, 11)[None], 100, ("I",)).array[0]
    )
    assert harmonised(wave(100, 60)[None], 100, ("I",), SignalStandard(rate_hz=50, seconds=3)).array.shape == (
        len(LEADS),
        150,
    )


def test_an_artefact_does_not_drown_the_rest() -> None:
    array = wave(100, 10)[None].copy()
    array[0, 500] = 1e9
    assert np.abs(harmonised(array, 100, ("I",)).array[0]).max() <= 10


def test_the_hospitals_twelve_leads(hospital: Path) -> None:
    (record,) = records.read(hospital / "cardiology/s0010_re.hea")
    assert isinstance(record, Record)
    found = harmonise(records.load(record, hospital / "cardiology"), record, SignalStandard(), NOTHING).array
    assert np.isfinite(found[:12]).all()
    # Einthoven: I + III = II. Standardised, I and III still span II.
    left, *_ = np.linalg.lstsq(found[[0, 2]].T, found[1], rcond=None)
    assert np.corrcoef(left @ found[[0, 2]], found[1])[0, 1] > 0.99


def lead_ii(array: np.ndarray, rate: float, **options: Any) -> np.ndarray:
    return harmonised(array[None], rate, ("II",), SignalStandard(**options)).array[LEADS.index("ii")]


@pytest.mark.parametrize("rate", [250.0, 500.0, 1000.0])
def test_what_is_not_in_the_band_is_left_out_and_what_is_stays_in_its_place(rate: float) -> None:
    heart = wave(rate, 12, 5.0)
    heard = heart + 3 * wave(rate, 12, 0.1) + 0.8 * wave(rate, 12, 50.0)
    kept = lead_ii(heard, rate, rate_hz=200, band_hz=(0.5, 40), mains_hz=50)
    assert np.abs(kept - wave(200, 10, 5.0) * np.sqrt(2))[200:-200].max() < 0.1  # no wave is shifted
    dirty = lead_ii(heard, rate, rate_hz=200)
    assert np.abs(dirty - wave(200, 10, 5.0) * np.sqrt(2))[200:-200].max() > 0.5


def test_a_filter_that_the_rate_cannot_carry_does_nothing() -> None:
    slow = wave(50.0, 12, 1.0)
    assert np.array_equal(lead_ii(slow, 50.0, mains_hz=60), lead_ii(slow, 50.0))
    with pytest.raises(ValueError, match="lower end first"):
        SignalStandard(band_hz=(40, 0.5))


def test_a_signal_of_a_few_samples_is_filtered_too() -> None:
    assert np.isfinite(lead_ii(np.arange(5.0), 250.0, band_hz=(0.5, 40), mains_hz=50)[:2]).all()


def test_the_rate_may_be_that_of_the_training_signals() -> None:
    signals = {
        str(i): Payload(wave(rate, 12)[None], np.diag([1 / rate, 1, 1, 1]), names=("II",))
        for i, rate in enumerate((250.0, 500.0, 500.0))
    }
    standard = SignalStandard(rate_hz=None)
    records = [Record(i, i, None, Modality.SIGNAL, "ECG", i) for i in signals]
    fingerprint = fit(records, lambda r: signals[r.id], {Modality.SIGNAL: standard})
    assert fingerprint.rate_hz == 500.0
    assert harmonise(signals["0"], ECG, standard, fingerprint).array.shape == (len(LEADS), 5000)
