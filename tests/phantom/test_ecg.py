"""The ECG against Einthoven, Goldberger, Dower's published table, a detector of another library, and wfdb's own writer."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.phantom.ecg import DOWER, LEADS, SECONDS, UNITS_MV, beats, dipole, record, stored, wfdb
from polyclinic.phantom.people import person
from polyclinic.phantom.sites import SITES

WELL = person(0, 0) | {
    "rhythm": 0, "bundle_block": 0, "heart_failure": 0, "kidney": 0, "emphysema": 0, "axis_deg": 50.0, "severity": 0,
}  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 500))
def test_einthoven_and_goldberger_hold_to_the_bit(index: int) -> None:
    signal, _ = record(person(1, index), SITES[index % 3], np.random.default_rng(index))
    lead = dict(zip(LEADS, signal.T.astype(int), strict=True))
    assert (lead["I"] + lead["III"] == lead["II"]).all()
    assert (lead["aVR"] + lead["aVL"] + lead["aVF"] == 0).all()
    assert (2 * lead["aVR"] == -(lead["I"] + lead["II"])).all()


def test_limb_leads_are_those_of_the_published_table() -> None:
    """Dower et al. 1980 list III, aVR, aVL and aVF too; ours follow from I and II, to their third decimal."""
    listed = {
        "III": (-0.397, 1.301, -0.191),
        "aVR": (-0.434, -0.415, 0.037),
        "aVL": (0.515, -0.768, 0.125),
        "aVF": (-0.081, 1.184, -0.162),
    }
    twelve = stored(np.eye(3) @ DOWER.T) / UNITS_MV  # the leads of a dipole of 1 mV along each axis
    for name, row in listed.items():
        np.testing.assert_allclose(twelve[:, LEADS.index(name)], row, atol=0.0035)


@pytest.mark.parametrize("axis", [-30.0, 0.0, 45.0, 90.0, 110.0])
def test_the_frontal_axis_is_that_of_the_graph(axis: float) -> None:
    """By the net area of the QRS along x and y, the way a vectorcardiogram measures it."""
    moment, at = dipole(WELL | {"axis_deg": axis}, 500, np.random.default_rng(0))
    around = [moment[int(500 * t) - 25 : int(500 * t) + 26] for t in at if 0.2 < t < SECONDS - 0.2]
    x, y, _ = np.mean([part.sum(axis=0) for part in around], axis=0)
    assert np.degrees(np.arctan2(y, x)) == pytest.approx(axis, abs=8)


def test_fibrillation_is_irregular_and_has_no_p_wave() -> None:
    spread, before = {0: [], 1: []}, {0: [], 1: []}
    for rhythm in (0, 1):
        for seed in range(12):
            rng = np.random.default_rng(seed)
            intervals = np.diff(beats(WELL | {"rhythm": rhythm}, rng))
            spread[rhythm].append(intervals.std() / intervals.mean())
            assert intervals.min() >= 0.32
            moment, at = dipole(WELL | {"rhythm": rhythm}, 500, rng)
            # The mean beat: what is not locked to it, such as the atria's flicker, averages out.
            parts = [moment[int(500 * t) - 110 : int(500 * t) - 45, 1] for t in at if 0.3 < t < SECONDS]
            mean = np.mean(parts, axis=0)
            before[rhythm].append(mean.max() - mean[0])
    assert max(spread[0]) < 0.06
    assert min(spread[1]) > 0.12
    assert min(before[0]) > 0.08
    assert np.mean(before[1]) < 0.5 * np.mean(before[0])


def test_a_bundle_branch_block_is_wide_and_turns_the_t_wave() -> None:
    width, upright = [], []
    for block in (0, 1):
        moment, at = dipole(WELL | {"bundle_block": block}, 500, np.random.default_rng(0))
        start = int(500 * at[2])
        size = np.linalg.norm(moment[start - 60 : start + 75], axis=1)
        width.append(np.sum(size > 0.15 * size.max()) / 500)
        lead = (moment @ DOWER.T)[:, 7]  # V6
        upright.append(lead[start + 110 : start + 180].mean() > 0)
    assert width[0] < 0.11 < 0.13 < width[1]
    assert upright == [True, False]


def test_a_detector_finds_the_beats_where_they_are() -> None:
    processing = pytest.importorskip("wfdb.processing")
    signal, at = record(WELL, SITES[1], np.random.default_rng(3))
    found = (
        processing.xqrs_detect(signal[:, LEADS.index("II")] / UNITS_MV, fs=SITES[1].ecg_rate_hz, verbose=False)
        / SITES[1].ecg_rate_hz
    )
    inner = at[(at > 1) & (at < 9)]  # it needs a run-up
    assert max(np.abs(found - t).min() for t in inner) < 0.05
    assert abs(len(found) - len(at)) <= 2


def test_the_file_is_what_wfdb_writes(tmp_path: Path) -> None:
    library = pytest.importorskip("wfdb")
    signal, _ = record(person(2, 5), SITES[2], np.random.default_rng(0))
    when, comments = datetime(2019, 3, 4, 5, 6, 7), ["Patient: P000005", "Age: 61"]
    library.wrsamp(
        "EC5", SITES[2].ecg_rate_hz, ["mV"] * 12, list(LEADS), d_signal=signal.astype(np.int64), fmt=["16"] * 12, adc_gain=[UNITS_MV] * 12,
        baseline=[0] * 12, base_datetime=when, comments=comments, write_dir=str(tmp_path),
    )  # fmt: skip
    header, samples = wfdb("EC5", signal, SITES[2].ecg_rate_hz, when, comments)
    assert header == (tmp_path / "EC5.hea").read_bytes()
    assert samples == (tmp_path / "EC5.dat").read_bytes()
