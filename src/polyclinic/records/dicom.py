"""DICOM files (`pydicom`): what kind of object each is, single frames as images, a series of slices as one volume.

Slices are put together by geometry, not by file name. The other `dicom_` modules read the objects that their names say;
`dicom_header` and `dicom_pixels` have what all of them need.
Source: DICOM PS3.3 C.7.6.2 (image plane).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from ..schema import Modality, Payload, Record, Rejected
from . import (
    dicom_annotations,
    dicom_concatenation,
    dicom_contours,
    dicom_document,
    dicom_multiframe,
    dicom_nuclear,
    dicom_pages,
    dicom_pixels,
    dicom_report,
    dicom_rt,
    dicom_segmentation,
    dicom_slide,
    dicom_waveform,
    stack,
)
from .dicom_elements import Elements, elements
from .dicom_header import (
    HEAD,
    MEASURED,
    beginning,
    first,
    frames,
    glimpse,
    opened,
    plane_of,
    record_of,
    silent,
    spacing_of,
    text,
    windows_of,
)
from .packed import MOST_ITEMS
from .raster import MAGIC, luminance
from .source import RecordError, check_size, content_id, part_number, place_id, place_of, split_uri

_NOT_IMAGES = {"SEG", "SR", "RTSTRUCT", "RTDOSE", "RTPLAN", "PR", "KO", "ECG", "SM", "DOC", "REG", "M3D"}
_ENHANCED = {
    f"1.2.840.10008.5.1.4.1.1.{number}"
    for number in ("2.1", "2.2", "4.1", "4.3", "4.4", "128.1", "130", "7.1", "7.2", "7.3", "7.4")
}
"""Enhanced CT, MR and PET, their legacy conversions, and multi-frame captures (PS3.4 B.5): several frames, even where it is one."""
T = TypeVar("T")
_DECODED: set[Any] = set()
_MOST_DECODED = 1024
"""How pixels were described that did decode, for so many descriptions."""

_OBJECTS = (
    dicom_waveform, dicom_segmentation, dicom_report, dicom_rt, dicom_contours, dicom_document, dicom_annotations, dicom_nuclear,
    dicom_multiframe,
)  # fmt: skip
"""Readers of what is no single frame; each knows its own by the header."""


def recognises(path: Path, head: bytes) -> bool:
    """Whether it has the DICM marker, or is named .dcm and is no plain picture."""
    return head[128:132] == b"DICM" or (path.suffix.lower() in {".dcm", ".dicom"} and not head.startswith(MAGIC))


def _template(dataset: Any) -> str:
    """What a structured report is, by its title and its template (PS3.16)."""
    title, template = (first(dataset, k) for k in ("ConceptNameCodeSequence", "ContentTemplateSequence"))
    said = [text(title, "CodeMeaning"), f"TID {number}" if (number := text(template, "TemplateIdentifier")) else ""]
    return f" ({', '.join(filter(None, said))})" if any(said) else ""


def _check(dataset: Any) -> None:
    modality = text(dataset, "Modality")
    page = modality == "DOC" and text(dataset, "SOPClassUID") in dicom_pages.CAPTURES
    if modality in _NOT_IMAGES and not page:
        raise RecordError(
            f"a DICOM object of modality {modality}{_template(dataset)}", "an image of CR, DX, CT, MR, US, XA, MG …", "leave it out"
        )  # fmt: skip
    dicom_pixels.check(dataset)


def series_of(path: Path, head: bytes) -> str | None:
    """The SeriesInstanceUID of a CT, MR or PET slice that belongs into a volume, or of a slide's level, or the ConcatenationUID of a
    part of an object; None for anything else.

    Args:
        path: the file.
        head: its first `HEAD` bytes.
    """
    if dicom_slide.marked(head):
        return silent(dicom_slide.series_of)(path)
    return _asked(beginning(head), lambda: glimpse(path), _read_together_as)


def _read_together_as(dataset: Any) -> str | None:
    if uid := dicom_concatenation.uid_of(dataset):
        return uid
    alone = (
        text(dataset, "Modality") in MEASURED and frames(dataset) == 1 and text(dataset, "SOPClassUID") not in _ENHANCED
    )
    return _series(dataset) if alone else None


def _asked(found: Elements | None, opens: Callable[[], Any], question: Callable[[Any], T]) -> T:
    """The answer of a header's elements; of a file that is not plain, or with which anything is wrong, that of pydicom's dataset."""
    if found is not None:
        with suppress(Exception):
            return question(found)
    return silent(lambda: question(opens()))()


def _series(dataset: Any) -> str | None:
    """Its UID; what was de-identified may have lost it, and is then one series a folder."""
    return text(dataset, "SeriesInstanceUID") or ("unnamed" if dataset.get("ImagePositionPatient") else None)


def _slice(path: Path) -> tuple[stack.Slice, str]:
    """A slice whose pixels are all there, and its content's id: a truncated file shows itself now and not in training.

    Raises:
        RecordError: why it is none.
    """
    data = _bytes(path)
    one = _asked(elements(data), lambda: opened(path, pixels=True), lambda dataset: _whole(dataset, path))
    return one, content_id(data or path)


def _bytes(path: Path) -> bytes:
    """A file of a slice's size; nothing of one that is larger, which is looked at before it is read, or cannot be read."""
    try:
        return path.read_bytes() if path.stat().st_size < 8 * MOST_ITEMS else b""
    except OSError:
        return b""


def _whole(dataset: Any, path: Path) -> stack.Slice:
    if _reader(dataset):
        raise RecordError("an object that is no slice in a series of slices", "slices", "export it apart")
    _check(dataset)
    dicom_pixels.check_frames(dataset)
    return _placed(dataset, path)


def _undecoded(runs: Iterable[Sequence[stack.Slice]]) -> dict[Path, RecordError]:
    """Slices whose pixels do not decode; the first, middle and last of each run speak for it, and if one is broken all are tried.

    Of slices that are not packed and are described alike, one speaks for all, whatever their series.

    Raises:
        RecordError: none decodes.
    """
    every = [s.path for run in runs for s in run]
    for path in dict.fromkeys(run[number].path for run in runs for number in (0, len(run) // 2, -1)):
        how = _described(elements(_bytes(path)))
        if how is not None and how in _DECODED:
            continue
        if _fault(path):
            break
        if how is not None:
            if len(_DECODED) >= _MOST_DECODED:
                _DECODED.clear()
            _DECODED.add(how)
    else:
        return {}
    faults = {path: fault for path in every if (fault := _fault(path))}
    if len(faults) == len(every):
        first = faults[every[0]]
        raise RecordError(f"a series of which no slice decodes: {first.found}", first.expected, first.remedy)
    return faults


def _fault(path: Path) -> RecordError | None:
    """Why the pixels of a slice do not decode; None where they do."""
    try:
        _decode(path)
    except RecordError as error:
        return error
    return None


@silent
def _decode(path: Path) -> None:
    dicom_pixels.image(opened(path, pixels=True))


def _described(found: Elements | None) -> Any:
    """All that says how pixels of any values decode (PS3.3 C.7.6.3, C.11); None where they are packed, or it cannot be told."""
    try:
        if found is None or found.file_meta is None or found.file_meta.TransferSyntaxUID.is_encapsulated:
            return None
        return found.file_meta.TransferSyntaxUID, found.Modality, len(found.PixelData), found.group(0x0028)
    except (AttributeError, LookupError):
        return None


def _reader(dataset: Any) -> ModuleType | None:
    return next((reader for reader in _OBJECTS if reader.mine(dataset)), None)


@silent
def _read(path: Path, root: Path) -> list[Record | Rejected]:
    dataset = opened(path, pixels=True)
    if uid := dicom_concatenation.uid_of(dataset):
        return list(dicom_concatenation.read((path,), series_uri(path, uid, root), root, _reader))
    if reader := _reader(dataset):
        return list(reader.read(dataset, path, root))
    _check(dataset)
    seen, record = dicom_pixels.image(dataset), record_of(dataset, path, root)
    _plane(dataset)
    return [replace(record, attributes={**record.attributes, "channels": len(seen)})]


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One image a file; of an object with several stacks, segments or groups of channels, a record each."""
    yield from dicom_slide.read((path,), root) if dicom_slide.mine(path) else _read(path, root)


def read_series(paths: Sequence[Path], root: Path) -> Iterator[Record | Rejected]:
    """The slices of one series in one folder as one volume; the parts of an object that was split as that object.

    Slices are ordered along the normal (PS3.3 C.7.6.2.1.1), not by file name. Those that are broken, repeat a place, or have
    another orientation or size than most, are set aside. Where slices are missing, each unbroken run of two or more is a volume
    of its own (`#series=UID&run=2`; no slice is made up) and it is told where the gap is. Slices askew or several images at each
    place refuse the series; of a tilted gantry `tilt_deg` tells, and `to_world` is sheared.
    """
    if dicom_slide.mine(paths[0]):
        yield from dicom_slide.read(paths, root)
        return
    if uid := _split(paths[0]):
        yield from silent(dicom_concatenation.read)(paths, series_uri(paths[0], uid, root), root, _reader)
        return
    slices: list[stack.Slice] = []
    ids: dict[Path, str] = {}
    for path in paths:
        try:
            one, ids[path] = _slice(path)
            slices.append(one)
        except RecordError as error:
            yield Rejected(place_of(path, root), error.found, error.expected, error.remedy)
    found = stack.runs(slices) if len(slices) > 1 else None
    if found and (faults := _undecoded(found[0])):
        yield from (Rejected(place_of(p, root), e.found, e.expected, e.remedy) for p, e in faults.items())
        slices = [s for s in slices if s.path not in faults]
        found = stack.runs(slices) if len(slices) > 1 else None
    if len(slices) == 1:
        yield from read(slices[0].path, root)
    if found is None:
        return
    runs, aside, gap = found
    yield from (Rejected(place_of(s.path, root), e.found, e.expected, e.remedy) for s, e in aside)
    for number, run in enumerate(runs, start=1):
        record = _volume(run, ids, root)
        more = {"run": number, "runs": len(runs)} if len(runs) > 1 else {}
        uri = record.uri + (f"&run={number}" if more else "")
        try:
            check_size((len(run), *run[0].shape), 4)
        except RecordError as error:
            yield Rejected(uri, error.found, error.expected, error.remedy)
            continue
        if gap and number == 1:
            yield Rejected(record.uri, gap.found, gap.expected, f"{gap.remedy}; its unbroken runs are taken")
        yield replace(record, uri=uri, attributes={**record.attributes, **more})


@silent
def _split(path: Path) -> str | None:
    """The UID of the concatenation that a file is a part of."""
    with path.open("rb") as file:
        return _asked(beginning(file.read(HEAD)), lambda: glimpse(path), dicom_concatenation.uid_of)


def _volume(slices: Sequence[stack.Slice], ids: Mapping[Path, str], root: Path) -> Record:
    """The record of slices that lie side by side."""
    series, middle = _series_record(slices[0].path, root), slices[len(slices) // 2].path
    step, tilt = float(np.linalg.norm(stack.step(slices))), stack.tilt_deg(slices)
    return replace(
        series,
        id=place_id("+".join(ids[s.path] for s in slices), "series"),
        modality=Modality.VOLUME,
        attributes={**series.attributes, "slices": len(slices), "spacing_z_mm": step, "grid": stack.grid(slices)}
        | ({"tilt_deg": tilt} if tilt else {})
        | _header(middle, windows_of),  # of MR each slice has its own: the outer ones see least of the patient
    )


def _series_record(path: Path, root: Path) -> Record:
    """What the first slice says of its series."""
    name = None if path.parent == root else path.parent.name
    record = lambda header: replace(
        record_of(header, path, root, name), uri=series_uri(path, str(_series(header)), root)
    )
    return _header(path, record)


def _header(path: Path, question: Callable[[Any], T]) -> T:
    """The answer of a slice's header."""
    return _asked(elements(_bytes(path)), lambda: opened(path, pixels=False), question)


def series_uri(path: Path, uid: str, root: Path) -> str:
    """Where a series lies: the folder of its slices and its UID."""
    return f"{place_of(path.parent, root)}#series={uid}"


def _placed(dataset: Any, path: Path) -> stack.Slice:
    spacing = spacing_of(dataset)
    plane = plane_of(dataset)
    if spacing is None or plane is None:
        raise RecordError(
            "a slice without spacing, position or orientation", "(0028,0030), (0020,0032) and (0020,0037)", "export it again"
        )  # fmt: skip
    return stack.Slice(path, (int(dataset.Rows), int(dataset.Columns)), spacing, *plane)


def _plane(dataset: Any) -> np.ndarray | None:
    """4x4 (x y z 1) → mm of one plane, PS3.3 equation C.7.6.2.1-1; None where the file has no scale."""
    spacing, plane = spacing_of(dataset), plane_of(dataset)
    if spacing is None:
        return None
    if plane is None:
        return np.diag([spacing[1], spacing[0], 1.0, 1.0])
    return stack.plane(spacing, *plane)


@silent
def load(record: Record) -> Payload:
    """array (c y x), c 3 of an image in colours, or, for a series, (1 z y x) float32; to_world (x y z 1) → mm in LPS.

    Other objects as their readers say.
    """
    place, fragment = split_uri(record.uri)
    if record.modality is Modality.SLIDE and not record.attributes.get("mask"):
        return dicom_slide.load(record)
    if not fragment.startswith("series="):
        dataset = opened(Path(place), pixels=True)
        if reader := _reader(dataset):
            return reader.load(dataset, record)
        _check(dataset)
        return Payload(dicom_pixels.image(dataset), to_world=_plane(dataset))
    uid = fragment.removeprefix("series=").partition("&")[0]
    paths = _of_series(Path(place), uid)
    if paths and _split(paths[0]):
        return dicom_concatenation.load(paths, record, _reader)
    slices: list[stack.Slice] = []
    pixels: dict[Path, np.ndarray] = {}
    for path in paths:
        try:
            dataset = opened(path, pixels=True)
            _check(dataset)
            pixels[path] = luminance(dicom_pixels.image(dataset))
            del dataset.PixelData
            slices.append(_placed(dataset, path))
        except (OSError, RecordError):
            continue  # what was set aside then is set aside now
        check_size((len(pixels), *slices[-1].shape), 4)  # each file is small; of them there may be any number
    runs = stack.runs(slices)[0] if len(slices) > 1 else []
    ordered = dict(enumerate(runs, start=1)).get(part_number(record.uri, "run") or 1, [])
    if len(ordered) != record.attributes["slices"]:
        raise RecordError(
            f"a series of {len(ordered)} slices that had {record.attributes['slices']}", "the folder as ingested", "ingest it again"
        )  # fmt: skip
    return Payload(np.stack([pixels.pop(s.path) for s in ordered])[None], to_world=stack.to_world(ordered))


def _of_series(folder: Path, uid: str) -> list[Path]:
    found = []
    for path in sorted(folder.iterdir()):
        try:
            with path.open("rb") as file:
                head = file.read(HEAD)
            if recognises(path, head) and series_of(path, head) == uid:
                found.append(path)
        except (OSError, RecordError):
            continue  # what was set aside then is set aside now
    return found
