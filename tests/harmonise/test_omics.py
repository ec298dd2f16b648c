from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from polyclinic.harmonise import Fingerprint, OmicsStandard, fit, harmonise
from polyclinic.harmonise.omics import OmicsError, log1p_cpm, rank, within
from polyclinic.schema import Modality, Payload, Record

GENES = ("A", "B", "C", "FLAT")
RECORDS = [Record(f"{i}", f"P{i}", None, Modality.OMICS, "RNA-seq", f"{i}") for i in range(30)]
VALUES = np.random.default_rng(0).normal([0, 5, -3, 1], [1, 2, 0.5, 0], (30, 4)).astype(np.float32)
VALUES[3, 1] = np.nan
load = lambda r: Payload(VALUES[int(r.id)], names=GENES)


def fitted() -> Fingerprint:
    return fit(RECORDS, load, {Modality.OMICS: OmicsStandard()})


def test_genes_are_standardised_as_scikit_learn_does_and_what_was_not_measured_stays_so() -> None:
    fingerprint = fitted()
    assert list(fingerprint.genes) == ["A", "B", "C"]  # a gene that never varies tells nothing
    assert fingerprint.genes["B"].n == 29
    expected = StandardScaler().fit_transform(VALUES[:, :3])
    for record in RECORDS:
        found = harmonise(load(record), record, OmicsStandard(), fingerprint)
        assert found.names == ("A", "B", "C")
        assert np.allclose(found.array, np.clip(expected[int(record.id)], -5, 5), atol=1e-3, equal_nan=True)


def test_genes_come_in_one_order_from_any_table() -> None:
    fingerprint = fitted()
    other = harmonise(
        Payload(np.array([9.0, VALUES[0, 2], VALUES[0, 0]]), names=("NEW", "C", "A")),
        RECORDS[0],
        OmicsStandard(),
        fingerprint,
    )
    same = harmonise(load(RECORDS[0]), RECORDS[0], OmicsStandard(), fingerprint)
    assert np.isnan(other.array[1])
    assert np.allclose(other.array[[0, 2]], same.array[[0, 2]])


def test_outliers_are_bound() -> None:
    found = harmonise(Payload(np.array([1e9, -1e9, 0.0]), names=("A", "B", "C")), RECORDS[0], OmicsStandard(), fitted())
    assert found.array[:2].tolist() == [5, -5]


def test_tables_of_two_assays_are_fitted_together() -> None:
    more = [Record(f"m{i}", f"P{i}", None, Modality.OMICS, "copy number", f"m{i}") for i in range(5)]
    both = fit(
        [*RECORDS, *more],
        lambda r: Payload(np.array([float(r.id[1:])]), names=("CNV",)) if r.id[0] == "m" else load(r),
        {Modality.OMICS: OmicsStandard()},
    )
    assert list(both.genes) == ["A", "B", "C", "CNV"]
    assert (both.genes["CNV"].mean, both.genes["CNV"].n) == (2.0, 5)


COUNTS = np.random.default_rng(1).poisson(20, (30, 4)).astype(np.float32) * np.arange(1, 31, dtype=np.float32)[:, None]
COUNTS[:, 3] += np.arange(30)
counted = lambda r: Payload(COUNTS[int(r.id)], names=GENES)


def test_the_default_is_as_it_was() -> None:
    assert OmicsStandard() == OmicsStandard(within="none", standardise=True)
    payload = load(RECORDS[0])
    assert within(payload, OmicsStandard()) is payload


def test_counts_per_million_do_not_know_how_deep_a_sample_was_sequenced() -> None:
    standard = OmicsStandard(within="log1p_cpm")
    fingerprint = fit(RECORDS, counted, {Modality.OMICS: standard})
    cpm = np.log1p(
        COUNTS / COUNTS.sum(1, keepdims=True, dtype=float) * 1e6
    )  # scanpy: normalize_total to 1e6, then log1p
    expected = StandardScaler().fit_transform(cpm)
    for record in RECORDS:
        found = harmonise(counted(record), record, standard, fingerprint)
        assert np.allclose(found.array, np.clip(expected[int(record.id)], -5, 5), atol=2e-3)
        deeper = Payload(counted(record).array * 7, names=GENES)
        assert np.allclose(harmonise(deeper, record, standard, fingerprint).array, found.array, atol=1e-3)
        plain = harmonise(counted(record), record, OmicsStandard(within="log1p_cpm", standardise=False), fingerprint)
        assert np.allclose(plain.array, cpm[int(record.id)], rtol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.just(float("nan")), st.integers(-4, 4).map(float)), min_size=1, max_size=30))
def test_ranks_are_normal_quantiles_whatever_the_scale(values: list[float]) -> None:
    found = rank(np.array(values))
    known = np.isfinite(values)
    assert np.array_equal(np.isfinite(found), known)
    n, of = known.sum(), scipy.stats.rankdata(values, nan_policy="omit")
    assert np.allclose(found, scipy.stats.norm.ppf((of - 3 / 8) / (n + 1 - 2 * 3 / 8)), equal_nan=True)
    assert np.allclose(found, rank(np.exp(np.array(values) / 2) * 3), equal_nan=True)  # any rising scale


def test_what_was_not_measured_stays_so_and_counts_for_nothing() -> None:
    counts = np.array([1.0, np.nan, 3.0])
    assert np.allclose(log1p_cpm(counts), np.log1p([250_000, np.nan, 750_000]), equal_nan=True)
    assert np.isnan(log1p_cpm(np.full(3, np.nan))).all()
    assert log1p_cpm(np.zeros(3)).tolist() == [0, 0, 0]


def test_values_that_are_no_counts_are_refused() -> None:
    with pytest.raises(OmicsError, match="below 0"):
        within(load(RECORDS[0]), OmicsStandard(within="log1p_cpm"))


@pytest.mark.parametrize("how", ["log1p_cpm", "rank"])
def test_mutations_and_copy_numbers_are_left_as_they_are(how: Literal["log1p_cpm", "rank"]) -> None:
    mixed = Payload(np.array([5, 2, -1, 15, 1], np.float32), names=("A_rnaseq", "A_mut", "A_cnv", "B_rnaseq", "B_mut"))
    found = within(mixed, OmicsStandard(within=how))
    assert found.array[[1, 2, 4]].tolist() == [2, -1, 1]
    expected = (
        np.log1p([250_000, 750_000]) if how == "log1p_cpm" else scipy.stats.norm.ppf([0.625 / 2.25, 1.625 / 2.25])
    )
    assert np.allclose(found.array[[0, 3]], expected)
