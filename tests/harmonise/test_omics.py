from __future__ import annotations

import numpy as np
from sklearn.preprocessing import StandardScaler

from polyclinic.harmonise import Fingerprint, OmicsStandard, fit, harmonise
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
