from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ImplicitVRLittleEndian

from polyclinic import records
from polyclinic.harmonise import Fingerprint, VolumeStandard, harmonise
from polyclinic.schema import Modality
from reading import load_taken, reasons, taken

FILE = lambda name: Path(str(get_testdata_file(name, download=False)))


def changed(path: Path, name: str, change: Callable[[Any], object]) -> Path:
    dataset = pydicom.dcmread(FILE(name))
    change(dataset)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("name", ["rtdose.dcm", "rtdose_expb.dcm", "rtdose_rle.dcm"])
def test_a_dose_is_a_volume_in_its_unit(name: str) -> None:
    (record,) = taken(FILE(name))
    dataset = pydicom.dcmread(FILE(name))
    assert (record.modality, record.kind) == (Modality.VOLUME, "RTDOSE physical beam")
    assert record.attributes["unit"] == "relative"
    assert (record.attributes["slices"], record.attributes["spacing_z_mm"]) == (15, 5)
    payload = records.load(record, FILE(name).parent)
    assert payload.array.shape == (1, 15, 10, 10)
    assert np.allclose(payload.array[0], dataset.pixel_array * float(dataset.DoseGridScaling), rtol=1e-6)
    assert payload.to_world is not None
    # PS3.3 C.8.8.3.2: the last frame's offset is 70 mm along z from the position of the first.
    assert (payload.to_world @ [9, 9, 14, 1])[:3] == pytest.approx([189.43125 + 90, 199.43125 + 90, -761.87 + 70])
    assert harmonise(payload, record, VolumeStandard(size=(16, 16, 16)), Fingerprint()).array.shape == (1, 16, 16, 16)


def test_a_dose_of_one_plane_is_an_image() -> None:
    (record,) = taken(FILE("rtdose_1frame.dcm"))
    assert record.modality is Modality.IMAGE
    assert records.load(record, FILE("rtdose_1frame.dcm").parent).array.shape == (1, 10, 10)


def turned(dataset: Any, cosines: list[float], offsets: list[float]) -> None:
    dataset.ImageOrientationPatient, dataset.GridFrameOffsetVector, dataset.DoseUnits = cosines, offsets, "GY"


@pytest.mark.parametrize(
    ("cosines", "offsets", "last"),
    [
        ([1, 0, 0, 0, 1, 0], [5 * i for i in range(15)], [0, 0, 70]),  # from the first frame
        ([1, 0, 0, 0, 1, 0], [-761.87 + 5 * i for i in range(15)], [0, 0, 70]),  # the coordinates themselves
        ([1, 0, 0, 0, 1, 0], [-5 * i for i in range(15)], [0, 0, -70]),
        ([1, 0, 0, 0, -1, 0], [-761.87 + 5 * i for i in range(15)], [0, 0, 70]),  # prone: the normal points to the feet
        ([1, 0, 0, 0, -1, 0], [5 * i for i in range(15)], [0, 0, -70]),
        ([0, 1, 0, 0, 0, -1], [5 * i for i in range(15)], [-70, 0, 0]),
    ],
)
def test_both_kinds_of_offsets(tmp_path: Path, cosines: list[float], offsets: list[float], last: list[float]) -> None:
    payload = load_taken(changed(tmp_path / "a.dcm", "rtdose.dcm", lambda d: turned(d, cosines, offsets)))
    (record,) = taken(tmp_path / "a.dcm")
    assert record.attributes["unit"] == "Gy"
    assert payload.to_world is not None
    first = np.array([189.43125, 199.43125, -761.87])
    assert (payload.to_world @ [0, 0, 14, 1])[:3] == pytest.approx(first + last)
    assert (payload.to_world @ [0, 0, 0, 1])[:3] == pytest.approx(first)


def uneven(dataset: Any) -> None:
    dataset.GridFrameOffsetVector = [*(5 * i for i in range(14)), 80]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (uneven, "a dose with frames at uneven distances"),
        (lambda d: turned(d, [1, 0, 0, 0, 1, 0], [3 + 5 * i for i in range(15)]), "a dose whose offsets begin neither"),
        (
            lambda d: turned(d, [0, 1, 0, 0, 0, -1], [-761.87 + 5 * i for i in range(15)]),
            "a dose whose offsets begin neither",
        ),
        (lambda d: turned(d, [1, 0, 0, 0, 1, 0], [0, 5]), "a dose of 15 frames with 2 offsets"),
        (lambda d: delattr(d, "DoseGridScaling"), "a dose without a scale"),
        (lambda d: delattr(d, "ImagePositionPatient"), "a dose without spacing, position or orientation"),
        (lambda d: setattr(d, "PixelData", d.PixelData[:3000]), "pixel data that was cut short"),
        (lambda d: setattr(d, "NumberOfFrames", 2**30), "a header that promises"),
    ],
)
def test_a_dose_that_is_none_is_refused(tmp_path: Path, change: Callable[[Any], object], reason: str) -> None:
    (found,) = reasons(changed(tmp_path / "a.dcm", "rtdose.dcm", change))
    assert found.startswith(reason)


def test_a_plan_is_a_row_for_the_whole_and_one_a_beam() -> None:
    plan, beam = taken(FILE("rtplan.dcm"))
    assert [r.modality for r in (plan, beam)] == [Modality.TABLE] * 2
    assert [r.kind for r in (plan, beam)] == ["RTPLAN plan", "RTPLAN beam"]
    assert plan.patient == "id00001"
    # As rtplan.dump, which lies beside it, has them.
    assert plan.attributes == {
        "fractions": 30, "beams": 1, "brachytherapy setups": 0, "target dose (Gy)": pytest.approx(30.826203),
        "meterset a fraction": pytest.approx(116.0036697), "position": "HFS",
    }  # fmt: skip
    assert beam.attributes == {
        "type": "static", "radiation": "photon", "delivery": "treatment", "control points": 2, "meterset": pytest.approx(116.0036697),
        "meterset unit": "MU", "gantry (deg)": 0, "collimator (deg)": 0, "couch (deg)": 0, "energy (MV or MeV)": 6,
    }  # fmt: skip
    payload = records.load(beam, FILE("rtplan.dcm").parent)
    assert dict(zip(payload.names, payload.array[:, 0], strict=True))["meterset"] == pytest.approx(116.0036697)


def test_an_arc_says_from_where_to_where(tmp_path: Path) -> None:
    def arc(dataset: Any) -> None:
        first, last = dataset.BeamSequence[0].ControlPointSequence
        first.GantryAngle, last.GantryAngle = 179, 181
        other = Dataset()
        other.update(dataset.BeamSequence[0])
        other.BeamNumber = 2
        dataset.BeamSequence = Items([dataset.BeamSequence[0], other])

    _, beam, other = taken(changed(tmp_path / "a.dcm", "rtplan.dcm", arc))
    assert (beam.attributes["gantry (deg)"], beam.attributes["gantry to (deg)"]) == (179, 181)
    assert "couch to (deg)" not in beam.attributes
    assert "meterset" not in other.attributes  # not told is not nought


def test_a_plan_that_was_cut_short_or_is_empty_is_refused(tmp_path: Path) -> None:
    assert not taken(FILE("rtplan_truncated.dcm"))
    assert reasons(FILE("rtplan_truncated.dcm"))

    def emptied(dataset: Any) -> None:
        del dataset.BeamSequence, dataset.FractionGroupSequence

    assert reasons(changed(tmp_path / "a.dcm", "rtplan.dcm", emptied)) == ["a plan without beams or fractions"]
    assert pydicom.dcmread(tmp_path / "a.dcm").file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
