"""One patient's files → one answer that says what it rests on, or a refusal."""

from __future__ import annotations

import base64
import csv
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from polyclinic.clinic import Desk
from polyclinic.clinic.reply import NOTICE, Edges, NotUsed, Used
from polyclinic.inference import predict_files
from polyclinic.records import RecordError
from polyclinic.training import Run

Rows = Callable[..., Path]


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def affine_of(path: Path) -> np.ndarray:
    image: Any = nibabel.load(path)  # type: ignore[attr-defined]
    return image.affine


def test_an_answer_says_what_was_read_and_which_model_read_it(
    finding_desk: Desk, xray: Path, tiny_finding_run: Run
) -> None:
    reply = finding_desk.answer([xray])
    assert reply.values == dict(predict_files(tiny_finding_run, [xray]).values)
    assert f"{reply.values['score']:.2f}" in reply.headline
    assert reply.used == ["image"]
    assert reply.read == [Used(file=xray.name, modality="image", kind="CR chest PA")]
    assert reply.not_used == []
    assert reply.notice == NOTICE
    assert reply.model.run == tiny_finding_run.path.name
    assert (reply.model.backbone, reply.model.split) == (
        tiny_finding_run.adapter["backbone"],
        tiny_finding_run.split.hash,
    )
    (view,) = reply.views
    assert (view.file, len(view.slices), view.start, view.of) == (xray.name, 1, 0, 1)
    shown = np.asarray(Image.open(BytesIO(base64.b64decode(view.slices[0].image or "")))).astype(float)
    source = pydicom.dcmread(xray).pixel_array.astype(float)
    assert shown.shape == source.shape
    assert np.corrcoef(shown.ravel(), source.ravel())[0, 1] > 0.99


def test_any_subset_of_one_patients_files_is_a_patient(
    finding_desk: Desk, xray: Path, note: Path, row_of: Rows
) -> None:
    table = row_of("CXR-0329")
    every = finding_desk.answer([table, note, xray])
    assert every.used == ["image", "text", "table"]
    assert {u.file for u in every.read} == {table.name, note.name, xray.name}
    assert every.whose == "Every file names the same patient."
    for some in ([xray], [note], [table], [xray, note], [note, table]):
        assert finding_desk.answer(some).values == finding_desk.answer(some[::-1]).values
    assert finding_desk.answer([note]).views == []


def test_a_file_that_is_not_read_changes_nothing_and_is_told(finding_desk: Desk, xray: Path, volume: Path) -> None:
    alone, with_volume = finding_desk.answer([xray]), finding_desk.answer([xray, volume])
    assert with_volume.values == alone.values
    assert with_volume.not_used == [NotUsed(file=volume.name, why="this model does not read volume")]
    assert [v.file for v in with_volume.views] == [xray.name]


def test_a_table_of_unknown_columns_is_not_said_to_be_read(
    finding_desk: Desk, xray: Path, row_of: Rows, tmp_path: Path
) -> None:
    unknown = written(tmp_path / "lab.csv", "patient_id,weather\nCXR-0329,12\n")
    alone = finding_desk.answer([xray])
    reply = finding_desk.answer([xray, unknown])
    assert reply.values == alone.values
    assert [n.file for n in reply.not_used] == ["lab.csv"]
    # The modality is used, and still that file is not.
    reply = finding_desk.answer([row_of("CXR-0329"), unknown])
    assert [u.file for u in reply.read] == ["studies.csv"]
    assert [n.file for n in reply.not_used] == ["lab.csv"]
    with pytest.raises(RecordError, match="knows nothing"):
        finding_desk.answer([unknown])


@pytest.mark.parametrize("others", ["note", "xray", "table", "rows"])
def test_files_of_two_patients_are_refused(
    finding_desk: Desk, small_hospital: Path, xray: Path, row_of: Rows, others: str
) -> None:
    other = {
        "note": small_hospital / "radiology/notes/CXR-0102_1.txt",
        "xray": next((small_hospital / "radiology/CXR-0102").iterdir()),
        "table": row_of("CXR-0102"),
        "rows": row_of("CXR-0329", "CXR-0102"),
    }[others]
    with pytest.raises(RecordError, match="one patient's files") as refused:
        finding_desk.answer([xray, other])
    assert "CXR-0" not in str(refused.value), "a refusal names no patient"


def test_what_a_note_says_in_its_head_counts_and_not_its_name(finding_desk: Desk, xray: Path, tmp_path: Path) -> None:
    borrowed = written(tmp_path / "CXR-0329_9.txt", "Patient: CXR-0102\n\nClear lungs.\n")
    with pytest.raises(RecordError, match="several patients"):
        finding_desk.answer([xray, borrowed])
    marked = tmp_path / "bom.txt"
    marked.write_bytes("\ufeffPatient: CXR-0102\n\nClear lungs.\n".encode())
    with pytest.raises(RecordError, match="several patients"):
        finding_desk.answer([xray, marked])
    silent = written(tmp_path / "somebody_1.txt", "Clear lungs.\n")
    reply = finding_desk.answer([xray, silent])
    assert reply.whose.endswith("somebody_1.txt does not say whose it is.")


def test_a_file_given_twice_counts_once(finding_desk: Desk, xray: Path, tmp_path: Path) -> None:
    again = Path(shutil.copy(xray, tmp_path / "again.dcm"))
    once, twice = finding_desk.answer([xray]), finding_desk.answer([xray, again])
    assert twice.values == once.values
    assert twice.not_used == [NotUsed(file="again.dcm", why=f"the same as {xray.name}")]
    assert len(twice.views) == 1


def test_files_are_called_as_the_sender_calls_them(finding_desk: Desk, xray: Path, broken: Path, volume: Path) -> None:
    reply = finding_desk.answer([xray, volume], ["Brust vom März.dcm", "Kopf.nii.gz"])
    assert reply.read[0].file == reply.views[0].file == "Brust vom März.dcm"
    assert reply.not_used[0].file == "Kopf.nii.gz"
    with pytest.raises(RecordError, match="kaputt: "):
        finding_desk.answer([broken], ["kaputt"])


def test_refusals_say_why(finding_desk: Desk, xray: Path, broken: Path, volume: Path, tmp_path: Path) -> None:
    for files, match in (
        ([], "no file"),
        ([tmp_path / "nowhere.dcm"], "no file nowhere.dcm"),
        ([broken], "cut short"),
        ([xray, broken], "cut short"),
        ([volume], "one of image, text, table"),
        ([written(tmp_path / "head.csv", "patient_id,age\n")], "nothing in head.csv"),
        ([written(tmp_path / "what.xyz", "?")], "unknown format"),
    ):
        with pytest.raises(RecordError, match=match):
            finding_desk.answer(files)


def test_a_mask_lies_on_its_file_and_its_size_is_that_of_what_is_shown(
    segmentation_desk: Desk, tiny_segmentation_run: Run, volume: Path
) -> None:
    reply = segmentation_desk.answer([volume])
    (view,) = reply.views
    assert view.edges == Edges(left="R", right="L", top="A", bottom="P")
    labels = [np.asarray(Image.open(BytesIO(base64.b64decode(s.mask)))) for s in view.slices if s.mask]
    affine = affine_of(volume)
    voxel_ml = abs(np.linalg.det(affine)) / 1000
    assert [s.name for s in reply.structures] == ["anterior", "posterior"]
    for structure in reply.structures:
        drawn = sum(int((plane == structure.number).sum()) for plane in labels)
        assert structure.size == pytest.approx(drawn * voxel_ml, abs=5e-4)
        assert structure.unit == "mL"
        assert drawn > 0
    # The mask as predicted, on the file's own grid (x y z of RAS), turned by hand: x and y face the other way in LPS.
    on_source = predict_files(tiny_segmentation_run, [volume]).overlay
    assert on_source is not None
    assert np.diag(affine).tolist() == [1, 1, 1, 1]
    places = [s.place - 1 for s in view.slices if s.mask]
    np.testing.assert_array_equal(np.stack(labels), on_source[places, ::-1, ::-1])
    assert reply.overlay is not None


def test_a_mask_is_drawn_on_one_volume_at_a_time(segmentation_desk: Desk, small_hospital: Path) -> None:
    two = sorted((small_hospital / "neurology/hippocampus/images").iterdir())[:2]
    with pytest.raises(RecordError, match="one at a time") as refused:
        segmentation_desk.answer(two)
    assert two[1].name in refused.value.found


def test_what_lies_outside_the_models_grid_is_told(segmentation_desk: Desk, volume: Path, tmp_path: Path) -> None:
    assert (
        segmentation_desk.answer([volume]).views[0].caution.startswith("The model read only the middle")
    )  # 32 48 32 mm
    small = nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(30, 40, 30)).astype(np.float32), np.eye(4))
    nibabel.save(small, tmp_path / "small.nii.gz")
    assert segmentation_desk.answer([tmp_path / "small.nii.gz"]).views[0].caution == ""


def test_voxels_that_are_no_numbers_are_refused(segmentation_desk: Desk, volume: Path, tmp_path: Path) -> None:
    image: Any = nibabel.load(volume)  # type: ignore[attr-defined]
    array = np.asarray(image.dataobj, np.float32)
    array[3, 3, 3] = np.nan
    nibabel.save(nibabel.Nifti1Image(array, image.affine), tmp_path / "holes.nii.gz")
    with pytest.raises(RecordError, match="not numbers"):
        segmentation_desk.answer([tmp_path / "holes.nii.gz"])


def test_a_series_of_slices_is_one_volume_with_one_name(segmentation_desk: Desk, tmp_path: Path) -> None:
    source = pydicom.dcmread(str(get_testdata_file("MR_small.dcm")))
    source.preamble = bytes(128)
    files = []
    for number in range(4):
        source.PatientID, source.SOPInstanceUID = "P1", f"1.2.3.{number}"
        source.ImagePositionPatient, source.ImageOrientationPatient = [0, 0, 2.0 * number], [1, 0, 0, 0, 1, 0]
        source.PixelSpacing = [1, 1]
        source.save_as(tmp_path / f"IM{number}")
        files.append(tmp_path / f"IM{number}")
    reply = segmentation_desk.answer(files)
    assert [u.file for u in reply.read] == ["IM0 (a series of 4 files)"]
    assert reply.views[0].of == 4
    assert reply.whose == ""


def test_without_evidence_nothing_is_claimed(finding_desk: Desk, xray: Path) -> None:
    reply = finding_desk.answer([xray])
    assert reply.evidence is None
    assert "Nothing is known" in reply.uncertainty
    assert "likely" not in reply.headline
    assert "It has not been examined" in finding_desk.described
    assert NOTICE in finding_desk.described


def test_evidence_is_that_of_what_was_read(examined_run: Path, xray: Path, note: Path, row_of: Rows) -> None:
    desk = Desk(examined_run)
    assert desk.measured is not None
    by_subset = {frozenset(s.modalities): s.figure for s in desk.measured.subsets}
    for files in ([xray], [note], [xray, note], [xray, note, row_of("CXR-0329")]):
        reply = desk.answer(files)
        assert reply.evidence is not None
        metric = reply.evidence.metric
        figure = by_subset[frozenset(reply.used)] if len(reply.used) < 3 else desk.measured.figures[0]
        assert (metric.n, metric.note) == (figure.n, figure.note)
        assert metric.value == pytest.approx(figure.value, nan_ok=True) or metric.value is None
        assert metric.modalities == reply.used
        assert f"{figure.n} patients the model never saw" in reply.uncertainty
        assert reply.evidence.alike is not None
        assert f"Of the {reply.evidence.alike.n} test patients" in reply.uncertainty
    assert desk.described == (examined_run / "card.md").read_text()


def test_evidence_of_other_weights_is_not_believed(examined_run: Path, xray: Path, tmp_path: Path) -> None:
    place = tmp_path / "run"
    shutil.copytree(examined_run.parents[1], place)
    run = place / examined_run.relative_to(examined_run.parents[1])
    assert Desk(run).measured is not None
    # Adapted again in the same folder, with other labels: the old evidence and card still lie beside it.
    weights = (run / "adapter.safetensors").read_bytes()
    (run / "adapter.safetensors").write_bytes(weights[:-4] + bytes(3) + b"\x3f")
    reply = Desk(run).answer([xray])
    assert reply.evidence is None
    assert "other weights" in reply.uncertainty
    assert "It has not been examined" in Desk(run).described
    (run / "adapter.safetensors").write_bytes(weights)
    assert Desk(run).measured is not None


@pytest.mark.parametrize("spoiled", ["", "{}", "[1]", '{"calibration": 3}'])
def test_evidence_that_cannot_be_read_is_none(examined_run: Path, tmp_path: Path, spoiled: str) -> None:
    place = tmp_path / "run"
    shutil.copytree(examined_run.parents[1], place)
    run = place / examined_run.relative_to(examined_run.parents[1])
    (run / "evidence/evidence.json").write_text(spoiled)
    desk = Desk(run)
    assert desk.measured is None
    assert "cannot be read" in desk.why_none


def test_a_table_of_many_rows_of_one_patient_is_one_file(finding_desk: Desk, row_of: Rows, tmp_path: Path) -> None:
    with row_of("CXR-0329").open(newline="") as file:
        head, row = list(csv.reader(file))
    with (tmp_path / "many.csv").open("w", newline="") as file:
        csv.writer(file).writerows([head, *([row] * 30)])
    reply = finding_desk.answer([tmp_path / "many.csv"])
    assert reply.read == [Used(file="many.csv", modality="table", kind="table many")]
