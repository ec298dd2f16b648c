"""Bands find what comparing all with all finds, and compare few."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.cohort import ingest, leakage
from polyclinic.cohort.candidates import buckets, pairs
from polyclinic.cohort.leakage import near_duplicates
from polyclinic.schema import Modality, Payload, Record


@settings(max_examples=40, deadline=None)
@given(band=st.lists(st.integers(0, 5), max_size=25))
def test_pairs_are_all_that_share_a_bucket_and_each_comes_once(band: list[int]) -> None:
    given_ = [
        frozenset(p)
        for a, b in pairs(np.array(band, dtype=np.uint16))
        for p in zip(a.tolist(), b.tolist(), strict=True)
    ]
    expected = {frozenset((i, j)) for i in range(len(band)) for j in range(i) if band[i] == band[j]}
    assert set(given_) == expected
    assert len(given_) == len(expected)


def planted(array: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """As another export would have it: brighter, noisier, a border cut off, at another size."""
    grey = array[0] * random.uniform(0.7, 1.2) + random.uniform(-0.1, 0.1) * np.ptp(array)
    grey = grey + random.normal(0, 0.01 * np.ptp(array), grey.shape)
    edge = int(random.integers(0, 3))
    grey = grey[edge : grey.shape[0] - edge, edge : grey.shape[1] - edge]
    step = int(random.integers(1, 3))
    return grey[::step, ::step][None]


def test_of_real_x_rays_and_planted_copies_bands_find_what_all_pairs_find(
    hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = ingest(hospital / "radiology", tmp_path / "c")
    images = [r for r in cohort.records("modality = 'image'") if not r.attributes.get("mask")]
    arrays = {r.id: cohort.load(r).array for r in images}
    random = np.random.default_rng(0)
    copies = []
    for record in images:
        copies.append(Record(f"copy {record.id}", f"other {record.patient}", None, Modality.IMAGE, "CR", "x"))
        arrays[copies[-1].id] = planted(arrays[record.id], random)
    load = lambda r: Payload(arrays[r.id])
    expected = near_duplicates([*images, *copies], load)
    assert len(expected) > 0.9 * len(images)
    monkeypatch.setattr(leakage, "EXACT", 0)
    assert near_duplicates([*images, *copies], load) == expected


def test_of_many_alike_pictures_few_are_compared_and_the_copies_are_among_them() -> None:
    n, d = 6000, 1024
    random = np.random.default_rng(1)
    anatomy, ways = random.normal(size=d), random.normal(size=(40, d))
    drawn = 1.5 * anatomy + random.normal(size=(n, 40)) @ ways / 40**0.5 + 0.2 * random.normal(size=(n, d))
    copies = drawn[:200] + 0.07 * drawn.std() * random.normal(size=(200, d))
    every = np.concatenate([drawn, copies])
    every = ((every - every.mean(1, keepdims=True)) / every.std(1, keepdims=True)).astype(np.float16)
    alike = lambda a, b: float(np.mean(every[a].astype(float) * every[b].astype(float)))
    assert np.mean([alike(i, i + 1) for i in range(50)]) > 0.6  # as X-rays of different people are
    assert 0.99 < np.mean([alike(i, n + i) for i in range(50)]) < 0.999
    compared, met = 0, set()
    for band in buckets(every):
        for a, b in pairs(band):
            compared += len(a)
            met |= {i for i, j in zip(np.minimum(a, b).tolist(), np.maximum(a, b).tolist(), strict=True) if j == n + i}
    assert met == set(range(200))
    assert compared < 0.02 * n * n / 2


def test_blank_images_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leakage, "EXACT", 0)
    found = [Record(str(i), f"P{i}", None, Modality.IMAGE, "CR", "x") for i in range(300)]
    picture = np.random.default_rng(0).normal(size=(1, 64, 64)).cumsum(axis=1).cumsum(axis=2)
    load = lambda r: Payload(picture if r.id in ("7", "250") else np.full((1, 40, 40), 7.0))
    assert [(a.id, b.id) for a, b in near_duplicates(found, load)] == [("7", "250")]
