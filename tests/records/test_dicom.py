from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image
from pydicom import FileDataset
from pydicom.data import get_testdata_file
from pydicom.uid import OphthalmicPhotography8BitImageStorage

from polyclinic import records
from polyclinic.records import RecordError, dicom, source
from polyclinic.schema import MissingExtraError, Modality, Payload, Record, Rejected
from reading import load, only, refused

AXES = {Modality.IMAGE: 3, Modality.VOLUME: 4, Modality.VIDEO: 4, Modality.SIGNAL: 2, Modality.TABLE: 2}


def of_pydicom(name: str) -> Path:
    return Path(str(get_testdata_file(name, download=False)))


def assert_where_sitk_puts_it(payload: Payload, image: SimpleITK.Image) -> None:
    """The same physical place for the corners of the grid, in LPS mm."""
    assert payload.to_world is not None
    far = np.array(image.GetSize()) - 1
    for share in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)):
        index = far * share
        expected = image.TransformContinuousIndexToPhysicalPoint(index.astype(float).tolist())
        assert np.allclose(payload.to_world[:3] @ [*index, 1.0], expected, atol=1e-3)


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small.dcm", "MR_small_jp2klossless.dcm", "MR_small_RLE.dcm", "693_J2KI.dcm"]
)
def test_values_and_place_are_those_of_itk(name: str) -> None:
    image = SimpleITK.ReadImage(str(of_pydicom(name)))
    payload = load(of_pydicom(name))
    assert np.array_equal(payload.array, SimpleITK.GetArrayFromImage(image).astype(np.float32))
    assert_where_sitk_puts_it(payload, image)


def test_ct_is_in_hounsfield_units(shared_data: Path) -> None:
    path = shared_data / "dicom-objects/ct_image.dcm"
    raw = pydicom.dcmread(path)
    payload = load(path)
    assert np.array_equal(payload.array[0], raw.pixel_array * float(raw.RescaleSlope) + float(raw.RescaleIntercept))
    assert payload.array.min() < -800  # air


def test_every_file_of_pydicom_is_taken_or_refused_with_a_reason() -> None:
    folder = of_pydicom("CT_small.dcm").parent
    for path in sorted(folder.glob("*.dcm")):
        for item in records.read(path):
            if isinstance(item, Record):
                assert records.load(item, folder).array.ndim == AXES[item.modality]
            else:
                assert isinstance(item, Rejected)
                assert item.found
                assert item.remedy


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("liver_1frame.dcm", "1 frames with functional groups for 3"),
        ("test-SR.dcm", "modality SR"),
        ("MR_truncated.dcm", "pixels that do not decode"),
        ("no_meta.dcm", "without the DICM marker"),
        ("priv_SQ.dcm", "without pixels"),
        ("JPEG2000-embedded-sequence-delimiter.dcm", "a frame of 1024 × 3722445056 pixels"),
    ],
)
def test_what_is_no_single_image_is_refused_by_name(name: str, reason: str) -> None:
    assert reason in refused(of_pydicom(name))


def test_monochrome1_is_shown_the_right_way_round(tmp_path: Path, write_slice: Any) -> None:
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
    write_slice(tmp_path / "a.dcm", pixels, Modality="DX", RescaleIntercept=0, SeriesInstanceUID="1.1")
    write_slice(
        tmp_path / "b.dcm",
        63 - pixels,
        Modality="DX",
        RescaleIntercept=0,
        PhotometricInterpretation="MONOCHROME1",
        SeriesInstanceUID="1.2",
    )
    assert np.array_equal(load(tmp_path / "a.dcm").array, load(tmp_path / "b.dcm").array)


def test_hounsfield_units_do_not_depend_on_how_they_are_shown(tmp_path: Path, write_slice: Any) -> None:
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
    write_slice(tmp_path / "a.dcm", pixels, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(load(tmp_path / "a.dcm").array[0], pixels.astype(float) - 1024)


def test_an_x_ray_is_seen_through_its_window(tmp_path: Path, write_slice: Any) -> None:
    pixels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    write_slice(tmp_path / "a.dcm", pixels, Modality="DX", RescaleIntercept=0, WindowCenter=100, WindowWidth=51)
    shown = load(tmp_path / "a.dcm").array[0].reshape(-1)
    # PS3.3 C.11.2.1.2.1: all at or below c - 0.5 - (w-1)/2 = 74.5 is the least, all above 124.5 the most, linear between.
    assert np.ptp(shown[:75]) == 0
    assert np.ptp(shown[125:]) == 0
    assert np.allclose(np.diff(shown[75:125]), np.ptp(shown) / 50, rtol=1e-4)
    write_slice(tmp_path / "b.dcm", pixels, WindowCenter=100, WindowWidth=51)
    assert len(np.unique(load(tmp_path / "b.dcm").array)) == 256  # CT keeps its units, whatever the window


def test_jpeg_pixels_are_those_of_pillow(hospital: Path) -> None:
    path = next((hospital / "radiology").glob("CXR-*/*.dcm"))
    packed = pydicom.dcmread(path).PixelData
    with Image.open(BytesIO(packed[packed.find(b"\xff\xd8\xff") :])) as picture:
        assert (
            np.abs(np.asarray(picture, dtype=float) - load(path).array[0]).max() <= 2
        )  # two decoders round differently


@pytest.mark.parametrize(
    ("text", "years"),
    [("045Y", 45.0), ("006M", 0.5), ("052W", 1.0), ("365D", 1.0), ("45", None), ("", None), ("abcY", None)],
)
def test_age(tmp_path: Path, write_slice: Any, text: str, years: float | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_slice(tmp_path / "a.dcm", np.zeros((4, 4)), PatientAge=text)
    age = only(tmp_path / "a.dcm").attributes["age"]
    assert age == (pytest.approx(years, abs=0.01) if years is not None else None)


@pytest.mark.parametrize(
    ("day", "hour", "expected"),
    [
        ("20200131", "143059.123", datetime(2020, 1, 31, 14, 30, 59)),
        ("20200131", "1430", datetime(2020, 1, 31, 14, 30)),
        ("20200131", "14", datetime(2020, 1, 31, 14)),
        ("20200131", "", datetime(2020, 1, 31)),
        ("20200131", "noon", datetime(2020, 1, 31)),
        ("", "1430", None),
        ("202001", "", None),
    ],
)
def test_time(tmp_path: Path, write_slice: Any, day: str, hour: str, expected: datetime | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_slice(tmp_path / "a.dcm", np.zeros((4, 4)), StudyDate=day, StudyTime=hour)
    assert only(tmp_path / "a.dcm").time == expected


def test_a_spacing_that_is_none_is_no_scale(tmp_path: Path, write_slice: Any) -> None:
    write_slice(tmp_path / "a.dcm", np.zeros((4, 4)), PixelSpacing=[0, 0], Modality="DX")
    assert load(tmp_path / "a.dcm").to_world is None
    assert only(tmp_path / "a.dcm").attributes["spacing_x_mm"] is None
    write_slice(tmp_path / "b.dcm", np.zeros((4, 4)), ImageOrientationPatient=[1, 0, 0, 1, 0, 0], Modality="DX")
    to_world = load(tmp_path / "b.dcm").to_world
    assert to_world is not None
    assert np.allclose(to_world, np.diag([0.6, 0.8, 1, 1]))  # cosines that are not orthogonal are no orientation


def test_a_picture_named_dcm_is_a_picture(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.dcm")
    assert only(tmp_path / "a.dcm").kind == "image"


def test_a_decoder_that_panics_does_not_end_the_program(tmp_path: Path) -> None:
    data = bytearray(of_pydicom("SC_rgb_rle_32bit.dcm").read_bytes())
    data[690], data[3256] = 186, 153  # found by changing bytes at random: pylibjpeg-rle's Rust indexes out of bounds
    (tmp_path / "a.dcm").write_bytes(data)
    assert refused(tmp_path / "a.dcm") == "pixels that do not decode (PanicException)"


def test_nothing_of_a_patient_is_warned_about_or_logged(
    tmp_path: Path, write_slice: Any, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_slice(
            tmp_path / "a.dcm",
            np.zeros((4, 4)),
            StudyDate="born 1950 Jane Doe",
            PatientAge="Jane Doe",
            StudyInstanceUID="Jane Doe",
        )
        recwarn.clear()
        caplog.clear()  # pydicom's own log of what was just written
    with caplog.at_level(logging.DEBUG):
        load(tmp_path / "a.dcm")
    assert "Jane" not in caplog.text
    assert not [w for w in recwarn if "Jane" in str(w.message)]


def test_without_pydicom_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingExtraError, match=r"polyclinic\[dicom\]"):
        list(records.read(of_pydicom("CT_small.dcm")))


def test_a_deflated_file_is_read() -> None:
    payload = load(of_pydicom("image_dfl.dcm"))
    assert payload.array.shape == (1, 512, 512)
    assert np.ptp(payload.array) > 0


def test_kind_site_and_device(hospital: Path) -> None:
    record = only(next((hospital / "radiology/CXR-0234").glob("*.dcm")))
    assert record.modality is Modality.IMAGE
    assert record.kind.startswith("CR chest")
    assert record.patient == "CXR-0234"
    assert record.site == "Hannover Medical School"


def test_an_image_of_nobody_is_named_by_its_file(tmp_path: Path, write_slice: Any) -> None:
    (tmp_path / "0017").mkdir()
    write_slice(tmp_path / "0017/lateral.dcm", np.zeros((4, 4)), PatientID="", Modality="DX")
    (item,) = records.read(tmp_path / "0017/lateral.dcm", tmp_path)
    assert isinstance(item, Record)
    assert item.patient == "0017"
    assert item.attributes["anonymous"] is True
    write_slice(tmp_path / "b.dcm", np.zeros((4, 4)), Modality="DX")
    assert only(tmp_path / "b.dcm").attributes["anonymous"] is False


@pytest.mark.parametrize(("keyword", "side"), [("ImageLaterality", "L"), ("Laterality", "R")])
def test_a_photograph_of_an_eye_says_which_and_at_what_scale(tmp_path: Path, keyword: str, side: str) -> None:
    dataset = pydicom.dcmread(of_pydicom("SC_rgb_rle.dcm"))
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = OphthalmicPhotography8BitImageStorage
    dataset.Modality, dataset.PixelSpacing = "OP", [0.006, 0.007]
    setattr(dataset, keyword, side)
    dataset.save_as(tmp_path / "a.dcm")
    (record,) = records.read(tmp_path / "a.dcm")
    assert isinstance(record, Record)
    assert (record.modality, record.kind, record.attributes["laterality"]) == (Modality.IMAGE, "OP", side)
    payload = records.load(record, tmp_path)
    assert np.array_equal(payload.array, np.moveaxis(dataset.pixel_array, 2, 0))
    assert payload.to_world is not None
    assert np.allclose(np.diag(payload.to_world)[:2], [0.007, 0.006])


def test_a_series_larger_than_any_volume_may_be(
    tmp_path: Path, write_series: Callable[..., list[FileDataset]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its files is small, so that no header says it: their number does, before they are decoded together."""
    (tmp_path / "s").mkdir()
    write_series(tmp_path / "s", (6, 5))
    found = list(dicom.read_series(sorted((tmp_path / "s").iterdir()), tmp_path))
    (record,) = [one for one in found if isinstance(one, Record)]
    loaded = records.load(record, tmp_path).array
    monkeypatch.setattr(source, "LARGEST_BYTES", loaded.nbytes - 1)
    with pytest.raises(RecordError, match="GiB of samples"):
        records.load(record, tmp_path)
    (refused,) = dicom.read_series(sorted((tmp_path / "s").iterdir()), tmp_path)
    assert isinstance(refused, Rejected)
    assert refused.uri == record.uri
    monkeypatch.setattr(source, "LARGEST_BYTES", loaded.nbytes)
    assert np.array_equal(records.load(record, tmp_path).array, loaded)
