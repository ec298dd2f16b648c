"""Captured frames: an image each."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from polyclinic import records
from polyclinic.cohort import ingest
from polyclinic.schema import Modality
from reading import reasons, taken

SHAPE = (9, 7)


def pages(path: Path, write_slice: Any, kind: str, pixels: np.ndarray, **more: Any) -> None:
    """A capture of several frames (n y x), or (n y x 3) in colours, of bytes; of kind 7.1 with one bit a pixel."""
    bits = {"7.1": 1, "7.3": 16}.get(kind, 8)
    data = np.packbits(pixels.reshape(-1), bitorder="little") if bits == 1 else pixels.astype(f"<u{bits // 8}")
    dataset = write_slice(
        path, pixels[0], SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{kind}", Modality="DOC", NumberOfFrames=len(pixels),
        BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1, PixelData=data.tobytes() + b"\0" * (data.nbytes % 2),
        SamplesPerPixel=3 if pixels.ndim == 4 else 1, PhotometricInterpretation="RGB" if pixels.ndim == 4 else "MONOCHROME2",
        RescaleIntercept=0, PlanarConfiguration=0, **more,
    )  # fmt: skip
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(dataset, keyword)
    dataset.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("kind", ["7.1", "7.2", "7.3", "7.4"])
def test_each_page_is_an_image(tmp_path: Path, write_slice: Any, kind: str) -> None:
    colours = (3,) if kind == "7.4" else ()
    pixels = np.random.default_rng(0).integers(0, 2 if kind == "7.1" else 256, (3, *SHAPE, *colours))
    pages(tmp_path / "a.dcm", write_slice, kind, pixels, FrameIncrementPointer=0x00182001, PageNumberVector=[4, 5, 6])
    found = taken(tmp_path / "a.dcm")
    assert [(r.modality, r.attributes["page"], r.attributes["pages"]) for r in found] == [
        (Modality.IMAGE, number, 3) for number in (4, 5, 6)
    ]
    assert [r.uri for r in found] == ["a.dcm#frame=1", "a.dcm#frame=2", "a.dcm#frame=3"]
    assert len({r.id for r in found}) == 3
    for record, page in zip(found, pixels, strict=True):
        expected = page.transpose(2, 0, 1) if colours else page[None]
        payload = records.load(record, tmp_path)
        assert np.array_equal(payload.array, expected)
        assert payload.to_world is None
        assert record.attributes["channels"] == len(expected)


def test_pages_without_numbers_are_counted(tmp_path: Path, write_slice: Any) -> None:
    pages(tmp_path / "a.dcm", write_slice, "7.2", np.zeros((2, *SHAPE), int), FrameLabelVector=["front", "back"])
    assert [(r.attributes["page"], r.attributes["frame_label"]) for r in taken(tmp_path / "a.dcm")] == [
        (1, "front"), (2, "back"),
    ]  # fmt: skip


def test_a_page_alone_is_an_image(tmp_path: Path, write_slice: Any) -> None:
    pages(tmp_path / "a.dcm", write_slice, "7.2", np.ones((1, *SHAPE), int))
    (record,) = taken(tmp_path / "a.dcm")
    assert (record.modality, record.uri) == (Modality.IMAGE, "a.dcm")


def test_a_capture_with_times_is_a_video_unless_it_has_pages(tmp_path: Path, write_slice: Any) -> None:
    for more, modality in (({}, Modality.VIDEO), ({"FrameIncrementPointer": 0x00182001}, Modality.IMAGE)):
        pages(tmp_path / "a.dcm", write_slice, "7.2", np.zeros((3, *SHAPE), int), RecommendedDisplayFrameRate=5, **more)
        assert {r.modality for r in taken(tmp_path / "a.dcm")} == {modality}


@pytest.mark.parametrize("name", ["SC_rgb_rle_2frame.dcm", "SC_rgb_rle_16bit_2frame.dcm"])
def test_a_real_capture_of_two_frames(name: str) -> None:
    path = Path(str(get_testdata_file(name, download=False)))
    found = taken(path)
    raw = pydicom.dcmread(path).pixel_array
    assert [r.attributes["page"] for r in found] == [1, 2]
    for record, page in zip(found, raw, strict=True):
        assert np.array_equal(records.load(record, path.parent).array, page.transpose(2, 0, 1))


def test_pages_cut_short_are_refused(tmp_path: Path, write_slice: Any) -> None:
    pages(tmp_path / "a.dcm", write_slice, "7.2", np.zeros((3, *SHAPE), int))
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.PixelData = dataset.PixelData[:100]
    dataset.save_as(tmp_path / "a.dcm")
    (found,) = reasons(tmp_path / "a.dcm")
    assert found.startswith("pixel data that was cut short")


def test_a_row_about_a_file_of_pages_is_of_their_patient(tmp_path: Path, write_slice: Any) -> None:
    pages(tmp_path / "a.dcm", write_slice, "7.2", np.zeros((2, *SHAPE), int))
    shutil.move(tmp_path / "a.dcm", tmp_path / "in.dcm")
    (tmp_path / "in").mkdir()
    shutil.move(tmp_path / "in.dcm", tmp_path / "in/a.dcm")
    (tmp_path / "in/list.csv").write_text("filename,grade\na.dcm,3\n")
    cohort = ingest(tmp_path / "in", tmp_path / "c")
    assert not cohort.rejected()
    assert {r.patient for r in cohort.records()} == {"P1"}
