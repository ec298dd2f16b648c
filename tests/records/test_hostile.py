"""Files that promise more than they have: nothing crashes, waits or takes memory without bound; each gets its reason."""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

GIB = 1 << 30


def gzip_bomb(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=6) as file:
        for _ in range(64):
            file.write(b"1," * (1 << 21))  # 256 MiB


def zip_bomb(path: Path) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.csv", "w", force_zip64=True) as file,
    ):
        file.write(b"patient_id,x\n")
        for _ in range(64):
            file.write((b"P1," + b"1" * 1020 + b"\n") * (1 << 12))  # 256 MiB of rows


def nifti_of_two_gigabytes(path: Path) -> None:
    header = bytearray(nibabel.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.eye(4)).to_bytes())
    struct.pack_into("<8h", header, 40, 3, 810, 810, 810, 1, 1, 1, 1)
    path.write_bytes(gzip.compress(bytes(header)) if path.suffix == ".gz" else header)


def dicom_of_two_gigabytes(path: Path) -> None:
    dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    dataset.Rows = dataset.Columns = 23000
    dataset.save_as(path)


def dicom_element_of_two_gigabytes(path: Path) -> None:
    data = Path(str(get_testdata_file("CT_small.dcm", download=False))).read_bytes()
    at = data.index(b"\xe0\x7f\x10\x00OW") + 8
    path.write_bytes(data[:at] + struct.pack("<L", 2**31 - 2) + data[at + 4 : at + 1000])


def dicom_of_a_million_items(path: Path) -> None:
    dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    del dataset.PixelData
    dataset.NumberOfFrames = 1_000_000
    dataset.save_as(path)
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 1_000_000
    path.write_bytes(path.read_bytes() + struct.pack("<HH2sHL", 0x5200, 0x9230, b"SQ", 0, len(items)) + items)


def dicom_of_many_frames(path: Path, frames: int, name: str = "SC_rgb_rle_2frame.dcm") -> None:
    dataset = pydicom.dcmread(str(get_testdata_file(name, download=False)))
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns, dataset.FrameTime = frames, 800, 800, 40
    dataset.save_as(path)


def png_of_two_gigabytes(path: Path) -> None:
    chunk = lambda name, data: struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))
    head = struct.pack(">LLBBBBB", 40_000, 50_000, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(999))))


def tiff_of_two_gigabytes(path: Path) -> None:
    fields = [
        (256, 4, 23_000),
        (257, 4, 23_000),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, 23_000),
        (279, 4, 9),
    ]
    data = b"II*\x00" + struct.pack("<L", 8) + struct.pack("<H", len(fields))
    path.write_bytes(
        data + b"".join(struct.pack("<HHLL", tag, kind, 1, value) for tag, kind, value in fields) + bytes(4)
    )


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "bomb.csv.gz": (gzip_bomb, "a row of over 17 million characters"),
    "bomb.nii.gz": (gzip_bomb, "a NIfTI file that does not open"),
    "bomb.csv.zip": (zip_bomb, "a zip file that unpacks to more than"),
    "a.nii": (nifti_of_two_gigabytes, "a NIfTI file that was cut short"),
    "b.nii.gz": (nifti_of_two_gigabytes, "a NIfTI file that was cut short"),
    "c.dcm": (dicom_of_two_gigabytes, "pixels that do not decode"),
    "d.dcm": (dicom_element_of_two_gigabytes, "pixels that do not decode"),
    "k.dcm": (dicom_of_a_million_items, "a DICOM file of 10000"),
    "l.dcm": (lambda path: dicom_of_many_frames(path, 2**31 - 1), "a header that promises"),
    "m.dcm": (lambda path: dicom_of_many_frames(path, 250), "pixel data that was cut short"),
    "n.dcm": (lambda path: dicom_of_many_frames(path, 250, "CT_small.dcm"), "pixel data that was cut short"),
    "e.png": (png_of_two_gigabytes, "a header that promises more pixels"),
    "f.tif": (tiff_of_two_gigabytes, "a header that promises more pixels"),
    "g.csv": (lambda path: path.write_text("patient_id,x\nP1," + "9" * 40_000_000), "a row of over 17 million"),
    "h.json": (lambda path: path.write_text('{"resourceType": "Bundle", "entry": ' + '[{"a":' * 500_000), "JSON that does not parse"),
    "i.hea": (lambda path: path.write_text("i 1 500 260000000\ni.dat 16 200 16 0 0 0 0 i\n"), "a WFDB signal that was cut short"),
    "i.dat": (lambda path: path.write_bytes(bytes(1000)), ""),
}  # fmt: skip

READ = """
import json, resource, sys
from pathlib import Path
from polyclinic import records
from polyclinic.schema import Rejected
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
path, reasons, taken = Path(sys.argv[1]), [], 0
for item in records.read(path):
    if isinstance(item, Rejected):
        reasons.append(item.found)
    else:
        taken += 1
print(json.dumps({"reasons": reasons, "taken": taken, "kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, (_, reason) in HOSTILE.items() if reason])
def test_a_hostile_file_gets_its_reason_in_bounded_memory(tmp_path: Path, name: str) -> None:
    for other, (make, _) in HOSTILE.items():
        if other.split(".")[0] == name.split(".")[0] and (other == name or not HOSTILE[other][1]):
            make(tmp_path / other)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / name)], capture_output=True, text=True, timeout=300, check=True
    )
    told = json.loads(done.stdout)
    assert told["reasons"][-1].startswith(HOSTILE[name][1]), told
    assert told["kib"] < 0.6 * GIB / 1024, told
    if name != "bomb.csv.zip":
        assert told["taken"] == 0
