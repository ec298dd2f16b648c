"""Nuclear medicine of several frames, written as PS3.3 C.8.4 has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from scipy.spatial.transform import Rotation

from polyclinic import records
from polyclinic.schema import Modality
from reading import load_taken, parted, reasons, taken

SHAPE = (5, 6)
NM = "1.2.840.10008.5.1.4.1.1.20"
TAGS = {
    "EnergyWindowVector": 0x00540010, "DetectorVector": 0x00540020, "PhaseVector": 0x00540030, "RRIntervalVector": 0x00540060,
    "TimeSlotVector": 0x00540070, "SliceVector": 0x00540080, "TimeSliceVector": 0x00540100, "RotationVector": 0x00540050,
    "AngularViewVector": 0x00540090,
}  # fmt: skip


def item(**elements: Any) -> Dataset:
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


@pytest.fixture
def write(write_slice: Any) -> Any:
    """Writes one object; frame i has the value i everywhere unless pixels are given."""

    def written(path: Path, kind: str, frames: int, pixels: np.ndarray | None = None, **more: Any) -> None:
        values = np.arange(frames)[:, None, None] * np.ones(SHAPE) if pixels is None else pixels
        about = {
            "SOPClassUID": NM, "Modality": "NM", "ImageType": ["ORIGINAL", "PRIMARY", kind, "EMISSION"], "NumberOfFrames": frames,
            "PixelData": np.ascontiguousarray(values, np.uint16).tobytes(), "RescaleSlope": None, "RescaleIntercept": None,
            "ImagePositionPatient": None, "ImageOrientationPatient": None, "PixelSpacing": [4.0, 3.0],
            "FrameIncrementPointer": [TAGS[k] for k in more if k in TAGS],
        }  # fmt: skip
        dataset = write_slice(path, values[0], **(about | more))
        for keyword in ("RescaleSlope", "RescaleIntercept", "ImagePositionPatient", "ImageOrientationPatient"):
            if dataset.get(keyword) is None:
                delattr(dataset, keyword)
        dataset.file_meta.MediaStorageSOPClassUID = NM
        dataset.save_as(path, enforce_file_format=True)

    return written


def lying(cosines: np.ndarray, position: list[float]) -> Items:
    turn = [float(v) for v in cosines[:2].reshape(-1).round(10)]
    return Items([item(ImageOrientationPatient=turn, ImagePositionPatient=position)])


@pytest.mark.parametrize("angles", [(0, 0, 0), (10, 70, -40)])
@pytest.mark.parametrize("between", [4.8, -4.8])
def test_a_reconstruction_lies_where_the_standard_puts_it(
    tmp_path: Path, write: Any, angles: tuple[float, float, float], between: float
) -> None:
    """C.8.4.15: along the normal to the first slice, and against it where the spacing is negative."""
    pixels = np.random.default_rng(0).integers(0, 999, (7, *SHAPE))
    cosines, corner = Rotation.from_euler("xyz", angles, degrees=True).as_matrix(), [-10.0, 20.0, 30.0]
    write(
        tmp_path / "a.dcm", "RECON TOMO", 7, pixels, SliceVector=list(range(1, 8)), SpacingBetweenSlices=between,
        DetectorInformationSequence=lying(cosines, corner),
    )  # fmt: skip
    (record,) = taken(tmp_path / "a.dcm")
    assert (record.modality, record.attributes["slices"]) == (Modality.VOLUME, 7)
    assert record.attributes["spacing_z_mm"] == pytest.approx(4.8)
    assert record.attributes["acquisition"] == "recon tomo"
    payload = records.load(record, tmp_path)
    assert payload.to_world is not None
    back = np.linalg.inv(payload.to_world)
    for frame in range(7):
        for row, column in ((0, 0), (2, 3), (4, 5)):
            at = corner + frame * between * cosines[2] + column * 3.0 * cosines[0] + row * 4.0 * cosines[1]
            x, y, z = np.rint((back @ [*at, 1.0])[:3]).astype(int)
            assert np.allclose(payload.to_world @ [x, y, z, 1.0], [*at, 1.0], atol=1e-4)
            assert payload.array[0, z, y, x] == pixels[frame, row, column]


def test_a_reconstruction_lies_where_itk_puts_it(tmp_path: Path, write: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 999, (7, *SHAPE))
    write(
        tmp_path / "a.dcm", "RECON TOMO", 7, pixels, SliceVector=list(range(1, 8)), SpacingBetweenSlices=4.8,
        DetectorInformationSequence=lying(np.eye(3), [-10.0, 20.0, 30.0]), SliceThickness=4.8, NumberOfSlices=7,
    )  # fmt: skip
    payload, image = load_taken(tmp_path / "a.dcm"), SimpleITK.ReadImage(str(tmp_path / "a.dcm"))
    assert np.array_equal(payload.array[0], SimpleITK.GetArrayFromImage(image).astype(np.float32))
    assert payload.to_world is not None
    for index in ((0, 0, 0), (5, 0, 0), (0, 4, 0), (2, 3, 6)):
        assert np.allclose(payload.to_world[:3] @ [*index, 1.0], image.TransformIndexToPhysicalPoint(index), atol=1e-4)


def test_each_slot_of_a_gated_reconstruction_is_a_volume_in_its_units(tmp_path: Path, write: Any) -> None:
    slots, slices = [1, 1, 1, 2, 2, 2], [3, 1, 2, 1, 2, 3]
    write(
        tmp_path / "a.dcm", "RECON GATED TOMO", 6, RRIntervalVector=[1] * 6, TimeSlotVector=slots, SliceVector=slices,
        SpacingBetweenSlices=5, DetectorInformationSequence=lying(np.eye(3), [0, 0, 0]), RescaleSlope=2, RescaleIntercept=1,
        PhotometricInterpretation="MONOCHROME1",
    )  # fmt: skip
    found = taken(tmp_path / "a.dcm")
    assert [r.attributes["time_slot"] for r in found] == [1, 2]
    assert [r.uri for r in found] == ["a.dcm#stack=1", "a.dcm#stack=2"]
    assert "rr_interval" not in found[0].attributes
    loaded = [records.load(r, tmp_path).array[0, :, 0, 0].tolist() for r in found]
    assert loaded == [
        [2 * 1 + 1, 2 * 2 + 1, 1],
        [2 * 3 + 1, 2 * 4 + 1, 2 * 5 + 1],
    ]  # by slice, and frame i has the value i


def test_a_reconstruction_with_missing_slices_is_its_unbroken_runs(tmp_path: Path, write: Any) -> None:
    write(
        tmp_path / "a.dcm", "RECON TOMO", 7, SliceVector=[1, 2, 3, 5, 6, 7, 8], SpacingBetweenSlices=5,
        DetectorInformationSequence=lying(np.eye(3), [0, 0, 0]),
    )  # fmt: skip
    found, said = parted(tmp_path / "a.dcm")
    assert said == ["a series with missing slices: 1 between frame 3 and frame 4"]
    assert [r.uri for r in found] == ["a.dcm#run=1", "a.dcm#run=2"]
    assert [records.load(r, tmp_path).array[0, :, 0, 0].tolist() for r in found] == [[0, 1, 2], [3, 4, 5, 6]]


@pytest.mark.parametrize("kind", ["STATIC", "WHOLE BODY"])
def test_planar_frames_are_images_of_their_window_and_detector(tmp_path: Path, write: Any, kind: str) -> None:
    write(tmp_path / "a.dcm", kind, 4, EnergyWindowVector=[1, 1, 2, 2], DetectorVector=[1, 2, 1, 2])
    found = taken(tmp_path / "a.dcm")
    assert [r.modality for r in found] == [Modality.IMAGE] * 4
    assert [(r.attributes["energy_window"], r.attributes["detector"]) for r in found] == [
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
    ]
    assert [r.uri for r in found] == [f"a.dcm#frame={i}" for i in (1, 2, 3, 4)]
    assert len({r.id for r in found}) == 4
    for number, record in enumerate(found):
        payload = records.load(record, tmp_path)
        assert payload.array.shape == (1, *SHAPE)
        assert (payload.array == number).all()
        assert np.array_equal(payload.to_world, np.diag([3.0, 4.0, 1, 1]))  # type: ignore[arg-type]


def test_a_dynamic_acquisition_is_a_video_a_detector_with_its_phases_times(tmp_path: Path, write: Any) -> None:
    """Two frames of a second with a pause of half one, then, after 2 s, three of ten seconds; frames in no order."""
    phases = [
        item(PhaseDelay=0, ActualFrameDuration=1000, PauseBetweenFrames=500, NumberOfFramesInPhase=2),
        item(PhaseDelay=2000, ActualFrameDuration=10000, PauseBetweenFrames=0, NumberOfFramesInPhase=3),
    ]
    write(
        tmp_path / "a.dcm", "DYNAMIC", 10, EnergyWindowVector=[1] * 10, DetectorVector=[1, 2] * 5,
        PhaseVector=[2, 2, 1, 1, 1, 1, 2, 2, 2, 2], TimeSliceVector=[3, 3, 1, 1, 2, 2, 1, 1, 2, 2],
        PhaseInformationSequence=Items(phases),
    )  # fmt: skip
    found = taken(tmp_path / "a.dcm")
    assert [(r.modality, r.attributes["detector"], r.attributes["frames"]) for r in found] == [
        (Modality.VIDEO, 1, 5), (Modality.VIDEO, 2, 5)
    ]  # fmt: skip
    assert found[0].attributes["variable_rate"] is True
    for record, order in zip(found, ([2, 4, 6, 8, 0], [3, 5, 7, 9, 1]), strict=True):
        payload = records.load(record, tmp_path)
        assert payload.array[:, 0, 0, 0].tolist() == order
        assert payload.places is not None
        assert payload.places[:, 3].tolist() == [0, 1.5, 4.5, 14.5, 24.5]


def test_time_slices_may_be_numbered_through(tmp_path: Path, write: Any) -> None:
    phases = [
        item(ActualFrameDuration=500, NumberOfFramesInPhase=2),
        item(ActualFrameDuration=2000, NumberOfFramesInPhase=2),
    ]
    write(
        tmp_path / "a.dcm", "DYNAMIC", 4, PhaseVector=[1, 1, 2, 2], TimeSliceVector=[1, 2, 3, 4],
        PhaseInformationSequence=Items(phases),
    )  # fmt: skip
    (record,) = taken(tmp_path / "a.dcm")
    assert record.uri == "a.dcm"
    places = records.load(record, tmp_path).places
    assert places is not None
    assert places[:, 3].tolist() == [0, 0.5, 1.0, 3.0]


def test_a_gated_acquisition_is_a_video_of_one_beat(tmp_path: Path, write: Any) -> None:
    gate = item(DataInformationSequence=Items([item(FrameTime=50.0), item(FrameTime=40.0)]))
    write(
        tmp_path / "a.dcm", "GATED", 6, RRIntervalVector=[1, 1, 1, 2, 2, 2], TimeSlotVector=[2, 1, 3, 1, 2, 3],
        GatedInformationSequence=Items([gate]),
    )  # fmt: skip
    found = taken(tmp_path / "a.dcm")
    assert [(r.attributes["rr_interval"], r.attributes["rate_hz"]) for r in found] == [(1, 20.0), (2, 25.0)]
    payload = records.load(found[0], tmp_path)
    assert payload.array[:, 0, 0, 0].tolist() == [1, 0, 2]
    assert payload.places is not None
    assert payload.places[:, 3] == pytest.approx([0, 0.05, 0.1])


@pytest.mark.parametrize(
    ("kind", "more", "reason"),
    [
        ("TOMO", {"AngularViewVector": [1, 2, 3]}, "3 projections of a tomography"),
        ("GATED TOMO", {}, "3 projections of a tomography"),
        ("", {}, "nuclear medicine of type unknown"),
        ("RECON TOMO", {"SliceVector": [1, 2, 3]}, "a reconstruction that does not say where its slices lie"),
        ("RECON TOMO", {"SpacingBetweenSlices": 5}, "a reconstruction that does not say where its slices lie"),
        ("DYNAMIC", {"PhaseVector": [1, 1, 1]}, "a dynamic acquisition that does not say when its frames were taken"),
        ("GATED", {"TimeSlotVector": [1, 2, 3]}, "a gated acquisition that does not say when its frames were taken"),
        ("STATIC", {"DetectorVector": [1, 2]}, "3 frames whose DetectorVector has not as many numbers"),
        ("DYNAMIC", {"ActualFrameDuration": 5, "TimeSliceVector": [1, 1, 2]}, "several frames at one time"),
        ("STATIC", {"PixelData": b"\0" * 100}, "pixel data that was cut short"),
        ("DYNAMIC", {"ActualFrameDuration": 5, "PixelData": b"\0" * 100}, "pixel data that was cut short"),
        ("STATIC", {"NumberOfFrames": 2**31 - 1}, "a header that promises"),
        ("STATIC", {"NumberOfFrames": 2**28, "Rows": 1, "Columns": 1}, "pixel data that was cut short"),
    ],
)
def test_what_cannot_be_told_is_set_aside(
    tmp_path: Path, write: Any, kind: str, more: dict[str, Any], reason: str
) -> None:
    write(tmp_path / "a.dcm", kind, 3, **more)
    (found,) = reasons(tmp_path / "a.dcm")
    assert found.startswith(reason)
    assert not taken(tmp_path / "a.dcm")
