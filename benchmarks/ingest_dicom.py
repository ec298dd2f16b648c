"""A folder of CT slices into a catalogue, beside plain pydicom that reads the same headers into a Parquet table.

Series of uncompressed slices of 256×256, as a PACS exports them. The peer opens each file once, stops before the pixels, reads the
attributes that a catalogue needs and writes them as Parquet: what a script of twenty lines does. Ours is `polyclinic.ingest` on one
core: it also hashes each file, sees that its pixels are whole, and puts the slices together by geometry. `equal_output`: both
find the same series with the same number of slices.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from polyclinic.cohort import ingest

SERIES, SLICES, SIDE = 20, 60, 256
ROUNDS = 5
KEYWORDS = (
    "PatientID", "PatientSex", "PatientAge", "StudyDate", "StudyTime", "Modality", "BodyPartExamined", "Manufacturer", "InstitutionName",
    "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient",
)  # fmt: skip


def write(folder: Path, series: int, slices: int) -> None:
    """Series of a CT, one folder each, whose files are in no order."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(-1000, 1000, (SIDE, SIDE), dtype=np.int16).tobytes()
    for number in range(series):
        place = folder / f"study{number:03d}"
        place.mkdir(parents=True)
        of_series = template(number)
        for turn, slice_ in enumerate(draw.permutation(slices).tolist()):
            of_series.SOPInstanceUID = of_series.file_meta.MediaStorageSOPInstanceUID = generate_uid(
                entropy_srcs=[f"{number}.{slice_}"]
            )
            of_series.InstanceNumber, of_series.ImagePositionPatient = slice_ + 1, [-120, -120, 2.5 * slice_]
            of_series.PixelData = pixels
            of_series.save_as(place / f"{turn:05d}.dcm", enforce_file_format=True)


def template(number: int) -> Any:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    data = Dataset()
    data.file_meta = meta
    uid = lambda what: generate_uid(entropy_srcs=[f"{what}{number}"])
    values = {
        "SOPClassUID": CTImageStorage, "PatientID": f"P{number:04d}", "PatientName": "Phantom", "PatientSex": "F", "PatientAge": "061Y",
        "StudyDate": "20240311", "StudyTime": "101500", "Modality": "CT", "BodyPartExamined": "CHEST", "Manufacturer": "Maker",
        "InstitutionName": "Site", "StudyInstanceUID": uid("study"),
        "SeriesInstanceUID": uid("series"), "FrameOfReferenceUID": uid("frame"),
        "KVP": 120, "SliceThickness": 2.5, "ConvolutionKernel": "B30f", "ProtocolName": "Chest", "PatientPosition": "HFS",
        "Rows": SIDE, "Columns": SIDE, "PixelSpacing": [0.9, 0.9], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15,
        "PixelRepresentation": 1, "RescaleIntercept": 0, "RescaleSlope": 1,
    }  # fmt: skip
    for keyword, value in values.items():
        setattr(data, keyword, value)
    return data


def peer(folder: Path, into: Path) -> dict[str, int]:
    """Plain pydicom: a row a file; how many slices each series has."""
    rows = []
    for path in sorted(folder.rglob("*.dcm")):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        rows.append({"uri": str(path)} | {k: str(header.get(k, "")) for k in KEYWORDS})
    pq.write_table(pa.Table.from_pylist(rows), into / "headers.parquet")
    return dict(Counter(row["SeriesInstanceUID"] for row in rows))


def ours(folder: Path, into: Path) -> dict[str, int]:
    found = ingest(folder, into / "catalogue").records()
    return {str(r.attributes["series"]): int(str(r.attributes["slices"])) for r in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few files and rounds, to see that it runs")
    quick = parser.parse_args().quick
    series, slices, rounds = (3, 8, 1) if quick else (SERIES, SLICES, ROUNDS)
    work = Path(tempfile.mkdtemp())
    taken: dict[str, list[float]] = {"ours": [], "peer": []}
    try:
        write(work / "files", series, slices)
        for number in range(rounds + 1):  # the first warms the disk's cache
            said = {}
            for name, function in (("ours", ours), ("peer", peer)):
                into = work / f"{name}{number}"
                into.mkdir()
                start = time.perf_counter()
                said[name] = function(work / "files", into)
                taken[name].append(time.perf_counter() - start)
            assert said["ours"] == said["peer"], "the two found other series"
    finally:
        shutil.rmtree(work)
    count = series * slices
    rate = {name: count / statistics.median(times[1:]) for name, times in taken.items()}
    print(f"{count} files of {SIDE}×{SIDE}, {series} series; one core each, median of {rounds}")
    print(
        f"{'polyclinic.ingest':22}{rate['ours']:8.0f} files/s\n{'pydicom, headers only':22}{rate['peer']:8.0f} files/s"
    )
    figure = {
        "name": "ingest_dicom", "ours": rate["ours"], "peer": rate["peer"], "unit": "files/s", "ratio": rate["ours"] / rate["peer"],
        "n": rounds, "equal_output": f"the same {series} series of {slices} slices",
    }  # fmt: skip
    print(json.dumps(figure))


if __name__ == "__main__":
    main()
