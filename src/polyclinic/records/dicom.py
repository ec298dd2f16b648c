"""DICOM images (`pydicom`, `pylibjpeg`): single frames as images, a series of slices as one volume put together by geometry.

Source: DICOM PS3.3 C.7.6.2 (image plane), C.11.1 (modality LUT), C.11.2 (VOI LUT), C.7.6.3.1.2 (photometric interpretation).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import MissingExtraError, Modality, Payload, Record, Rejected, Scalar
from .raster import LUMINANCE
from .source import RecordError, check_size, content_id, parse_time, place_id, split_uri

_NOT_IMAGES = {"SEG", "SR", "RTSTRUCT", "RTDOSE", "RTPLAN", "PR", "KO", "ECG", "SM", "DOC", "REG", "M3D"}
_VOLUMES = {"CT", "MR", "PT"}


def recognises(path: Path, head: bytes) -> bool:
    """Whether it has the DICM marker, or is named .dcm."""
    return head[128:132] == b"DICM" or path.suffix.lower() in {".dcm", ".dicom"}


def _read(path: Path, pixels: bool) -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise MissingExtraError("pydicom", "dicom") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, stop_before_pixels=not pixels)
        if len(dataset) == 0:  # pydicom gives up silently where the file ends within an element
            raise EOFError
        return dataset
    except EOFError as error:
        raise RecordError("a DICOM file that was cut short", "a whole file", "send it again from the PACS") from error
    except Exception as error:
        raise RecordError(
            f"a file that is not whole DICOM ({type(error).__name__})",
            "a DICOM PS3.10 file",
            "send it again from the PACS",
        ) from error


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _age_years(value: Any) -> float | None:
    """PS3.5 6.2, AS: nnnD, nnnW, nnnM or nnnY."""
    text = str(value or "")
    if len(text) != 4 or not text[:3].isdigit() or text[3] not in "DWMY":
        return None
    return round(int(text[:3]) * {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}[text[3]], 2)


def _kind(dataset: Any) -> str:
    parts = [
        dataset.get("Modality", "OT"),
        str(dataset.get("BodyPartExamined", "") or "").lower(),
        dataset.get("ViewPosition", ""),
    ]
    return " ".join(str(p) for p in parts if p)


def _attributes(dataset: Any) -> dict[str, Scalar]:
    spacing = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing") or [None, None]
    return {
        "sex": str(dataset.PatientSex) if dataset.get("PatientSex") in {"M", "F", "O"} else None,
        "age": _age_years(dataset.get("PatientAge")),
        "view": str(dataset.get("ViewPosition") or "") or None,
        "spacing_y_mm": _number(spacing[0]),
        "spacing_x_mm": _number(spacing[1]),
        "photometric": str(dataset.get("PhotometricInterpretation", "")),
        "rows": int(dataset.Rows),
        "columns": int(dataset.Columns),
        "study": str(dataset.get("StudyInstanceUID", "")) or None,
        "series": str(dataset.get("SeriesInstanceUID", "")) or None,
        "accession": str(dataset.get("AccessionNumber", "") or "") or None,
    }


def _check(dataset: Any) -> None:
    modality = str(dataset.get("Modality", ""))
    if modality in _NOT_IMAGES:
        raise RecordError(
            f"a DICOM object of modality {modality}", "an image of CR, DX, CT, MR, US, XA, MG …", "leave it out"
        )
    if not dataset.get("Rows") or not dataset.get("Columns"):
        raise RecordError("a DICOM object without pixels", "Rows and Columns (PS3.3 C.7.6.3)", "leave it out")
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    check_size((frames, int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel", 1))), 4)
    if not str(dataset.get("PatientID", "") or "").strip():
        raise RecordError("a DICOM object without a PatientID", "(0010,0020)", "set it in the export")


def _record(dataset: Any, path: Path, modality: Modality) -> Record:
    day, hour = str(dataset.get("StudyDate", "") or ""), str(dataset.get("StudyTime", "") or "")
    return Record(
        id=content_id(path),
        patient=str(dataset.PatientID).strip(),
        time=parse_time((day + hour.split(".")[0].ljust(6, "0"))[:14]) if day else None,
        modality=modality,
        kind=_kind(dataset),
        uri=str(path),
        site=str(dataset.get("InstitutionName", "") or "") or None,
        device=" ".join(str(dataset.get(k, "") or "") for k in ("Manufacturer", "ManufacturerModelName")).strip()
        or None,
        attributes=_attributes(dataset),
    )


def series_of(path: Path) -> str | None:
    """The SeriesInstanceUID of a CT, MR or PET slice that belongs into a volume; None for anything else."""
    dataset = _read(path, pixels=False)
    if str(dataset.get("Modality", "")) not in _VOLUMES or int(dataset.get("NumberOfFrames", 1) or 1) > 1:
        return None
    return str(dataset.get("SeriesInstanceUID", "")) or None


def read(path: Path) -> Iterator[Record | Rejected]:
    """One image a file; its pixels are decoded once, so that a truncated file shows itself now and not in training."""
    dataset = _read(path, pixels=True)
    _check(dataset)
    if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
        raise RecordError("a multi-frame DICOM object", "single frames", "export it as single frames")
    _pixels(dataset)
    yield _record(dataset, path, Modality.IMAGE)


def read_series(paths: Sequence[Path]) -> Iterator[Record | Rejected]:
    """The slices of one series as one volume, ordered along the normal (PS3.3 C.7.6.2.1.1), not by file name.

    Slices that repeat a position, or have another orientation or size than most, are set aside; a gap refuses the series.
    """
    slices: list[tuple[Any, Path]] = []
    for path in paths:
        try:
            dataset = _read(path, pixels=True)
            _check(dataset)
            _pixels(dataset)
            if dataset.get("ImagePositionPatient") is None or dataset.get("ImageOrientationPatient") is None:
                raise RecordError(
                    "a slice without position or orientation", "(0020,0032) and (0020,0037)", "export it again"
                )
            slices.append((dataset, path))
        except RecordError as error:
            yield Rejected(str(path), error.found, error.expected, error.remedy)
    if len(slices) < 2:
        for dataset, path in slices:
            yield _record(dataset, path, Modality.IMAGE)
        return
    try:
        ordered, aside = _order(slices)
    except RecordError as error:
        yield Rejected(str(slices[0][1].parent), error.found, error.expected, error.remedy)
        return
    yield from aside
    first = ordered[0]
    series = _record(first[0], first[1], Modality.VOLUME)
    names = [p.name for _, p in ordered]
    yield replace(
        series,
        id=place_id("+".join(content_id(p) for _, p in ordered), "series"),
        uri=f"{first[1].parent}#series={first[0].SeriesInstanceUID}",
        attributes={**series.attributes, "slices": len(names), "spacing_z_mm": _gap(ordered)},
    )


def _normal(dataset: Any) -> np.ndarray:
    row, column = (
        np.array(dataset.ImageOrientationPatient[:3], float),
        np.array(dataset.ImageOrientationPatient[3:], float),
    )
    return np.cross(row, column)


def _place(dataset: Any) -> float:
    return float(_normal(dataset) @ np.array(dataset.ImagePositionPatient, float))


def _gap(ordered: Sequence[tuple[Any, Path]]) -> float:
    return float(np.median(np.diff([_place(d) for d, _ in ordered])))


def _order(slices: list[tuple[Any, Path]]) -> tuple[list[tuple[Any, Path]], list[Rejected]]:
    def shape(dataset: Any) -> tuple[Any, ...]:
        return (dataset.Rows, dataset.Columns, *(round(float(v), 3) for v in dataset.ImageOrientationPatient))

    shapes = [shape(d) for d, _ in slices]
    usual = max(set(shapes), key=lambda s: (shapes.count(s), s))
    aside = [
        Rejected(
            str(p), "a slice of another size or orientation than its series", "one geometry a series", "export it apart"
        )
        for (_, p), s in zip(slices, shapes, strict=True)
        if s != usual
    ]
    kept = sorted(
        (x for x, s in zip(slices, shapes, strict=True) if s == usual), key=lambda x: (_place(x[0]), x[1].name)
    )
    ordered: list[tuple[Any, Path]] = []
    for dataset, path in kept:
        if ordered and _place(dataset) - _place(ordered[-1][0]) < 1e-3:
            aside.append(
                Rejected(str(path), "a slice at the place of another", "one slice a place", "leave one of them out")
            )
        else:
            ordered.append((dataset, path))
    gaps = np.diff([_place(d) for d, _ in ordered])
    if len(gaps) and gaps.max() > 1.5 * np.median(gaps):
        raise RecordError("a series with missing slices", "slices at even distances", "send the whole series again")
    tilt = np.array(ordered[-1][0].ImagePositionPatient, float) - np.array(ordered[0][0].ImagePositionPatient, float)
    along = abs(tilt @ _normal(ordered[0][0])) / max(float(np.linalg.norm(tilt)), 1e-9)
    if along < 0.999:
        raise RecordError(
            "a series with a tilted gantry", "slices stacked along their normal", "straighten it before export"
        )
    return ordered, aside


def _pixels(dataset: Any) -> np.ndarray:
    """(y x) float32 as meant to be seen: modality LUT for CT and PET units, VOI window for the rest, white is bright."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    try:
        raw = dataset.pixel_array
        grey = np.asarray(apply_modality_lut(raw, dataset))
        if dataset.get("Modality") not in _VOLUMES and raw.ndim == 2:
            grey = np.asarray(apply_voi_lut(grey, dataset))
    except Exception as error:
        raise RecordError(
            f"pixels that do not decode ({type(error).__name__})",
            f"{dataset.Rows} × {dataset.Columns} pixels in a transfer syntax that pylibjpeg knows",
            "send it again, or decompress it on the PACS",
        ) from error
    grey = grey.astype(np.float32)
    if grey.ndim == 3:
        grey = grey[..., :3] @ LUMINANCE
    return grey.max() + grey.min() - grey if dataset.get("PhotometricInterpretation") == "MONOCHROME1" else grey


def _plane(dataset: Any) -> np.ndarray | None:
    """4x4 (x y z 1) → mm of one plane, PS3.3 equation C.7.6.2.1-1; None where the file has no scale."""
    spacing = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing")
    if not spacing:
        return None
    to_world = np.diag([float(spacing[1]), float(spacing[0]), 1.0, 1.0])
    if dataset.get("ImageOrientationPatient") and dataset.get("ImagePositionPatient"):
        to_world[:3, 0] = np.array(dataset.ImageOrientationPatient[:3], float) * float(spacing[1])
        to_world[:3, 1] = np.array(dataset.ImageOrientationPatient[3:], float) * float(spacing[0])
        to_world[:3, 2] = _normal(dataset)
        to_world[:3, 3] = np.array(dataset.ImagePositionPatient, float)
    return to_world


def load(record: Record) -> Payload:
    """array (1 y x) or, for a series, (1 z y x) float32; to_world (x y z 1) → mm in LPS."""
    place, fragment = split_uri(record.uri)
    if not fragment.startswith("series="):
        dataset = _read(Path(place), pixels=True)
        return Payload(_pixels(dataset)[None], to_world=_plane(dataset))
    uid = fragment.removeprefix("series=")
    slices = []
    for path in sorted(Path(place).iterdir()):
        if path.is_file() and recognises(path, path.open("rb").read(132)):
            dataset = _read(path, pixels=True)
            if str(dataset.get("SeriesInstanceUID", "")) == uid:
                slices.append((dataset, path))
    if len(slices) < 2:
        raise RecordError("a series whose slices are gone", "the folder as ingested", "put them back")
    ordered, _ = _order(slices)
    to_world = _plane(ordered[0][0])
    assert to_world is not None
    to_world[:3, 2] = _normal(ordered[0][0]) * _gap(ordered)
    return Payload(np.stack([_pixels(d) for d, _ in ordered])[None], to_world=to_world)
