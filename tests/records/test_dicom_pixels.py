"""Colours of DICOM, whatever their photometric interpretation; the files are pydicom's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import JPEG2000

from polyclinic.schema import Modality
from reading import load, only

PLAIN = "SC_rgb_rle.dcm"
"""The chart of colours without loss."""


def of_pydicom(name: str) -> Path:
    return Path(str(get_testdata_file(name, download=False)))


@pytest.mark.parametrize(
    ("name", "photometric", "error"),
    [
        (PLAIN, "RGB", 0),
        ("SC_rgb_jpeg_gdcm.dcm", "RGB", 0),  # JPEG, lossless
        ("SC_rgb_gdcm_KY.dcm", "RGB", 0),  # JPEG 2000
        ("SC_rgb_jls_lossy_line.dcm", "RGB", 10),
        ("SC_rgb_jls_lossy_sample.dcm", "RGB", 10),
        ("SC_rgb_dcmtk_+eb+cr.dcm", "RGB", 1),
        ("SC_rgb_dcmtk_+eb+cy+n1.dcm", "YBR_FULL", 5),
        ("SC_rgb_jpeg_dcmtk.dcm", "YBR_FULL", 5),
        ("SC_rgb_dcmtk_+eb+cy+np.dcm", "YBR_FULL_422", 5),
        ("SC_rgb_dcmtk_+eb+cy+s2.dcm", "YBR_FULL_422", 5),
        ("SC_ybr_full_422_uncompressed.dcm", "YBR_FULL_422", 5),
    ],
)
def test_the_chart_has_its_colours_in_every_form(name: str, photometric: str, error: float) -> None:
    record, payload = only(of_pydicom(name)), load(of_pydicom(name))
    assert (record.modality, record.attributes["channels"]) == (Modality.IMAGE, 3)
    assert record.attributes["photometric"] == photometric
    assert payload.array.dtype == np.float32
    expected = np.moveaxis(pydicom.dcmread(of_pydicom(PLAIN)).pixel_array, 2, 0).astype(np.float32)
    assert expected[:, 5, 50].tolist() == [255, 0, 0]  # the bar at the top is red
    # In the middle of each of the ten bars: at their edges JPEG rings.
    assert np.abs(payload.array - expected)[:, 5::10].max() <= error


def test_deep_colours_keep_their_depth() -> None:
    plain, deep = load(of_pydicom(PLAIN)).array, load(of_pydicom("SC_rgb_rle_16bit.dcm")).array
    assert np.array_equal(deep, plain * 257)


@pytest.mark.parametrize("name", ["examples_jpeg2k.dcm", "GDCMJ2K_TextGBR.dcm"])
def test_the_reversible_transform_is_turned_back(name: str) -> None:
    """YBR_RCT; of the second each word says its colour: red, green, blue."""
    record, payload = only(of_pydicom(name)), load(of_pydicom(name))
    assert (record.attributes["photometric"], record.attributes["channels"]) == ("YBR_RCT", 3)
    if name.startswith("GDCM"):
        for channel, rows in enumerate((slice(40, 110), slice(145, 220), slice(240, 310))):
            word = payload.array[:, rows]
            written = np.ptp(word, axis=0) > 64
            assert written.mean() > 0.05
            assert (word.argmax(axis=0)[written] == channel).all()


def test_the_irreversible_transform_is_turned_back(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(of_pydicom(PLAIN))
    expected = np.moveaxis(dataset.pixel_array, 2, 0).astype(np.float32)
    dataset.decompress()
    dataset.PhotometricInterpretation = "YBR_ICT"
    dataset.compress(JPEG2000, dataset.pixel_array, j2k_psnr=[60], generate_instance_uid=False)
    dataset.save_as(tmp_path / "a.dcm")
    assert only(tmp_path / "a.dcm").attributes["photometric"] == "YBR_ICT"
    assert np.abs(load(tmp_path / "a.dcm").array - expected).max() <= 3


def test_a_palette_is_looked_up() -> None:
    path = of_pydicom("examples_palette.dcm")
    dataset = pydicom.dcmread(path)
    data = (dataset[f"{colour}PaletteColorLookupTableData"].value for colour in ("Red", "Green", "Blue"))
    tables = np.stack([np.frombuffer(table, "<u2") for table in data])
    assert only(path).attributes["channels"] == 3
    assert np.array_equal(load(path).array, tables[:, dataset.pixel_array])


@pytest.mark.parametrize("name", ["SC_rgb_jpeg.dcm", "SC_rgb_jpeg_dcmd.dcm", "MR_small.dcm"])
def test_grey_stored_in_three_channels_is_one(name: str) -> None:
    """The first two are of three samples a pixel, which JPEG has left up to 17 of 255 apart."""
    record, payload = only(of_pydicom(name)), load(of_pydicom(name))
    assert record.attributes["channels"] == len(payload.array) == 1
    raw = pydicom.dcmread(of_pydicom(name)).pixel_array
    if raw.ndim == 3:
        assert np.allclose(payload.array[0], raw @ [0.299, 0.587, 0.114], atol=1e-3)


def test_grey_that_is_shown_inverted_is_turned_round(shared_data: Path) -> None:
    path = shared_data / "dicom-objects/dx_image.dcm"
    dataset = pydicom.dcmread(path)
    assert dataset.PhotometricInterpretation == "MONOCHROME1"
    payload = load(path)
    assert payload.array.shape == (1, dataset.Rows, dataset.Columns)
    assert np.corrcoef(payload.array.ravel(), dataset.pixel_array.ravel())[0, 1] < -0.9
