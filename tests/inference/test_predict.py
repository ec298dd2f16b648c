from __future__ import annotations

import csv
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from polyclinic import records
from polyclinic.adaptation import AdaptError, adapt, open_adapted
from polyclinic.cohort import Cohort
from polyclinic.cohort.catalogue import inputs
from polyclinic.inference import embed, predict, predict_files, predict_masks
from polyclinic.records import RecordError
from polyclinic.schema import Modality
from polyclinic.tasks.segmentation import dice
from polyclinic.training import Run


@pytest.fixture(scope="module")
def survival_run(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return adapt(tiny_run, "survival", "probe", into=tmp_path_factory.mktemp("survival"))


def files_of(cohort: Cohort, patient: str, modality: Modality) -> list[Path]:
    """The files of one patient's records that are files of their own."""
    found = [r for r in inputs(cohort.records()) if r.patient == patient and r.modality is modality]
    return [cohort._roots[r.id] / records.split_uri(r.uri)[0] for r in found]


def row_of(table: Path, patient: str, to: Path) -> Path:
    """A table of one patient's rows."""
    with table.open(newline="") as file:
        head, *rows = list(csv.reader(file))
    with to.open("w", newline="") as file:
        csv.writer(file).writerows([head, *(row for row in rows if row[0] == patient)])
    return to


@pytest.mark.parametrize("subset", [("image",), ("text",), ("table",), ("image", "table"), ("image", "text", "table")])
def test_any_subset_is_an_answer(subset: tuple[str, ...], tiny_finding_run: Run, tiny_cohort: Cohort) -> None:
    everybody = tiny_finding_run.split.train + tiny_finding_run.split.test
    answers = predict(tiny_finding_run, tiny_cohort, patients=everybody, modalities=subset)
    assert len(answers.patients) == len(answers.outputs) == len(answers.targets) == len(answers.mask)
    assert ((answers.outputs > 0) & (answers.outputs < 1)).all()
    assert all(set(has) <= {Modality(m) for m in subset} for has in answers.modalities)
    has = {r.patient for r in inputs(tiny_cohort.records()) if r.modality.value in subset}
    assert set(answers.patients) == has & set(everybody)


def test_nobody_and_nothing_are_answers_too(
    tiny_finding_run: Run, survival_run: Run, tiny_segmentation_run: Run
) -> None:
    for run, width in ((tiny_finding_run, ()), (survival_run, (2,)), (tiny_segmentation_run, (2,))):
        nobody = predict(run, patients=["nobody"])
        assert nobody.patients == ()
        assert nobody.targets.shape == (0, *width)
        assert predict(run, modalities=()).patients == ()


def test_a_modality_that_the_run_does_not_read(tiny_finding_run: Run) -> None:
    for wanted in ("volume", "xray"):
        with pytest.raises(AdaptError, match=f"predictions from '{wanted}'"):
            predict(tiny_finding_run, modalities=["image", wanted])


def test_one_at_a_time_is_all_together(tiny_finding_run: Run, tiny_cohort: Cohort) -> None:
    """No patient's answer depends on who else is asked about."""
    together = predict(tiny_finding_run, tiny_cohort)
    alone = [predict(tiny_finding_run, tiny_cohort, patients=[p]).outputs[0] for p in together.patients]
    np.testing.assert_allclose(alone, together.outputs, atol=1e-5)


@pytest.mark.parametrize("modality", [Modality.IMAGE, Modality.TEXT])
def test_files_give_what_the_cohort_gives(modality: Modality, tiny_finding_run: Run, tiny_cohort: Cohort) -> None:
    everybody = tiny_finding_run.split.train + tiny_finding_run.split.test
    answers = predict(tiny_finding_run, tiny_cohort, patients=everybody, modalities=[modality])
    alone = [
        (p, o) for p, o in zip(answers.patients, answers.outputs, strict=True) if files_of(tiny_cohort, p, modality)
    ]
    assert len(alone) >= 3
    for patient, wanted in alone[:4]:
        answer = predict_files(tiny_finding_run, files_of(tiny_cohort, patient, modality))
        assert answer.values["score"] == pytest.approx(float(wanted), abs=6e-5)  # it is given to four places
        assert answer.used == (modality,)


def test_a_picture_and_a_row_give_what_the_cohort_gives(
    tiny_finding_run: Run, tiny_cohort: Cohort, small_hospital: Path, tmp_path: Path
) -> None:
    both = [Modality.IMAGE, Modality.TABLE]
    answers = predict(tiny_finding_run, tiny_cohort, modalities=both)
    patient, wanted = next(
        (p, o)
        for p, o, has in zip(answers.patients, answers.outputs, answers.modalities, strict=True)
        if set(has) == {*both}
    )
    row = row_of(small_hospital / "radiology/studies.csv", patient, tmp_path / "studies.csv")
    answer = predict_files(tiny_finding_run, [*files_of(tiny_cohort, patient, Modality.IMAGE), row])
    assert set(answer.used) == {*both}
    assert answer.values["score"] == pytest.approx(float(wanted), abs=6e-5)


def test_a_row_gives_what_the_cohort_gives_for_survival(
    survival_run: Run, tiny_cohort: Cohort, small_hospital: Path, tmp_path: Path
) -> None:
    answers = predict(survival_run, tiny_cohort, modalities=[Modality.TABLE])
    patient, wanted = next(
        (p, o) for p, o in zip(answers.patients, answers.outputs, strict=True) if p.startswith("TCGA")
    )
    row = row_of(small_hospital / "oncology/bladder_clinical.csv", patient, tmp_path / "row.csv")
    assert predict_files(survival_run, [row]).values["log_hazard"] == pytest.approx(float(wanted), abs=6e-5)


def test_the_same_file_twice_counts_once(tiny_finding_run: Run, tiny_cohort: Cohort, tmp_path: Path) -> None:
    patient = next(p for p in tiny_finding_run.split.test if files_of(tiny_cohort, p, Modality.IMAGE))
    (file, *_) = files_of(tiny_cohort, patient, Modality.IMAGE)
    again = shutil.copy(file, tmp_path / "again.dcm")
    one, two = predict_files(tiny_finding_run, [file]), predict_files(tiny_finding_run, [file, again])
    assert one.values == two.values


def test_a_table_of_many_patients_is_not_one_patient(tiny_finding_run: Run, small_hospital: Path) -> None:
    with pytest.raises(RecordError, match=r"studies\.csv: a file of 12 patients"):
        predict_files(tiny_finding_run, [small_hospital / "radiology/studies.csv"])


def test_files_that_cannot_be_used(tiny_finding_run: Run, small_hospital: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no file nothing\.dcm"):
        predict_files(tiny_finding_run, [tmp_path / "nothing.dcm"])
    with pytest.raises(RecordError, match="cut short"):
        predict_files(tiny_finding_run, [next((small_hospital / "radiology/broken").iterdir())])
    (tmp_path / "noise.bin").write_bytes(bytes(range(256)))
    with pytest.raises(RecordError, match="unknown format"):
        predict_files(tiny_finding_run, [tmp_path / "noise.bin"])
    volume = next((small_hospital / "neurology/hippocampus/images").iterdir())
    with pytest.raises(RecordError, match="files of volume") as caught:
        predict_files(tiny_finding_run, [volume])
    assert "image, text, table" in caught.value.expected
    row = tmp_path / "row.csv"
    row.write_text("patient_id,shoe_size\nP1,44\n")
    with pytest.raises(RecordError, match="of which the model knows nothing"):
        predict_files(tiny_finding_run, [row])


def test_masks_come_back_on_the_grid_of_the_file(
    tiny_segmentation_run: Run, tiny_cohort: Cohort, small_hospital: Path
) -> None:
    patients = list(tiny_segmentation_run.split.test)
    answers = predict_masks(tiny_segmentation_run, tiny_cohort, patients=patients)
    assert answers
    for answer in answers:
        path = tiny_cohort._roots[answer.record.id] / answer.record.uri
        image: nib.nifti1.Nifti1Image = nib.load(path)  # type: ignore[assignment]
        assert answer.on_source.shape == image.shape[::-1]  # z y x of what the file has as x y z
        assert answer.predicted.shape == answer.image.array.shape[1:]
        single = predict_files(tiny_segmentation_run, [path])
        assert single.overlay is not None
        np.testing.assert_array_equal(single.overlay, answer.on_source)
        voxel_ml = float(np.prod(image.header.get_zooms()[:3])) / 1000
        for number, name in enumerate(("anterior", "posterior"), start=1):
            assert single.values[f"{name}_ml"] == pytest.approx((answer.on_source == number).sum() * voxel_ml, abs=6e-4)


def test_dice_is_of_the_masks(tiny_segmentation_run: Run, tiny_cohort: Cohort) -> None:
    answers = predict(tiny_segmentation_run, tiny_cohort)
    masks = predict_masks(tiny_segmentation_run, tiny_cohort, patients=answers.patients)
    for patient, found in zip(answers.patients, answers.outputs, strict=True):
        (mine,) = [m for m in masks if m.record.patient == patient]
        assert mine.truth is not None
        np.testing.assert_allclose(found, dice(mine.predicted, mine.truth, 3))


def test_patients_without_a_volume_are_not_segmented(tiny_segmentation_run: Run, tiny_cohort: Cohort) -> None:
    everybody = tiny_segmentation_run.split.train + tiny_segmentation_run.split.test
    answers = predict(tiny_segmentation_run, tiny_cohort, patients=everybody)
    has = {r.patient for r in inputs(tiny_cohort.records()) if r.modality is Modality.VOLUME}
    assert set(answers.patients) == has
    assert len(predict_masks(tiny_segmentation_run, tiny_cohort, patients=everybody)) == len(has)


def test_vectors_are_of_unit_length_and_of_whom_they_say(tiny_run: Run, tiny_cohort: Cohort) -> None:
    found = embed(tiny_run, tiny_cohort)
    for modality, (names, vectors) in found.items():
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        has = {r.patient for r in inputs(tiny_cohort.records()) if r.modality is modality}
        assert set(names) <= has & set(tiny_run.split.test)
        assert len(names) == len(set(names)) == len(vectors)
    one = embed(tiny_run, tiny_cohort, patients=found[Modality.OMICS][0][:1])
    np.testing.assert_allclose(one[Modality.OMICS][1], found[Modality.OMICS][1][:1], atol=1e-5)


def test_answering_needs_no_gradients(tiny_finding_run: Run) -> None:
    adapted = open_adapted(tiny_finding_run)
    assert not any(p.requires_grad for p in adapted.model.parameters())
    assert not adapted.model.training
    assert not torch.is_inference_mode_enabled()
