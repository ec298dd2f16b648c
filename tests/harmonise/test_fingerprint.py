from __future__ import annotations

from pathlib import Path

import numpy as np

from polyclinic.cohort import Cohort
from polyclinic.cohort.catalogue import inputs
from polyclinic.harmonise import Fingerprint, OmicsStandard, TableStandard, TextStandard, VolumeStandard, fit
from polyclinic.schema import Modality, Payload, Record

STANDARDS = {
    Modality.TEXT: TextStandard(vocabulary=128), Modality.TABLE: TableStandard(exclude=("finding", "survival_months"), fewest=2),
    Modality.OMICS: OmicsStandard(), Modality.VOLUME: VolumeStandard(),
}  # fmt: skip


def test_it_is_saved_and_opened_and_does_not_depend_on_the_records_order(tiny_cohort: Cohort, tmp_path: Path) -> None:
    found = inputs(tiny_cohort.records())
    made = fit(found, tiny_cohort.load, STANDARDS)
    made.save(tmp_path / "f.json")
    opened = Fingerprint.open(tmp_path / "f.json")
    assert opened == made
    assert opened.hash == made.hash
    assert all(np.array_equal(a, b) for a, b in zip(opened.gene_scale(), made.gene_scale(), strict=True))
    turned = fit(list(reversed(found)), tiny_cohort.load, STANDARDS)
    assert turned.tokenizer == made.tokenizer
    assert list(turned.codes) == list(made.codes)
    assert list(turned.genes) == list(made.genes)


def test_other_patients_give_another_one(tiny_cohort: Cohort) -> None:
    found = inputs(tiny_cohort.records())
    half = [r for r in found if r.patient < "CXR-0234" or r.modality is Modality.VOLUME]
    assert fit(found, tiny_cohort.load, STANDARDS).hash != fit(half, tiny_cohort.load, STANDARDS).hash


def test_no_label_is_in_it(tiny_cohort: Cohort) -> None:
    made = fit(inputs(tiny_cohort.records()), tiny_cohort.load, STANDARDS)
    assert made.codes
    assert not [c for c in made.codes if c.startswith(("finding", "survival_months"))]
    assert not [g for g in made.genes if g.startswith(("finding", "survival_months"))]


def test_the_median_spacing_is_along_the_patients_axes() -> None:
    records = [Record(f"{i}", "P", None, Modality.VOLUME, "MR", f"{i}") for i in range(3)]
    # One volume, three times: cut axially, sagittally and coronally. Along S it is always 5 mm, along P 2, along L 1.
    axial = np.diag([1.0, 2.0, 5.0, 1.0])
    matrices = [axial, axial[:, [1, 2, 0, 3]], axial[:, [2, 0, 1, 3]] * [-1, 1, 1, 1]]
    load = lambda r: Payload(np.zeros((1, 2, 2, 2)), matrices[int(r.id)])
    assert fit(records, load, {Modality.VOLUME: VolumeStandard(spacing_mm=None)}).spacing_mm == (5.0, 2.0, 1.0)


def test_nothing_is_loaded_for_what_nobody_asks(tiny_cohort: Cohort) -> None:
    def load(record: Record) -> Payload:
        raise AssertionError(record.modality)

    made = fit(tiny_cohort.records(), load, {Modality.VOLUME: VolumeStandard()})
    assert made.spacing_mm == (1.0, 1.0, 1.0)
    assert made.words == 4
