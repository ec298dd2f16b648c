"""DICOM objects of the phantom (`pydicom`): explicit VR little endian, not compressed, as PS3.3 A.3, A.4, A.7 and A.26 have them.

The slices of a series differ in a few elements of fixed length, so that one is written and the others are patched copies of it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from ..schema import MissingExtraError
from .sites import Site

_CT, _MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
_DX, _US = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.3.1"


def uid(*what: object) -> str:
    """A UID of a fixed length for a thing: `2.25.` and a number of 39 digits (PS3.5 B.2), by its name and not by the clock."""
    digest = int.from_bytes(hashlib.blake2b("\x00".join(map(str, what)).encode(), digest_size=16).digest(), "big")
    return f"2.25.{10**38 + digest % (2 * 10**38)}"


@dataclass(frozen=True, slots=True)
class Study:
    """Whose images these are, when and where they were taken.

    Args:
        patient: the patient's number.
        sex: "F" or "M".
        age: years at that time.
        born: the day.
        when: of the acquisition.
        site: the hospital.
        accession: the order's number.
        seed: of the hospital, for UIDs.
    """

    patient: str
    sex: str
    age: float
    born: datetime
    when: datetime
    site: Site
    accession: str
    seed: int

    def uid(self, *what: object) -> str:
        """The UID of a part of the study."""
        return uid(self.seed, self.patient, self.accession, *what)


def _dataset(study: Study, kind: str, modality: str, series: str, pixels: np.ndarray) -> Any:
    """What every image has: patient, study, series, equipment, pixel description; `pixels` is one frame (y x), or frames (t y x)."""
    try:
        from pydicom.dataset import Dataset, FileMetaDataset
        from pydicom.uid import UID, ExplicitVRLittleEndian
    except ImportError as error:
        raise MissingExtraError("pydicom", "dicom") from error
    ds, meta = Dataset(), FileMetaDataset()
    instance = UID(study.uid(series, "instance"))
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(kind), instance
    meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, UID(uid("polyclinic phantom"))
    ds.file_meta = meta
    ds.SOPClassUID, ds.SOPInstanceUID = kind, instance
    ds.PatientName, ds.PatientID, ds.PatientSex = f"Phantom^{study.patient}", study.patient, study.sex
    ds.PatientBirthDate, ds.PatientAge = f"{study.born:%Y%m%d}", f"{int(study.age):03d}Y"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study.uid("study"), study.uid(series)
    for part in ("Study", "Series", "Acquisition", "Content"):
        setattr(ds, f"{part}Date", f"{study.when:%Y%m%d}")
        setattr(ds, f"{part}Time", f"{study.when:%H%M%S}")
    ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName = study.accession, study.accession, ""
    ds.Modality, ds.SeriesDescription, ds.SeriesNumber = modality, series, 1
    ds.Manufacturer, ds.ManufacturerModelName = study.site.maker, f"{modality} 1"
    ds.InstitutionName, ds.BurnedInAnnotation = study.site.name, "NO"
    ds.InstanceNumber, ds.AcquisitionNumber = 1, 1
    bits = 8 * pixels.dtype.itemsize
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape[-2:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = np.ascontiguousarray(pixels).tobytes()
    ds["PixelData"].VR = "OW" if bits > 8 else "OB"
    return ds


def _bytes(dataset: Any) -> bytes:
    from pydicom import dcmwrite

    out = io.BytesIO()
    dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def _stack(dataset: Any, study: Study, series: str, volume: np.ndarray, to_world: np.ndarray) -> Iterator[bytes]:
    """The slices of a volume (z y x) from the dataset of its first."""
    step = np.diag(to_world)[:3]
    dataset.PatientPosition, dataset.PositionReferenceIndicator = "HFS", ""
    dataset.FrameOfReferenceUID = study.uid("frame of reference")
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [f"{step[1]:.6f}", f"{step[0]:.6f}"], f"{step[2]:.6f}"
    place = lambda z: f"{to_world[2, 3] + z * step[2]:+014.6f}"
    dataset.ImagePositionPatient = [f"{to_world[0, 3]:.6f}", f"{to_world[1, 3]:.6f}", place(0)]
    dataset.InstanceNumber = "9001"
    whole = _bytes(dataset)
    head = whole[: len(whole) - volume[0].nbytes]
    for z in range(len(volume)):
        changed = head.replace(str(dataset.SOPInstanceUID).encode(), study.uid(series, "instance", z).encode())
        changed = changed.replace(b"IS\x04\x009001", b"IS\x04\x00%4d" % (z + 1)).replace(
            place(0).encode(), place(z).encode()
        )
        yield changed + volume[z].tobytes()


def ct(study: Study, volume: np.ndarray, to_world: np.ndarray) -> Iterator[bytes]:
    """The slices of a CT (z y x) int16 in Hounsfield units, from the feet up."""
    ds = _dataset(study, _CT, "CT", "chest", volume[0])
    ds.ImageType, ds.BodyPartExamined, ds.KVP = ["ORIGINAL", "PRIMARY", "AXIAL"], "CHEST", study.site.kvp
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "HU"
    ds.WindowCenter, ds.WindowWidth = -500, 1500
    return _stack(ds, study, "chest", volume, to_world)


def mr(
    study: Study, contrast: str, times_ms: tuple[float, float], volume: np.ndarray, to_world: np.ndarray
) -> Iterator[bytes]:
    """The slices of an MR (z y x) uint16.

    Args:
        study: of all contrasts.
        contrast: the series' description.
        times_ms: of repetition and echo.
        volume: (z y x).
        to_world: its place.
    """
    ds = _dataset(study, _MR, "MR", contrast, volume[0])
    ds.ImageType, ds.BodyPartExamined = ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"], "HEAD"
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "SE", "NONE", "", "2D"
    ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength, ds.MagneticFieldStrength = *map(str, times_ms), 1, "1.5"
    return _stack(ds, study, contrast, volume, to_world)


def instance_of(study: Study, series: str) -> str:
    """The UID of the only object of a series: `radiograph` or `clip`."""
    return study.uid(series, "instance")


def radiograph(study: Study, pixels: np.ndarray, spacing_mm: float, series: str = "chest") -> bytes:
    """A digital radiograph (y x) uint16, seen from the front, its window over what the chest takes up."""
    from pydicom.dataset import Dataset

    ds = _dataset(study, _DX, "DX", series, pixels)
    ds.ImageType, ds.BodyPartExamined, ds.ViewPosition = ["ORIGINAL", "PRIMARY", ""], "CHEST", "PA"
    ds.PatientOrientation, ds.ImageLaterality, ds.PresentationIntentType = ["L", "F"], "U", "FOR PRESENTATION"
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "816094009", "SCT", "Chest"
    ds.AnatomicRegionSequence, ds.AcquisitionContextSequence = [region], []
    ds.BitsStored, ds.HighBit = 12, 11
    ds.ImagerPixelSpacing, ds.DetectorType = [f"{spacing_mm:.6f}"] * 2, "DIRECT"
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    ds.LossyImageCompression, ds.PresentationLUTShape = "00", "IDENTITY"
    low, high = (float(q) for q in np.quantile(pixels, (0.02, 0.99)))
    ds.WindowCenter, ds.WindowWidth = f"{(low + high) / 2:.1f}", f"{max(high - low, 1.0):.1f}"
    return _bytes(ds)


def clip(study: Study, frames: np.ndarray, frame_ms: float, pixel_mm: float) -> bytes:
    """An ultrasound clip (t y x) uint8 with its region's scale (PS3.3 C.8.5.5)."""
    from pydicom.dataset import Dataset

    ds = _dataset(study, _US, "US", "heart", frames)
    ds.ImageType, ds.BodyPartExamined = ["ORIGINAL", "PRIMARY", "CARDIAC", "0001"], "HEART"
    ds.NumberOfFrames, ds.FrameTime, ds.FrameIncrementPointer = len(frames), f"{frame_ms:.3f}", 0x00181063
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0 = region.RegionLocationMinY0 = 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = frames.shape[2] - 1, frames.shape[1] - 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX = region.PhysicalDeltaY = pixel_mm / 10
    ds.SequenceOfUltrasoundRegions = [region]
    return _bytes(ds)
