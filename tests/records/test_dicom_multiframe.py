from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage, generate_uid
from scipy.spatial.transform import Rotation

from polyclinic import records
from polyclinic.cohort.ingest import ingest
from polyclinic.schema import Modality, Payload, Record
from reading import load_taken, reasons, taken

Frame = dict[str, Any]
SHAPE = (5, 6)


def group(**sequences: dict[str, Any]) -> Dataset:
    """Functional groups: the name of a sequence → its item's elements."""
    item = Dataset()
    for name, elements in sequences.items():
        inner = Dataset()
        for keyword, value in elements.items():
            setattr(inner, keyword, value)
        setattr(item, name, Items([inner]))
    return item


def frame_at(
    z: float, more: Dataset | None = None, *, cosines: np.ndarray | None = None, **groups: dict[str, Any]
) -> Dataset:
    """A frame `z` mm along the normal."""
    cosines = np.eye(3)[:2] if cosines is None else cosines
    position = [float(v) for v in z * np.cross(*cosines)]
    item = group(
        PlanePositionSequence={"ImagePositionPatient": position},
        PlaneOrientationSequence={"ImageOrientationPatient": [float(v) for v in cosines.reshape(-1)]},
        **groups,
    )
    item.update(more or {})
    return item


@pytest.fixture
def write_enhanced(write_slice: Callable[..., FileDataset]) -> Callable[..., None]:
    """Writes one enhanced object of the frames given; frame i has the value i everywhere unless pixels are given."""

    def write(path: Path, frames: Sequence[Dataset], pixels: np.ndarray | None = None, **attributes: object) -> None:
        values = np.arange(len(frames))[:, None, None] * np.ones(SHAPE) if pixels is None else pixels
        dataset = write_slice(path, values[0])
        for keyword in (
            "PixelSpacing",
            "ImageOrientationPatient",
            "ImagePositionPatient",
            "RescaleSlope",
            "RescaleIntercept",
        ):
            delattr(dataset, keyword)
        modality = str(attributes.get("Modality", "CT"))
        dataset.SOPClassUID = EnhancedMRImageStorage if modality == "MR" else EnhancedCTImageStorage
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.NumberOfFrames = len(frames)
        dataset.SharedFunctionalGroupsSequence = Items([group(PixelMeasuresSequence={"PixelSpacing": [0.8, 0.6]})])
        dataset.PerFrameFunctionalGroupsSequence = Items(frames)
        dataset.PixelData = np.ascontiguousarray(values, dtype=np.uint16).tobytes()
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path, enforce_file_format=True)

    return write


def world(payload: Payload) -> np.ndarray:
    assert payload.to_world is not None
    return payload.to_world


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_what_highdicom_makes_of_a_series_is_the_series(
    tmp_path: Path, write_series: Callable[..., list[FileDataset]], modality: str
) -> None:
    from highdicom.legacy import LegacyConvertedEnhancedCTImage, LegacyConvertedEnhancedMRImage

    (tmp_path / "series").mkdir()
    slices = write_series(tmp_path / "series", SHAPE, modality)
    make = LegacyConvertedEnhancedMRImage if modality == "MR" else LegacyConvertedEnhancedCTImage
    whole = make(
        slices, series_instance_uid="1.77", series_number=2, sop_instance_uid=generate_uid(), instance_number=1
    )
    whole.save_as(tmp_path / "whole.dcm")
    (alone,) = [item for _, item in records.read_patient(sorted((tmp_path / "series").iterdir()))]
    assert isinstance(alone, Record)
    expected, payload = records.load(alone, tmp_path / "series"), load_taken(tmp_path / "whole.dcm")
    assert np.array_equal(payload.array, expected.array)
    assert np.allclose(world(payload), world(expected), atol=1e-4)


def test_frames_in_any_order_lie_where_sitk_puts_those_in_order(tmp_path: Path, write_enhanced: Any) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 999, (6, *SHAPE))
    cosines = Rotation.from_euler("xyz", [10, 70, -40], degrees=True).as_matrix()[:2]
    frames = [frame_at(-4.0 + 1.5 * i, cosines=cosines) for i in range(6)]
    write_enhanced(tmp_path / "a.dcm", frames, pixels)
    order = random.permutation(6).tolist()
    write_enhanced(tmp_path / "b.dcm", [frames[i] for i in order], pixels[order])
    image = SimpleITK.ReadImage(str(tmp_path / "a.dcm"))
    for name in ("a.dcm", "b.dcm"):
        payload = load_taken(tmp_path / name)
        assert np.array_equal(payload.array[0], SimpleITK.GetArrayFromImage(image).astype(np.float32))
        for index in ([0, 0, 0], [5, 0, 0], [0, 4, 0], [2, 3, 5]):
            expected = image.TransformContinuousIndexToPhysicalPoint([float(v) for v in index])
            assert np.allclose(world(payload)[:3] @ [*index, 1.0], expected, atol=1e-3)
    (record,) = taken(tmp_path / "b.dcm")
    assert record.modality is Modality.VOLUME
    assert [record.attributes[k] for k in ("slices", "spacing_x_mm", "spacing_y_mm")] == [6, 0.6, 0.8]
    assert record.attributes["spacing_z_mm"] == pytest.approx(1.5)


def test_each_frame_has_its_own_rescale(tmp_path: Path, write_enhanced: Any) -> None:
    said = [{"RescaleSlope": 1 + i, "RescaleIntercept": -10 * i} for i in range(3)]
    write_enhanced(tmp_path / "a.dcm", [frame_at(i, PixelValueTransformationSequence=said[i]) for i in range(3)])
    assert load_taken(tmp_path / "a.dcm").array[0, :, 0, 0].tolist() == [0, 1 * 2 - 10, 2 * 3 - 20]


@pytest.mark.parametrize("modality", ["CT", "US"])
def test_a_stack_has_the_windows_of_its_middle_frame(tmp_path: Path, write_enhanced: Any, modality: str) -> None:
    said = [{"WindowCenter": [40, -600 + i], "WindowWidth": [400, 1500]} for i in range(3)]
    write_enhanced(tmp_path / "a.dcm", [frame_at(i, FrameVOILUTSequence=said[i]) for i in range(3)], Modality=modality)
    (record,) = taken(tmp_path / "a.dcm")
    found = [str(record.attributes.get(f"window_{k}")) for k in ("center", "width")]
    if modality == "US":  # whose values are in no unit
        assert found == ["None", "None"]
    else:
        assert [[float(v) for v in f.split("\\")] for f in found] == [[40, -599], [400, 1500]]


@pytest.mark.parametrize(
    ("sequence", "keyword", "name"),
    [
        ("MRDiffusionSequence", "DiffusionBValue", "b_value"),
        ("MREchoSequence", "EffectiveEchoTime", "echo_time_ms"),
        ("FrameContentSequence", "TemporalPositionIndex", "temporal_position"),
        ("FrameContentSequence", "StackID", "stack"),
        ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", "cardiac_delay_ms"),
    ],
)
def test_several_images_at_each_place_are_a_record_each(
    tmp_path: Path, write_enhanced: Any, sequence: str, keyword: str, name: str
) -> None:
    kinds = ["1", "2"] if keyword == "StackID" else [7, 30]
    said = lambda kind: group(**{sequence: {keyword: kind}})
    frames = [frame_at(z, said(kind)) for z in (2, 0, 1) for kind in kinds]
    write_enhanced(tmp_path / "a.dcm", frames, Modality="MR")
    found = taken(tmp_path / "a.dcm")
    assert [r.attributes[name] for r in found] == kinds
    assert [r.uri for r in found] == ["a.dcm#stack=1", "a.dcm#stack=2"]
    assert len({r.id for r in found}) == 2
    loaded = [records.load(r, tmp_path).array[0, :, 0, 0].tolist() for r in found]
    assert loaded == [[2, 4, 0], [3, 5, 1]]  # by z, and frame i has the value i


def test_what_differs_from_slice_to_slice_tells_no_stacks_apart(tmp_path: Path, write_enhanced: Any) -> None:
    late = [{"NominalCardiacTriggerDelayTime": 10.0 * i} for i in range(4)]
    write_enhanced(tmp_path / "a.dcm", [frame_at(i, CardiacSynchronizationSequence=late[i]) for i in range(4)])
    assert [r.attributes["slices"] for r in taken(tmp_path / "a.dcm")] == [4]


def test_a_localiser_is_an_image_a_plane(tmp_path: Path, write_enhanced: Any) -> None:
    turns = [np.eye(3)[[0, 1]], np.eye(3)[[1, 2]], np.eye(3)[[0, 2]]]
    frames = [frame_at(1, cosines=t, FrameContentSequence={"StackID": str(i)}) for i, t in enumerate(turns)]
    write_enhanced(tmp_path / "a.dcm", frames, Modality="MR")
    found = taken(tmp_path / "a.dcm")
    assert [r.modality for r in found] == [Modality.IMAGE] * 3
    for number, (record, turn) in enumerate(zip(found, turns, strict=True)):
        payload = records.load(record, tmp_path)
        assert payload.array.shape == (1, *SHAPE)
        assert (payload.array == number).all()
        assert np.allclose(world(payload)[:3, 0], turn[0] * 0.6)


@pytest.mark.parametrize(
    ("places", "reason"),
    [
        ([0, 1, 2, 4, 5], "a series with missing slices: 1 between frame 3 and frame 4"),
        ([0, 0, 1, 1, 2, 2], "a series with 2 images at each place"),
        ([0, 1, 1.6, 3, 4.2, 5], "slices up to"),
    ],
)
def test_a_stack_that_is_none_is_refused(tmp_path: Path, write_enhanced: Any, places: list[float], reason: str) -> None:
    write_enhanced(tmp_path / "a.dcm", [frame_at(z) for z in places])
    assert not taken(tmp_path / "a.dcm")
    (found,) = reasons(tmp_path / "a.dcm")
    assert found.startswith(reason)


def test_where_frames_are_missing_each_unbroken_run_is_a_volume(tmp_path: Path, write_enhanced: Any) -> None:
    """As of a series of single slices, one stack apart from another."""
    echo = lambda te, zs: [frame_at(z, MREchoSequence={"EffectiveEchoTime": te}) for z in zs]
    frames = echo(5, (9, 0, 1, 2, 6, 7, 8)) + echo(7, (0, 1, 2))
    write_enhanced(tmp_path / "a.dcm", frames, Modality="MR")
    (reason,) = reasons(tmp_path / "a.dcm")
    assert reason == "stack 1 of 2: a series with missing slices: 3 between frame 4 and frame 5"
    found = taken(tmp_path / "a.dcm")
    assert [r.uri for r in found] == ["a.dcm#stack=1&run=1", "a.dcm#stack=1&run=2", "a.dcm#stack=2"]
    assert [(r.attributes["slices"], r.attributes.get("run"), r.attributes.get("runs")) for r in found] == [
        (3, 1, 2), (4, 2, 2), (3, None, None),
    ]  # fmt: skip
    assert len({r.id for r in found}) == 3
    for record, values, z in zip(found, ([1, 2, 3], [4, 5, 6, 0], [7, 8, 9]), (0, 6, 0), strict=True):
        payload = records.load(record, tmp_path)
        assert payload.array[0, :, 0, 0].tolist() == values
        assert world(payload)[2, 3] == z


def test_a_frame_alone_between_missing_ones_is_set_aside_by_number(tmp_path: Path, write_enhanced: Any) -> None:
    write_enhanced(tmp_path / "a.dcm", [frame_at(z) for z in (0, 2, 3, 4, 5, 6)])
    assert reasons(tmp_path / "a.dcm") == [
        "frame 1: a slice alone between missing ones",
        "a series with missing slices: 1 between frame 1 and frame 2",
    ]
    (record,) = taken(tmp_path / "a.dcm")
    assert (record.uri, record.attributes["slices"]) == ("a.dcm", 5)
    assert records.load(record, tmp_path).array[0, :, 0, 0].tolist() == [1, 2, 3, 4, 5]


def test_a_tilted_gantry_shears_the_grid(tmp_path: Path, write_enhanced: Any) -> None:
    frames = [frame_at(i) for i in range(4)]
    for i, item in enumerate(frames):
        item.PlanePositionSequence[0].ImagePositionPatient = [0, 0.3 * i, i]
    write_enhanced(tmp_path / "a.dcm", frames)
    (record,) = taken(tmp_path / "a.dcm")
    assert record.attributes["tilt_deg"] == pytest.approx(np.rad2deg(np.arctan(0.3)))
    assert np.allclose(world(load_taken(tmp_path / "a.dcm"))[:3, 2], [0, 0.3, 1])


def test_frames_unlike_most_are_set_aside_by_number(tmp_path: Path, write_enhanced: Any) -> None:
    frames = [frame_at(i) for i in (0, 1, 2, 3)]
    frames.insert(2, frame_at(9, cosines=np.eye(3)[[1, 2]]))
    frames.append(frame_at(3))
    write_enhanced(tmp_path / "a.dcm", frames)
    assert load_taken(tmp_path / "a.dcm").array[0, :, 0, 0].tolist() == [0, 1, 3, 4]
    assert reasons(tmp_path / "a.dcm") == [
        "frame 3: a slice of another size, spacing or orientation than most of its series",
        "frame 6: a slice at the place of another",
    ]


def test_a_broken_stack_does_not_take_the_others_with_it(tmp_path: Path, write_enhanced: Any) -> None:
    frames = [
        frame_at(z, MREchoSequence={"EffectiveEchoTime": te})
        for te, zs in ((5, (0, 1, 2)), (9, (0, 1, 2, 5)))
        for z in zs
    ]
    write_enhanced(tmp_path / "a.dcm", frames, Modality="MR")
    assert [r.attributes["echo_time_ms"] for r in taken(tmp_path / "a.dcm")] == [5]
    (reason,) = reasons(tmp_path / "a.dcm")
    assert reason.startswith("stack 2 of 2: a series with missing slices: 2 between frame ")


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"NumberOfFrames": 4}, "4 frames with functional groups for 3"),
        ({"NumberOfFrames": 2**31 - 1}, "a header that promises"),
        ({"PixelData": b"\0" * 100}, "pixel data that was cut short: 100 of 180 bytes"),
        ({"Rows": 60000, "Columns": 4000}, "a header that promises"),
        ({"Rows": 0}, "a DICOM object without pixels"),
    ],
)
def test_a_header_that_promises_what_is_not_there_is_refused(
    tmp_path: Path, write_enhanced: Any, attributes: dict[str, object], reason: str
) -> None:
    write_enhanced(tmp_path / "a.dcm", [frame_at(i) for i in range(3)], **attributes)
    (found,) = reasons(tmp_path / "a.dcm")
    assert found.startswith(reason)


def test_more_frames_than_there_are_bytes_are_refused_before_they_are_counted(
    tmp_path: Path, write_enhanced: Any
) -> None:
    shared = group(
        PixelMeasuresSequence={"PixelSpacing": [1, 1]}, PlanePositionSequence={"ImagePositionPatient": [0, 0, 0]},
        PlaneOrientationSequence={"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
    )  # fmt: skip
    about = {"NumberOfFrames": 2**24, "Rows": 1, "Columns": 1, "SharedFunctionalGroupsSequence": Items([shared])}
    write_enhanced(tmp_path / "a.dcm", [frame_at(0)], PerFrameFunctionalGroupsSequence=None, **about)
    tracemalloc.start()
    (found,) = reasons(tmp_path / "a.dcm")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.startswith("pixel data that was cut short")
    assert most < 2**26


def test_a_frame_without_a_place_is_named(tmp_path: Path, write_enhanced: Any) -> None:
    frames = [frame_at(i) for i in range(3)]
    del frames[1].PlanePositionSequence
    write_enhanced(tmp_path / "a.dcm", frames)
    assert reasons(tmp_path / "a.dcm") == ["frame 2 without spacing, position or orientation"]


CLIP = Path(str(get_testdata_file("examples_ybr_color.dcm", download=False)))


def test_an_ultrasound_clip_is_a_video_with_its_scale() -> None:
    (record,) = taken(CLIP)
    assert record.modality is Modality.VIDEO
    assert record.kind.startswith("US")
    assert [record.attributes[k] for k in ("frames", "rows", "columns")] == [30, 240, 320]
    assert record.attributes["rate_hz"] == pytest.approx(1000 / 33.333)
    assert record.attributes["seconds"] == pytest.approx(30 * 0.033333, rel=1e-4)
    payload = records.load(record, CLIP.parent)
    expected = pydicom.dcmread(CLIP).pixel_array
    assert np.array_equal(payload.array, expected.transpose(0, 3, 1, 2))
    # PS3.3 C.8.5.5.1.15: Physical Delta X is in cm a pixel.
    assert np.allclose(np.diag(world(payload)), [0.5104970559, 0.5104970559, 1, 1])


def clip(path: Path, write_slice: Any, **attributes: object) -> None:
    pixels = np.arange(4)[:, None, None] * np.ones(SHAPE, np.uint16)
    data = np.ascontiguousarray(pixels, np.uint16).tobytes()
    about = {"Modality": "XA", "NumberOfFrames": 4, "PixelData": data, "RescaleIntercept": 0, "PixelSpacing": None}
    write_slice(path, pixels[0], **(about | attributes))


@pytest.mark.parametrize(
    ("attributes", "rate", "times"),
    [
        ({"FrameTime": 40}, 25.0, None),
        ({"FrameTimeVector": [0, 50, 50, 50]}, 20.0, None),
        ({"FrameTimeVector": [0, 100, 100, 200]}, 7.5, [0, 0.1, 0.2, 0.4]),
        ({"CineRate": 15}, 15.0, None),
        ({"RecommendedDisplayFrameRate": 12}, 12.0, None),
        ({"FrameTime": 0, "CineRate": 10}, 10.0, None),
    ],
)
def test_a_clip_has_its_frames_times(
    tmp_path: Path, write_slice: Any, attributes: dict[str, object], rate: float, times: list[float] | None
) -> None:
    clip(tmp_path / "a.dcm", write_slice, **attributes)
    (record,) = taken(tmp_path / "a.dcm")
    assert record.modality is Modality.VIDEO
    assert record.attributes["rate_hz"] == pytest.approx(rate)
    assert record.attributes["variable_rate"] is (times is not None)
    places = records.load(record, tmp_path).places
    assert places is not None
    assert places[:, 3] == pytest.approx(times or np.arange(4) / rate)
    payload = records.load(record, tmp_path)
    assert payload.array.shape == (4, 1, *SHAPE)
    assert payload.array[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert payload.to_world is None


def test_an_inverted_clip_is_turned_about_one_value(tmp_path: Path, write_slice: Any) -> None:
    clip(
        tmp_path / "a.dcm", write_slice, FrameTime=40, PhotometricInterpretation="MONOCHROME1", BitsStored=8, HighBit=7
    )
    assert load_taken(tmp_path / "a.dcm").array[:, 0, 0, 0].tolist() == [255, 254, 253, 252]


@pytest.mark.parametrize(
    "attributes",
    [{}, {"FrameTime": -1}, {"CineRate": 0}, {"FrameTimeVector": [0, 0, 0, 0]}, {"FrameTimeVector": [0, 5]}],
)
def test_frames_without_places_or_times_are_refused(
    tmp_path: Path, write_slice: Any, attributes: dict[str, object]
) -> None:
    clip(tmp_path / "a.dcm", write_slice, **attributes)
    assert reasons(tmp_path / "a.dcm") == ["4 frames without places or times"]


def test_a_tomography_of_an_eye_is_a_volume_at_its_scale(tmp_path: Path, write_enhanced: Any) -> None:
    """Sections of the retina: rows go into its depth, sections lie 0.12 mm apart."""
    into = np.array([[1.0, 0, 0], [0, 0, -1]])
    frames = [frame_at(0.12 * i, cosines=into) for i in range(5)]
    shared = group(
        PixelMeasuresSequence={"PixelSpacing": [0.0039, 0.0117], "SliceThickness": 0.12},
        FrameAnatomySequence={"FrameLaterality": "R"},
    )
    write_enhanced(
        tmp_path / "a.dcm", frames, Modality="OPT", SharedFunctionalGroupsSequence=Items([shared]),
        SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.5.4", BitsStored=8, HighBit=7,
    )  # fmt: skip
    (record,) = taken(tmp_path / "a.dcm")
    assert (record.modality, record.kind, record.attributes["laterality"]) == (Modality.VOLUME, "OPT", "R")
    assert record.attributes["spacing_z_mm"] == pytest.approx(0.12)
    payload = load_taken(tmp_path / "a.dcm")
    assert payload.array[0, :, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert np.allclose(np.linalg.norm(world(payload)[:3, :3], axis=0), [0.0117, 0.0039, 0.12])
    assert np.allclose(world(payload)[:3, 1], [0, 0, -0.0039])


def test_ultrasound_regions_that_disagree_are_no_scale(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(CLIP)
    other = Dataset()
    other.update(dataset.SequenceOfUltrasoundRegions[0])
    other.PhysicalDeltaX = 0.1
    dataset.SequenceOfUltrasoundRegions = Items([dataset.SequenceOfUltrasoundRegions[0], other])
    dataset.save_as(tmp_path / "a.dcm")
    assert taken(tmp_path / "a.dcm")[0].attributes["spacing_x_mm"] is None
    other.PhysicalUnitsXDirection = 4  # seconds: a Doppler trace beside the picture has no say
    dataset.save_as(tmp_path / "b.dcm")
    assert taken(tmp_path / "b.dcm")[0].attributes["spacing_x_mm"] == pytest.approx(0.5105, abs=1e-4)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_clip_that_was_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    data = CLIP.read_bytes()
    (tmp_path / "a.dcm").write_bytes(data[: int(len(data) * share)])
    assert not taken(tmp_path / "a.dcm")
    assert reasons(tmp_path / "a.dcm")


def test_fewer_packed_frames_than_promised_are_refused(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(CLIP)
    dataset.NumberOfFrames = 31
    dataset.save_as(tmp_path / "a.dcm")
    (found,) = reasons(tmp_path / "a.dcm")
    assert found.startswith("pixel data that was cut short")


def test_a_packed_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    data = bytearray(CLIP.read_bytes())
    sof = data.rindex(b"\xff\xc0\x00\x11\x08")  # of the last frame
    data[sof + 5 : sof + 9] = b"\xff\xff\xff\xff"
    (tmp_path / "a.dcm").write_bytes(data)
    assert reasons(tmp_path / "a.dcm") == ["a frame of 65535 × 65535 pixels under a header of 240 × 320"]


def test_a_catalogue_holds_a_modality_that_no_encoder_reads(tmp_path: Path, write_slice: Any) -> None:
    (tmp_path / "in").mkdir()
    clip(tmp_path / "in/a.dcm", write_slice, FrameTime=40)
    cohort = ingest(tmp_path / "in", tmp_path / "out")
    assert cohort.describe()["modality"] == {"video": 1}
    assert cohort.load(cohort.records()[0]).array.shape == (4, 1, *SHAPE)
