"""What every DICOM object's header says: whose it is, when, of what, and at what scale (`pydicom`).

Source: DICOM PS3.3 C.7.1.1 (patient), C.7.6.2 (image plane), C.8.5.5 (ultrasound regions).
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import MissingExtraError, Modality, Record, Scalar
from .dicom_elements import Elements, elements
from .naming import patient_of, without_form
from .packed import check_deflated, check_items, deflated
from .source import RecordError, content_id, parse_time, place_of, quiet

MEASURED = {"CT", "MR", "PT"}
"""Modalities whose values measure something, and whose slices make up volumes."""

silent = quiet("pydicom")


def opened(path: Path, pixels: bool) -> Any:
    """The dataset, with or without its pixels.

    Raises:
        RecordError: no DICOM, or not whole.
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError as error:
        raise MissingExtraError("pydicom", "dicom") from error
    try:
        check_deflated(path)
        check_items(path)
        dataset = pydicom.dcmread(path, stop_before_pixels=not pixels)
        if len(dataset) == 0:  # pydicom gives up silently where the file ends within an element
            raise EOFError
        return dataset
    except RecordError:
        raise
    except EOFError as error:
        raise RecordError("a DICOM file that was cut short", "a whole file", "send it again from the PACS") from error
    except InvalidDicomError as error:
        raise RecordError(
            "a file named as DICOM without the DICM marker", "a DICOM PS3.10 file", "send it again from the PACS"
        ) from error
    except Exception as error:
        raise RecordError(
            f"a file that is not whole DICOM ({type(error).__name__})", "a DICOM PS3.10 file", "send it again from the PACS",
        ) from error  # fmt: skip


def check_whole(dataset: Any) -> None:
    """Refuse an object of which an element is shorter than it says: pydicom reads what is left of it and says nothing.

    Raises:
        RecordError: it was cut short.
    """
    for tag in dataset.keys():  # noqa: SIM118 (a dataset's own iteration decodes each element)
        element = dataset.get_item(tag)
        value = getattr(element, "value", None)
        if isinstance(value, bytes) and len(value) < (getattr(element, "length", 0) or 0) < 0xFFFFFFFF:
            raise RecordError("a DICOM file that was cut short", "a whole file", "send it again from the PACS")


_FRAMES = 0x00280008
HEAD = 2**14
"""Bytes in which a header usually comes to its number of frames."""
_SMALL = 2**12


def beginning(head: bytes) -> Elements | None:
    """The elements up to the number of frames (0028,0008): whose and what it is; None where that is for `glimpse` to find out.

    Args:
        head: the first `HEAD` bytes of a file.
    """
    return elements(head) if len(head) < _SMALL else elements(head, _FRAMES)


def glimpse(path: Path) -> Any:
    """The dataset up to its number of frames (0028,0008): whose and what it is, and no more is read.

    Raises:
        RecordError: no DICOM, or not whole.
    """
    from pydicom.filereader import read_partial

    if path.stat().st_size < _SMALL or deflated(path):
        return opened(path, pixels=False)
    try:
        with path.open("rb") as file:
            dataset = read_partial(file, stop_when=lambda tag, vr, length: tag > _FRAMES)
    except Exception:  # what is wrong with it, or in another way than usual, is told by who reads it whole
        return opened(path, pixels=False)
    return dataset if len(dataset) else opened(path, pixels=False)


def text(dataset: Any, keyword: str) -> str:
    """An element as text; empty where it is absent."""
    return str(dataset.get(keyword, "") or "").strip()


def first(item: Any, sequence: str) -> Any:
    """The first item of a sequence; an empty one where there is none."""
    return (item.get(sequence) or [{}])[0]


def frames(dataset: Any) -> int:
    """How many frames the header promises."""
    return int(dataset.get("NumberOfFrames") or 1)


def _age_years(text: str) -> float | None:
    """PS3.5 6.2, AS: nnnD, nnnW, nnnM or nnnY."""
    found = re.fullmatch(r"(\d{1,3})([DWMY])", text)
    return (
        round(int(found[1]) * {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}[found[2]], 2) if found else None
    )


def spacing_of(dataset: Any) -> tuple[float, float] | None:
    """mm between rows and between columns; None where the file has no scale that could be one."""
    values = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing") or _of_regions(dataset) or ()
    try:
        y, x = (float(v) for v in values)
    except (TypeError, ValueError):
        return None
    return (y, x) if 0 < y < 1e4 and 0 < x < 1e4 else None


def _of_regions(dataset: Any) -> tuple[float, float] | None:
    """mm by the calibrated regions of an ultrasound image: its two-dimensional ones in cm, if they agree."""
    found = {
        (abs(float(region.PhysicalDeltaY)) * 10, abs(float(region.PhysicalDeltaX)) * 10)
        for region in dataset.get("SequenceOfUltrasoundRegions") or ()
        if region.get("RegionSpatialFormat") == 1  # 2D
        and region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == 3  # cm
        and region.get("PhysicalDeltaX")
        and region.get("PhysicalDeltaY")
    }
    return found.pop() if len(found) == 1 else None


def plane_of(dataset: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Position (3,) mm and the direction cosines (2 3) of a row and a column; None where they are not such."""
    try:
        position = [float(v) for v in dataset.get("ImagePositionPatient")]
        cosines = [float(v) for v in dataset.get("ImageOrientationPatient")]
    except (TypeError, ValueError):
        return None
    if len(position) != 3 or len(cosines) != 6 or not all(map(math.isfinite, position)):
        return None
    a, b, c, d, e, f = cosines
    off = (
        a * a + b * b + c * c - 1,
        d * d + e * e + f * f - 1,
        a * d + b * e + c * f,
    )  # C.7.6.2.1.1: right-angled, of length 1
    return (np.array(position), np.array(cosines).reshape(2, 3)) if all(abs(x) <= 1e-2 for x in off) else None


def person_of(dataset: Any) -> dict[str, Scalar]:
    """What is known of a patient and of the study, as scalars."""
    sex = text(dataset, "PatientSex")
    return {
        "sex": sex if sex in {"M", "F", "O"} else None,
        "age": _age_years(text(dataset, "PatientAge")),
        "study": text(dataset, "StudyInstanceUID") or None,
        "series": text(dataset, "SeriesInstanceUID") or None,
        "accession": text(dataset, "AccessionNumber") or None,
        "anonymous": not text(dataset, "PatientID"),
    }


WINDOWS = {
    "window_center": "WindowCenter", "window_width": "WindowWidth", "window_explanation": "WindowCenterWidthExplanation",
    "window_function": "VOILUTFunction",
}  # fmt: skip


def windows_of(item: Any) -> dict[str, Scalar]:
    """The windows at which an image that measures is to be seen, in its units, those of several divided by a backslash as in the file.

    Args:
        item: the dataset, or the Frame VOI LUT item of one frame.
    Returns:
        nothing of one without a window, or with one that is no number.
    Source: DICOM PS3.3 C.11.2.1.2, C.11.2.1.3; C.7.6.16.2.10.
    """
    try:
        said = {name: _joined(item.get(keyword)) for name, keyword in WINDOWS.items()}
    except (ValueError, TypeError, OverflowError):  # how it is to be seen is no reason not to read it
        return {}
    return {k: words for k, words in said.items() if words} if said["window_center"] and said["window_width"] else {}


def _joined(value: Any) -> str:
    several = [value] if isinstance(value, str | int | float) else value or ()
    return "\\".join(str(v).strip() for v in several)


def _laterality(dataset: Any) -> str | None:
    """`L`, `R`, or `B` for both: of an eye or a breast (C.8.11.3, C.8.17.5), a paired part (C.7.3.1) or a frame's (C.7.6.16.2.8)."""
    shared = first(first(dataset, "SharedFunctionalGroupsSequence"), "FrameAnatomySequence")
    said = [text(dataset, k) for k in ("ImageLaterality", "Laterality")] + [text(shared, "FrameLaterality")]
    return next((side for side in said if side in {"L", "R", "B"}), None)


def attributes_of(dataset: Any) -> dict[str, Scalar]:
    """What is known of an image and its patient, as scalars."""
    spacing = spacing_of(dataset) or (None, None)
    return {
        **person_of(dataset),
        "view": text(dataset, "ViewPosition") or None,
        "series_description": text(dataset, "SeriesDescription") or None,
        "laterality": _laterality(dataset),
        "spacing_y_mm": spacing[0],
        "spacing_x_mm": spacing[1],
        "photometric": text(dataset, "PhotometricInterpretation"),
        "rows": int(dataset.get("Rows") or 0),
        "columns": int(dataset.get("Columns") or 0),
        "orientation": "\\".join(str(v) for v in dataset.get("PatientOrientation") or ()) or None,
        "stem": stem_of(dataset),
        **(windows_of(dataset) if text(dataset, "Modality") in MEASURED else {}),  # of the rest the reader applies it
    }


def stem_of(dataset: Any) -> str | None:
    """What a segmentation calls the image by: the series of a slice, the instance of anything else."""
    slice_ = text(dataset, "Modality") in MEASURED and "SharedFunctionalGroupsSequence" not in dataset
    return text(dataset, "SeriesInstanceUID" if slice_ else "SOPInstanceUID") or None


@silent
def record_of(dataset: Any, path: Path, root: Path, name: str | None = None) -> Record:
    """An image record of the file; `name` is what to call its patient where nothing else does."""
    day, hour = text(dataset, "StudyDate"), text(dataset, "StudyTime").split(".")[0]
    kind = (
        text(dataset, "Modality") or "OT",
        text(dataset, "BodyPartExamined").lower(),
        text(dataset, "ViewPosition"),
    )
    device = " ".join(text(dataset, k) for k in ("Manufacturer", "ManufacturerModelName")).strip()
    return Record(
        id=content_id(path),
        # (0010,0020) is of type 2, PS3.3 C.7.1.1: it may be empty, as in much that was de-identified.
        patient=text(dataset, "PatientID")
        or without_form(patient_of(place_of(path, root), name or path.stem) or name or path.stem),
        time=parse_time(day + hour.ljust(6, "0")) or parse_time(day),
        modality=Modality.IMAGE,
        kind=" ".join(filter(None, kind)),
        uri=place_of(path, root),
        site=text(dataset, "InstitutionName") or None,
        device=device or None,
        attributes=attributes_of(dataset),
    )
