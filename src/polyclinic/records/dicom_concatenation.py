"""DICOM objects that were split into several files (a concatenation), put together as the one that they were.

Parts are found as the slices of a series are, in one folder, and each reader is handed the whole: what it says of it does not
depend on how it was split.
Source: DICOM PS3.3 C.7.6.16.2.2.4 (concatenations), PS3.5 8.1.1 and A.4 (pixels of one bit, packed pixels).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..schema import Payload, Record, Rejected
from . import dicom_pixels
from .dicom_header import frames, opened, text
from .source import RecordError, check_size, content_id, place_id, place_of, split_uri

MOST = 4096
"""Parts of one object."""
_ALIKE = (
    "SOPClassUID", "SeriesInstanceUID", "SOPInstanceUIDOfConcatenationSource", "InConcatenationTotalNumber", "Rows", "Columns",
    "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation", "PhotometricInterpretation", "PlanarConfiguration",
)  # fmt: skip
"""What parts of one object have in common: all but their frames (C.7.6.16.2.2.4)."""


def uid_of(dataset: Any) -> str | None:
    """The UID of the concatenation that an object is a part of, of one that lost it `unnamed.parts`; None of one that is whole."""
    total = dataset.get("InConcatenationTotalNumber")
    return None if total == 1 else text(dataset, "ConcatenationUID") or ("unnamed.parts" if total else None)


@dataclass(frozen=True, slots=True)
class _Part:
    """One of the files.

    Args:
        path: the file.
        dataset: its header and pixels.
        number: InConcatenationNumber, from 1.
    """

    path: Path
    dataset: Any
    number: int


def _part(path: Path) -> _Part:
    """A part whose frames are all there.

    Raises:
        RecordError: why it is none.
    """
    dataset = opened(path, pixels=True)
    number = int(dataset.get("InConcatenationNumber") or 0)
    if not 1 <= number <= MOST:
        raise RecordError(
            f"part {number} of a concatenation", f"a number from 1 to {MOST} (0020,9162)", "export it in one piece"
        )
    dicom_pixels.check(dataset)
    dicom_pixels.check_frames(dataset)
    return _Part(path, dataset, number)


def _parts(paths: Sequence[Path]) -> tuple[list[_Part], list[tuple[Path, RecordError]]]:
    """The parts in files, in their order and one a number, and what is none of them, with the reason.

    Raises:
        RecordError: they are more than fits into memory.
    """
    check_size((sum(path.stat().st_size for path in paths),), 1)
    found: dict[int, _Part] = {}
    aside: list[tuple[Path, RecordError]] = []
    for path in paths:
        try:
            one = _part(path)
        except RecordError as error:
            aside.append((path, error))
            continue
        if one.number in found:
            aside.append(
                (
                    path,
                    RecordError(f"part {one.number} of a concatenation once more", "one file a part", "leave it out"),
                )
            )
        else:
            found[one.number] = one
    return [found[number] for number in sorted(found)], aside


def _incomplete(parts: Sequence[_Part]) -> RecordError | None:
    """Which parts are missing; None where all are there.

    Where no part says how many there are (0020,9163), those that follow each other from the first are all.

    Args:
        parts: in the order of their numbers, one a number.
    """
    said = max((int(p.dataset.get("InConcatenationTotalNumber") or 0) for p in parts), default=0)
    have = {p.number for p in parts}
    every = range(1, min(max(said, *have, 2), MOST) + 1)
    if lacking := [str(number) for number in every if number not in have]:
        shown = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
        of = f" of {said}" if said else ""
        return RecordError(
            f"{len(have)}{of} parts of a concatenation: missing {shown}", "all of its parts in one folder",
            "send the missing parts too, or export it in one piece",
        )  # fmt: skip
    return None


def _joined(parts: Sequence[_Part]) -> Any:
    """The object that was split, as one dataset: that of the first part becomes it.

    Args:
        parts: all of them, in order.
    Raises:
        RecordError: they do not fit together.
    """
    from pydicom.sequence import Sequence as Items

    _check_alike(parts)
    count, pixels = sum(frames(p.dataset) for p in parts), _pixels(parts)
    each = [item for p in parts for item in p.dataset.get("PerFrameFunctionalGroupsSequence") or ()]
    whole = parts[0].dataset
    whole.NumberOfFrames, whole.PixelData = count, pixels
    whole["PixelData"].is_undefined_length = whole.file_meta.TransferSyntaxUID.is_encapsulated
    if each:
        whole.PerFrameFunctionalGroupsSequence = Items(each)
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):  # of the first part's frames
        if keyword in whole:
            del whole[keyword]
    whole.SOPInstanceUID = text(whole, "SOPInstanceUIDOfConcatenationSource") or text(whole, "ConcatenationUID")
    dicom_pixels.check(whole)
    return whole


def _check_alike(parts: Sequence[_Part]) -> None:
    first, before = parts[0].dataset, 0
    for p in parts:
        other = next((k for k in _ALIKE if p.dataset.get(k) != first.get(k)), None)
        if p.dataset.file_meta.TransferSyntaxUID != first.file_meta.TransferSyntaxUID:
            other = "TransferSyntaxUID"
        if other:
            raise RecordError(
                f"parts 1 and {p.number} of a concatenation with another {other}", "parts of one object", "export it in one piece"
            )  # fmt: skip
        begins = p.dataset.get("ConcatenationFrameOffsetNumber")
        if begins is not None and int(begins) != before:
            raise RecordError(
                f"part {p.number} of a concatenation that begins with frame {int(begins) + 1}, after {before} frames",
                "parts that follow each other (0020,9228)", "export it in one piece",
            )  # fmt: skip
        before += frames(p.dataset)


def _pixels(parts: Sequence[_Part]) -> bytes:
    """The frames one after the other."""
    from pydicom.encaps import encapsulate, generate_frames

    first = parts[0].dataset
    if first.file_meta.TransferSyntaxUID.is_encapsulated:
        packed = [f for p in parts for f in generate_frames(p.dataset.PixelData, number_of_frames=frames(p.dataset))]
        return encapsulate(packed, has_bot=False)
    if int(first.BitsAllocated) > 1:
        size = (
            int(first.Rows)
            * int(first.Columns)
            * int(first.get("SamplesPerPixel") or 1)
            * int(first.BitsAllocated)
            // 8
        )
        size = size * 2 // 3 if text(first, "PhotometricInterpretation") == "YBR_FULL_422" else size
        return b"".join(p.dataset.PixelData[: size * frames(p.dataset)] for p in parts)
    pixels = int(first.Rows) * int(first.Columns)  # frames of one bit a pixel do not begin at a byte
    bits = [
        np.unpackbits(np.frombuffer(p.dataset.PixelData, np.uint8), count=pixels * frames(p.dataset), bitorder="little")
        for p in parts
    ]
    return np.packbits(np.concatenate(bits), bitorder="little").tobytes()


ReaderOf = Callable[[Any], ModuleType | None]
"""What reads a dataset of several frames."""


def read(paths: Sequence[Path], place: str, root: Path, reader_of: ReaderOf) -> Iterator[Record | Rejected]:
    """The records of an object that was split; none where a part is missing.

    Args:
        paths: the files of one concatenation in one folder.
        place: where it lies, as its records' uri has it.
        root: the ingested folder.
        reader_of: what reads a dataset.
    """
    parts, aside = _parts(paths)
    yield from (Rejected(place_of(path, root), e.found, e.expected, e.remedy) for path, e in aside)
    if not parts:
        return
    if missing := _incomplete(parts):
        yield Rejected(place, missing.found, missing.expected, missing.remedy)
        return
    ids = "+".join(content_id(part.path) for part in parts)
    whole, reader = _whole(parts, reader_of)
    for item in reader.read(whole, parts[0].path, root):
        fragment = split_uri(item.uri)[1]
        uri = f"{place}&{fragment}" if fragment else place
        if isinstance(item, Rejected):
            yield replace(item, uri=uri)
            continue
        attributes = {**item.attributes, "parts": len(parts)}
        yield replace(item, uri=uri, id=place_id(ids, fragment or "parts"), attributes=attributes)


def load(paths: Sequence[Path], record: Record, reader_of: ReaderOf) -> Payload:
    """The payload of one of its records, as the reader of its kind has it."""
    parts, _ = _parts(paths)
    if missing := _incomplete(parts):
        raise missing
    if len(parts) != record.attributes["parts"]:
        raise RecordError(
            f"an object in {len(parts)} parts that had {record.attributes['parts']}", "the folder as ingested", "ingest it again"
        )  # fmt: skip
    whole, reader = _whole(parts, reader_of)
    return reader.load(whole, record)


def _whole(parts: Sequence[_Part], reader_of: ReaderOf) -> tuple[Any, ModuleType]:
    whole = _joined(parts)
    reader = reader_of(whole)
    if reader is None:
        raise RecordError("parts of an object of one frame", "an object of several frames", "leave it out")
    return whole, reader
