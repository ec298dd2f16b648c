"""Slices of a phantom, written as a scanner would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

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
