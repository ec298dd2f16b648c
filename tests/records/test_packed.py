from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit

from polyclinic import records
from polyclinic.records import packed
from polyclinic.schema import Rejected


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_the_size_stands_in_the_codestream(kind: str) -> None:
    out = io.BytesIO()
    Image.fromarray(np.zeros((37, 53), np.uint8)).save(out, kind)
    assert packed.frame_size(out.getvalue()) == (37, 53)
    assert packed.frame_size(out.getvalue()[:10]) is None


@pytest.mark.parametrize(
    "name", ["MR_small_jpeg_ls_lossless.dcm", "JPGExtended.dcm", "693_J2KI.dcm", "MR_small_RLE.dcm"]
)
def test_of_other_writers_too(name: str) -> None:
    dataset = pydicom.dcmread(str(get_testdata_file(name, download=False)))
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    expected = None if "RLE" in name else (dataset.Rows, dataset.Columns)
    assert packed.frame_size(frame) == expected


@pytest.mark.parametrize(("kind", "syntax"), [("JPEG", JPEGBaseline8Bit), ("JPEG2000", JPEG2000Lossless)])
def test_a_large_frame_under_a_small_header_is_refused_before_it_is_decoded(
    tmp_path: Path, write_slice: Any, kind: str, syntax: str
) -> None:
    out = io.BytesIO()
    Image.fromarray(np.zeros((4000, 4000), np.uint8)).save(out, kind)
    dataset = write_slice(tmp_path / "a.dcm", np.zeros((8, 8)))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = encapsulate([out.getvalue()])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "a.dcm")
    (item,) = records.read(tmp_path / "a.dcm")
    assert isinstance(item, Rejected)
    assert item.found == "a frame of 4000 × 4000 pixels under a header of 8 × 8"


def deflated(tmp_path: Path, write_slice: Any, zeros: int) -> Path:
    """A deflated file whose data set is followed by private zeros."""
    dataset = write_slice(tmp_path / "a.dcm", np.arange(64).reshape(8, 8))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    data = (tmp_path / "a.dcm").read_bytes()
    start = packed._end_of_meta(tmp_path / "a.dcm")
    body = zlib.decompress(data[start:], -zlib.MAX_WBITS)
    tag = b"\xe1\x7f\x11\x10" + b"OB\x00\x00" + zeros.to_bytes(4, "little")  # after the pixels
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    with (tmp_path / "a.dcm").open("wb") as file:
        file.write(data[:start] + squeeze.compress(body + tag))
        for _ in range(zeros >> 20):
            file.write(squeeze.compress(bytes(1 << 20)))
        file.write(squeeze.flush())
    return tmp_path / "a.dcm"


def test_a_deflated_file_is_inflated_within_bound(
    tmp_path: Path, write_slice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = deflated(tmp_path, write_slice, 4 << 20)
    assert path.stat().st_size < 20_000
    assert [type(i).__name__ for i in records.read(path)] == ["Record"]
    monkeypatch.setattr(packed, "MOST_INFLATED", 1 << 20)
    (item,) = records.read(path)
    assert isinstance(item, Rejected)
    assert item.found == "a deflated DICOM file of over 1 MiB"


def test_of_a_deflated_file_its_items_are_counted_before_they_become_objects(
    tmp_path: Path, write_slice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_slice(tmp_path / "a.dcm", np.arange(64).reshape(8, 8))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.OtherPatientIDsSequence = [pydicom.Dataset() for _ in range(300)]
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert [type(i).__name__ for i in records.read(tmp_path / "a.dcm")] == ["Record"]
    monkeypatch.setattr(packed, "MOST_ITEMS", 299)
    (item,) = records.read(tmp_path / "a.dcm")
    assert isinstance(item, Rejected)
    assert item.found == "a DICOM file of 300 sequence items"
