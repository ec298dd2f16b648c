"""Slices of a phantom, written as a scanner would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy.spatial.transform import Rotation

Writer = Callable[..., FileDataset]


@pytest.fixture
def write_slice() -> Writer:
    """Writes one CT slice; any attribute may be given by its keyword."""

    def write(path: Path, pixels: np.ndarray, **attributes: object) -> FileDataset:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        dataset.PatientID, dataset.Modality, dataset.SeriesInstanceUID = "P1", "CT", "1.2.3"
        dataset.PixelSpacing, dataset.ImageOrientationPatient = [0.8, 0.6], [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient, dataset.RescaleSlope, dataset.RescaleIntercept = [0, 0, 0], 1, -1024
        dataset.Rows, dataset.Columns = pixels.shape[:2]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
        dataset.PixelData = np.ascontiguousarray(pixels, dtype=np.uint16).tobytes()
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path, enforce_file_format=True)
        return dataset

    return write


@pytest.fixture
def write_series(write_slice: Writer) -> Callable[..., list[FileDataset]]:
    """Writes seven oblique slices, 2.5 mm apart, in no order, as whole as highdicom wants them; gives them in order."""

    def write(path: Path, shape: tuple[int, int], modality: str = "CT") -> list[FileDataset]:
        random = np.random.default_rng(3)
        cosines = Rotation.from_euler("xyz", [20, -30, 50], degrees=True).as_matrix()
        made = []
        for i in random.permutation(7).tolist():
            position = [10.0, -20.0, 5.0] + i * 2.5 * np.cross(cosines[0], cosines[1])
            made.append(
                write_slice(
                    path / f"{i}.dcm", random.integers(0, 2000, shape), Modality=modality, InstanceNumber=i + 1,
                    ImagePositionPatient=[round(v, 6) for v in position.tolist()], SliceThickness=2.5, FrameOfReferenceUID="1.9",
                    ImageOrientationPatient=[round(v, 8) for v in cosines[:2].reshape(-1).tolist()], StudyInstanceUID="1.8",
                    StudyDate="20200101", StudyTime="101010", AccessionNumber="", ReferringPhysicianName="", PatientName="",
                    PatientBirthDate="", PatientSex="", StudyID="", SeriesNumber=1, Manufacturer="",
                    ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
                    SOPClassUID=MRImageStorage if modality == "MR" else CTImageStorage,
                    SOPInstanceUID=generate_uid(), AcquisitionNumber=1, PositionReferenceIndicator="", PatientPosition="HFS",
                )
            )  # fmt: skip
        return sorted(made, key=lambda d: int(d.InstanceNumber))

    return write
