"""Grey levels: windows as DICOM PS3.3 C.11.2.1 has them (the reference is pydicom), and samples that say their values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_windowing

from polyclinic import records
from polyclinic.clinic.levels import CT_PRESETS, STEPS, levels_of, robust_window, shade, sixteen
from polyclinic.clinic.reply import Preset, View
from polyclinic.clinic.views import stack_of, view_of
from polyclinic.schema import Modality, Payload, Record
from test_docs import REPOSITORY, python_blocks


def record(kind: str = "MR brain", modality: Modality = Modality.VOLUME, **attributes: str) -> Record:
    return Record("0" * 32, "p", None, modality, kind, "x", attributes=attributes)


def told(view: View, number: int = 0) -> np.ndarray:
    """The values of a slice (y x), as docs/service.md tells programs to read them."""
    names: dict[str, Any] = {}
    (block,) = python_blocks(REPOSITORY / "docs/service.md")
    exec(compile(block, "docs/service.md", "exec"), names)
    return names["values"](view.model_dump(), number)


def view(values: np.ndarray, what: Record) -> View:
    """Of one slice (y x), with its values."""
    return view_of(stack_of(what, Payload(values[None, None], np.eye(4))), what, "a", pictures="samples")


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(40, 400), (-600, 1500), (40, 80), (400.5, 1), (0, 4096)])
def test_a_window_is_dicoms(function: str, center: float, width: float) -> None:
    about = Dataset()
    about.PhotometricInterpretation, about.BitsStored, about.PixelRepresentation = "MONOCHROME2", 12, 1
    about.WindowCenter, about.WindowWidth, about.VOILUTFunction = center, width, function
    values = np.arange(-2048, 2048)
    with np.errstate(over="ignore"):
        theirs = (apply_windowing(values, about) + 2048) / 4095
    ours = shade(values, Preset(name="x", center=center, width=width, function=function))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(arrays(np.uint16, array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_values_come_back_from_what_is_sent(values: np.ndarray) -> None:
    np.testing.assert_array_equal(told(view(values.astype(np.float32), record())), values)


def test_whole_numbers_are_sent_as_they_are_and_others_to_a_part_in_65535_of_their_span() -> None:
    draws = np.random.default_rng(0)
    whole = draws.integers(-1024, 3072, (20, 30)).astype(np.float32)
    levels = levels_of(record("CT chest"), whole)
    np.testing.assert_array_equal(sixteen(whole, levels) * levels.slope + levels.intercept, whole)
    assert levels.unit == "HU"
    broken = draws.normal(0, 1e-3, (20, 30))
    levels = levels_of(record(), broken)
    span = broken.max() - broken.min()
    np.testing.assert_allclose(
        sixteen(broken, levels) * levels.slope + levels.intercept, broken, atol=0.51 * span / STEPS
    )
    assert [p.name for p in levels.presets] == ["automatic", "full range"]


def test_one_value_far_away_leaves_the_others_their_greys() -> None:
    values = np.random.default_rng(0).normal(100, 10, (64, 64))
    values[3, 4] = 1e9
    levels = levels_of(record(), values)
    low, high = robust_window(values)
    assert (high - low) / levels.slope > 1000
    sent = sixteen(values, levels) * levels.slope + levels.intercept
    assert np.abs(sent - values)[values < 1e8].max() < 0.02
    assert sent[3, 4] == pytest.approx(levels.high)


def test_what_is_no_number_is_black() -> None:
    values = np.linspace(0, 1, 12).reshape(3, 4)
    values[1, 1], values[2, 2] = np.nan, np.inf
    levels = levels_of(record(), values)
    assert (levels.low, levels.high) == (0, 1)
    assert sixteen(values, levels)[1, 1] == 0
    assert sixteen(values, levels)[2, 2] == STEPS


@pytest.mark.parametrize(
    ("kind", "modality", "low", "attributes", "unit"),
    [
        ("CT chest", Modality.VOLUME, -1000, {}, "HU"),
        ("CT chest", Modality.IMAGE, -1000, {"photometric": "MONOCHROME2"}, "HU"),
        ("CT chest", Modality.IMAGE, 0, {}, ""),  # a photograph of one
        ("CT chest", Modality.VOLUME, 0, {}, ""),  # scaled by somebody
        ("volume", Modality.VOLUME, -1024, {}, "HU"),  # NIfTI that does not say what it is, with air in it
        ("volume", Modality.VOLUME, -3, {}, ""),
        ("MR brain", Modality.VOLUME, -1024, {}, ""),
    ],
)
def test_hounsfield_units_are_said_where_they_are(
    kind: str, modality: Modality, low: float, attributes: dict[str, str], unit: str
) -> None:
    levels = levels_of(record(kind, modality, **attributes), np.array([[low, 40, 900.0]]))
    assert levels.unit == unit
    assert (levels.presets[:4] == [*CT_PRESETS]) is (unit == "HU")
    assert levels.presets[-1].name == "full range"


def test_the_files_own_windows_come_first_and_bad_ones_not_at_all() -> None:
    said = record("CT", window_center="40\\-600\\7", window_width="350\\1500\\0", window_explanation="A\\LUNG")
    presets = levels_of(said, np.array([[-1000.0, 0]])).presets
    assert [(p.name, p.center, p.width, p.function) for p in presets[:2]] == [
        ("the file’s: A", 40, 350, "LINEAR"),
        ("the file’s: LUNG", -600, 1500, "LINEAR"),
    ]
    assert presets[2] == CT_PRESETS[0]
    for center, width in (("x", "9"), ("1", "nan")):
        wrong = record("MR", window_center=center, window_width=width)
        assert levels_of(wrong, np.zeros((2, 2))).presets[0].name == "automatic"


def test_the_windows_of_a_dicom_file_reach_its_record_and_its_picture(tmp_path: Path) -> None:
    source = dcmread(str(get_testdata_file("MR_small.dcm")))
    source.save_as(tmp_path / "a.dcm")
    (item,) = records.read(tmp_path / "a.dcm")
    assert isinstance(item, Record)
    assert (item.attributes["window_center"], item.attributes["window_width"]) == ("600", "1600")
    payload = records.load(item, tmp_path)
    seen = view_of(stack_of(item, payload), item, "a.dcm", pictures="samples")
    assert seen.levels is not None
    assert (seen.levels.presets[0].center, seen.levels.presets[0].width) == (600, 1600)
    assert seen.slices[0].image is None
    np.testing.assert_array_equal(told(seen), source.pixel_array)


@pytest.mark.parametrize(
    ("center", "width", "kept"),
    [([40, 300], [300, 1500], ("40.0\\300.0", "300.0\\1500.0")), (None, 5, None), ("", "", None)],
)
def test_a_series_has_the_windows_of_its_middle_slice(
    tmp_path: Path, center: Any, width: Any, kept: tuple[str, str] | None
) -> None:
    source = dcmread(str(get_testdata_file("MR_small.dcm")))
    source.preamble = bytes(128)
    for number in range(3):
        source.PatientID, source.SOPInstanceUID, source.PixelSpacing = "P1", f"1.2.3.{number}", [1, 1]
        source.ImagePositionPatient, source.ImageOrientationPatient = [0, 0, 2.0 * number], [1, 0, 0, 0, 1, 0]
        source.WindowCenter, source.WindowWidth = (center, width) if number == 1 else (None, None)
        source.save_as(tmp_path / f"IM{number}")
    (item,) = (i for _, i in records.read_patient(sorted(tmp_path.iterdir())) if isinstance(i, Record))
    found = tuple(item.attributes.get(f"window_{k}") for k in ("center", "width"))
    as_numbers = lambda words: [float(w) for w in words.split("\\")] if words else None
    assert [as_numbers(f) for f in found] == [as_numbers(k) for k in kept or (None, None)]


def test_a_radiograph_went_through_its_window_when_it_was_read(tmp_path: Path) -> None:
    source = dcmread(str(get_testdata_file("MR_small.dcm")))
    source.Modality = "DX"
    source.save_as(tmp_path / "a.dcm")
    (item,) = records.read(tmp_path / "a.dcm")
    assert isinstance(item, Record)
    assert "window_center" not in item.attributes


def test_pictures_shrunk_keep_their_values_near() -> None:
    ramp = np.linspace(-1000, 1000, 1024, dtype=np.float32)[None].repeat(64, 0)
    item = record("CT head")
    seen = view(ramp, item)
    assert (seen.width, seen.columns, seen.rows, seen.step) == (512, 1024, 64, 0.5)
    np.testing.assert_allclose(told(seen)[5, 1:-1], ramp[0].reshape(-1, 2).mean(1)[1:-1], atol=1)
