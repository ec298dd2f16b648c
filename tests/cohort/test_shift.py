"""How sites differ, against analytic cases and against scipy and scikit-learn."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from polyclinic.cohort import Cohort
from polyclinic.cohort.shift import distances, mean_difference, shifts, told_apart, word_difference
from polyclinic.schema import Modality, Record


def hospital(path: Path, apart: float, n: int = 60) -> Cohort:
    """Three sites; those of A are older by `apart` years, and half of A's patients are called ill, a quarter of the others."""
    random = np.random.default_rng(0)
    found = []
    for i in range(3 * n):
        site, k = "ABC"[i % 3], i // 3
        cells = {
            "age": float(50 + random.normal(0, 10) + apart * (site == "A")), "ill": "yes" if k % (2 if site == "A" else 4) == 0 else "no",
            "place": site, "sex": "FM"[k % 2],
        }  # fmt: skip
        found.append(
            Record(f"t{i:03d}", f"P{i:03d}", datetime(2020, 1, 1), Modality.TABLE, "table", "u", site, None, cells)
        )
        if site == "A" and apart:
            found.append(
                Record(f"i{i:03d}", f"P{i:03d}", datetime(2020, 2, 1), Modality.IMAGE, "CR", "u", site, None, {})
            )
    cohort = Cohort.create(path)
    cohort.add(path, found)
    return cohort


def test_a_mean_difference_of_known_moments() -> None:
    value, low, high = mean_difference((50, 12.0, 4.0), (50, 10.0, 4.0))
    assert value == pytest.approx(1.0)
    assert (high - low) / 2 == pytest.approx(1.96 * (100 / 2500 + 1 / 200) ** 0.5)
    assert np.isnan(mean_difference((5, 1.0, 0.0), (5, 2.0, 0.0))[0])


def test_the_interval_of_a_mean_difference_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        a, b = random.normal(0.5, 1, 40), random.normal(0, 1, 60)
        _, low, high = mean_difference((40, a.mean(), a.var(ddof=1)), (60, b.mean(), b.var(ddof=1)))
        held += low <= 0.5 <= high
    assert 0.92 <= held / 400 <= 0.98


def test_distances_of_words_are_scipy_s() -> None:
    a, b = np.array([8.0, 2.0, 0.0]), np.array([3.0, 3.0, 4.0])
    tv, bits = distances(a, b)
    assert tv == pytest.approx(0.5)
    assert bits == pytest.approx(jensenshannon(a, b, base=2) ** 2)
    assert distances(a, 7 * a) == (pytest.approx(0), pytest.approx(0))
    assert distances(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == (pytest.approx(1), pytest.approx(1))
    value, low, high, _ = word_difference(a * 20, b * 20)
    assert value == pytest.approx(0.5)
    assert low <= value <= high
    assert 0.02 < high - low < 0.3


def test_what_differs_between_sites_is_found_and_measured(tmp_path: Path) -> None:
    with hospital(tmp_path, apart=20).asking("from records, patients") as connection:
        found = {(s.column, s.site): s for s in shifts(connection)}
        assert not shifts(connection, fewest=500)
    age = found["age", "A"]
    assert (age.measure, age.n, age.others) == ("smd", 60, 120)
    assert age.low < 2.0 < age.high
    assert found["age", "B"].value < -0.5
    assert found["ill", "A"].value == pytest.approx(0.25)
    assert found["ill", "A"].low > 0.05
    assert found["sex", "A"].value == pytest.approx(0.0)
    assert not any(column == "place" for column, _ in found)  # the site by another name


@pytest.mark.parametrize(("apart", "low", "high"), [(0.0, 0.4, 0.62), (30.0, 0.7, 0.95)])
def test_a_classifier_tells_sites_apart_as_far_as_they_are(
    tmp_path: Path, apart: float, low: float, high: float
) -> None:
    with hospital(tmp_path, apart).asking("from records, patients") as connection:
        told = told_apart(connection)
        assert told is not None
        assert (
            low < told.value < high
        )  # of three sites one is told by its images, two are alike: about (1 + 0.75 + 0.75) / 3
        assert told.low <= told.value <= told.high
        assert (told.n, told.sites) == (180, 3)
        assert told_apart(connection, fewest=100) is None
