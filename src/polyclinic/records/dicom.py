"""DICOM images (`pydicom`, `pylibjpeg`): single frames as images, a series of slices as one volume put together by geometry.

Source: DICOM PS3.3 C.7.6.2 (image plane), C.11.1 (modality LUT), C.11.2 (VOI LUT), C.7.6.3.1.2 (photometric interpretation).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import MissingExtraError, Modality, Payload, Record, Rejected, Scalar
from . import stack
from .naming import patient_of
from .packed import check_codestream, check_deflated
from .raster import LUMINANCE, MAGIC
from .source import RecordError, check_size, content_id, parse_time, place_id, place_of, quiet, split_uri

_NOT_IMAGES = {"SEG", "SR", "RTSTRUCT", "RTDOSE", "RTPLAN", "PR", "KO", "ECG", "SM", "DOC", "REG", "M3D"}
_VOLUMES = {"CT", "MR", "PT"}


def recognises(path: Path, head: bytes) -> bool:
    """Whether it has the DICM marker, or is named .dcm and is no plain picture."""
    return head[128:132] == b"DICM" or (path.suffix.lower() in {".dcm", ".dicom"} and not head.startswith(MAGIC))


_quiet = quiet("pydicom")


def _open(path: Path, pixels: bool) -> Any:
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError as error:
        raise MissingExtraError("pydicom", "dicom") from error
    try:
        check_deflated(path)
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


def _text(dataset: Any, keyword: str) -> str:
    return str(dataset.get(keyword, "") or "").strip()


def _age_years(text: str) -> float | None:
    """PS3.5 6.2, AS: nnnD, nnnW, nnnM or nnnY."""
    found = re.fullmatch(r"(\d{1,3})([DWMY])", text)
    return (
        round(int(found[1]) * {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}[found[2]], 2) if found else None
    )


def _spacing(dataset: Any) -> tuple[float, float] | None:
    """mm between rows and between columns; None where the file has no scale that could be one."""
    values = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing")
    try:
        y, x = (float(v) for v in values)
    except (TypeError, ValueError):
        return None
    return (y, x) if 0 < y < 1e4 and 0 < x < 1e4 else None


def _attributes(dataset: Any) -> dict[str, Scalar]:
    spacing = _spacing(dataset) or (None, None)
    sex = _text(dataset, "PatientSex")
    return {
        "sex": sex if sex in {"M", "F", "O"} else None,
        "age": _age_years(_text(dataset, "PatientAge")),
        "view": _text(dataset, "ViewPosition") or None,
        "spacing_y_mm": spacing[0],
        "spacing_x_mm": spacing[1],
        "photometric": _text(dataset, "PhotometricInterpretation"),
        "rows": int(dataset.Rows),
        "columns": int(dataset.Columns),
        "study": _text(dataset, "StudyInstanceUID") or None,
        "series": _text(dataset, "SeriesInstanceUID") or None,
        "accession": _text(dataset, "AccessionNumber") or None,
        "orientation": "\\".join(str(v) for v in dataset.get("PatientOrientation") or ()) or None,
        "anonymous": not _text(dataset, "PatientID"),
    }


def _check(dataset: Any) -> None:
    modality = _text(dataset, "Modality")
    if modality in _NOT_IMAGES:
        raise RecordError(
            f"a DICOM object of modality {modality}", "an image of CR, DX, CT, MR, US, XA, MG …", "leave it out"
        )
    if not dataset.get("Rows") or not dataset.get("Columns"):
        raise RecordError("a DICOM object without pixels", "Rows and Columns (PS3.3 C.7.6.3)", "leave it out")
    frames = _frames(dataset)
    check_size((frames, int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel") or 1)), 4)
    if frames > 1:
        raise RecordError(
            f"a multi-frame DICOM object ({frames} frames)", "single frames", "export it as single frames"
        )


def _frames(dataset: Any) -> int:
    return int(dataset.get("NumberOfFrames") or 1)


def _record(dataset: Any, path: Path, root: Path, name: str | None = None) -> Record:
    day, hour = _text(dataset, "StudyDate"), _text(dataset, "StudyTime").split(".")[0]
    kind = (
        _text(dataset, "Modality") or "OT",
        _text(dataset, "BodyPartExamined").lower(),
        _text(dataset, "ViewPosition"),
    )
    device = " ".join(_text(dataset, k) for k in ("Manufacturer", "ManufacturerModelName")).strip()
    return Record(
        id=content_id(path),
        # (0010,0020) is of type 2, PS3.3 C.7.1.1: it may be empty, as in much that was de-identified.
        patient=_text(dataset, "PatientID") or patient_of(place_of(path, root), name or path.stem) or name or path.stem,
        time=parse_time(day + hour.ljust(6, "0")) or parse_time(day),
        modality=Modality.IMAGE,
        kind=" ".join(filter(None, kind)),
        uri=place_of(path, root),
        site=_text(dataset, "InstitutionName") or None,
        device=device or None,
        attributes=_attributes(dataset),
    )


@_quiet
def series_of(path: Path) -> str | None:
    """The SeriesInstanceUID of a CT, MR or PET slice that belongs into a volume; None for anything else."""
    dataset = _open(path, pixels=False)
    return _series(dataset) if _text(dataset, "Modality") in _VOLUMES and _frames(dataset) == 1 else None


def _series(dataset: Any) -> str | None:
    """Its UID; what was de-identified may have lost it, and is then one series a folder."""
    return _text(dataset, "SeriesInstanceUID") or ("unnamed" if dataset.get("ImagePositionPatient") else None)


@_quiet
def _whole(path: Path) -> Any:
    """The header of an image whose pixels decode: a truncated file shows itself now and not in training."""
    dataset = _open(path, pixels=True)
    _check(dataset)
    _pixels(dataset)
    _plane(dataset)
    return _open(path, pixels=False)  # without the pixels: a series is a thousand of them


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One image a file."""
    yield _quiet(_record)(_whole(path), path, root)


def read_series(paths: Sequence[Path], root: Path) -> Iterator[Record | Rejected]:
    """The slices of one series in one folder as one volume, ordered along the normal (PS3.3 C.7.6.2.1.1), not by file name.

    Slices that are broken, repeat a place, or have another orientation or size than most, are set aside. A gap, a tilted
    gantry or several images at each place refuse the series.
    """
    slices: list[stack.Slice] = []
    for path in paths:
        try:
            slices.append(_slice(_whole(path), path))
        except RecordError as error:
            yield Rejected(place_of(path, root), error.found, error.expected, error.remedy)
    if len(slices) == 1:
        yield from read(slices[0].path, root)
    if len(slices) < 2:
        return
    ordered, aside = stack.ordered(slices)
    yield from (Rejected(place_of(p, root), error.found, error.expected, error.remedy) for p, error in aside)
    first = ordered[0]
    series = _quiet(_record)(
        first.dataset, first.path, root, name=None if first.path.parent == root else first.path.parent.name
    )
    step = float(np.linalg.norm(stack.step(ordered)))
    yield replace(
        series,
        id=place_id("+".join(content_id(s.path) for s in ordered), "series"),
        modality=Modality.VOLUME,
        uri=series_uri(first.path, str(_series(first.dataset)), root),
        attributes={**series.attributes, "slices": len(ordered), "spacing_z_mm": step},
    )


def series_uri(path: Path, uid: str, root: Path) -> str:
    """Where a series lies: the folder of its slices and its UID."""
    return f"{place_of(path.parent, root)}#series={uid}"


@_quiet
def _slice(dataset: Any, path: Path) -> stack.Slice:
    spacing = _spacing(dataset)
    plane = _cosines(dataset)
    if spacing is None or plane is None:
        raise RecordError(
            "a slice without spacing, position or orientation", "(0028,0030), (0020,0032) and (0020,0037)", "export it again"
        )  # fmt: skip
    return stack.Slice(path, dataset, (int(dataset.Rows), int(dataset.Columns)), spacing, *plane)


def _cosines(dataset: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Position (3,) mm and the direction cosines (2 3) of a row and a column; None where they are not such."""
    try:
        position = np.array([float(v) for v in dataset.ImagePositionPatient])
        cosines = np.array([float(v) for v in dataset.ImageOrientationPatient]).reshape(2, 3)
    except (AttributeError, TypeError, ValueError):
        return None
    upright = np.allclose(cosines @ cosines.T, np.eye(2), atol=1e-2)  # C.7.6.2.1.1: orthogonal, of length 1
    return (position, cosines) if position.shape == (3,) and np.isfinite(position).all() and upright else None


def _pixels(dataset: Any) -> np.ndarray:
    """(y x) float32 as meant to be seen: modality LUT for CT and PET units, VOI window for the rest, white is bright."""
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

    measured = _text(dataset, "Modality") in _VOLUMES
    photometric = _text(dataset, "PhotometricInterpretation")
    try:
        check_codestream(dataset)
        grey = np.asarray(dataset.pixel_array)
        if photometric == "PALETTE COLOR":
            grey = np.asarray(apply_color_lut(grey, dataset))
        elif grey.ndim == 2:
            grey = np.asarray(apply_modality_lut(grey, dataset))
            grey = grey if measured else np.asarray(apply_voi_lut(grey, dataset))
    except (RecordError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a decoder written in Rust panics, which is no Exception
        raise RecordError(
            f"pixels that do not decode ({type(error).__name__})",
            f"{dataset.Rows} × {dataset.Columns} pixels in a transfer syntax that pylibjpeg knows",
            "send it again, or decompress it on the PACS",
        ) from error
    grey = grey.astype(np.float32)
    if grey.ndim == 3:
        grey = grey[..., :3] @ LUMINANCE
    # How a value is shown does not change what it measures: HU stay HU.
    return grey.max() + grey.min() - grey if photometric == "MONOCHROME1" and not measured else grey


def _plane(dataset: Any) -> np.ndarray | None:
    """4x4 (x y z 1) → mm of one plane, PS3.3 equation C.7.6.2.1-1; None where the file has no scale."""
    spacing, plane = _spacing(dataset), _cosines(dataset)
    if spacing is None:
        return None
    if plane is None:
        return np.diag([spacing[1], spacing[0], 1.0, 1.0])
    return stack.plane(spacing, *plane)


@_quiet
def load(record: Record) -> Payload:
    """array (1 y x) or, for a series, (1 z y x) float32; to_world (x y z 1) → mm in LPS."""
    place, fragment = split_uri(record.uri)
    if not fragment.startswith("series="):
        dataset = _open(Path(place), pixels=True)
        _check(dataset)
        return Payload(_pixels(dataset)[None], to_world=_plane(dataset))
    slices: list[stack.Slice] = []
    pixels: dict[Path, np.ndarray] = {}
    for path in sorted(Path(place).iterdir()):
        try:
            with path.open("rb") as file:
                mine = recognises(path, file.read(132)) and series_of(path) == fragment.removeprefix("series=")
            if mine:
                dataset = _open(path, pixels=True)
                _check(dataset)
                pixels[path] = _pixels(dataset)
                del dataset.PixelData
                slices.append(_slice(dataset, path))
        except (OSError, RecordError):
            continue  # what was set aside then is set aside now
    ordered = stack.ordered(slices)[0] if len(slices) > 1 else []
    if len(ordered) != record.attributes["slices"]:
        raise RecordError(
            f"a series of {len(ordered)} slices that had {record.attributes['slices']}", "the folder as ingested", "ingest it again"
        )  # fmt: skip
    return Payload(np.stack([pixels[s.path] for s in ordered])[None], to_world=stack.to_world(ordered))
