"""DICOM slides (`pydicom`): the instances of one series in a folder are the levels of one slide, read frame by frame.

Tiled full and tiled sparse, native and packed frames (JPEG, JPEG-LS, JPEG 2000, RLE), with an offset table, an extended one or
none, and the parts of a concatenation. Of several focal planes the middle one is read, of several optical paths the first;
`focal_planes` and `optical_paths` say how many there were. Labels, overviews and thumbnails are listed, and never an input: a
label shows whose slide it is.

Source: DICOM PS3.3 A.32.8, C.8.12.4 (whole slide image), C.7.6.17.3 (the order of tiled frames), C.8.12.2 (slide coordinates),
C.8.12.5 (optical paths).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Modality, Payload, Record, Rejected, Scalar
from .dicom_frames import Frames
from .dicom_header import first, frames, record_of, silent, text
from .dicom_header import opened as header_of
from .dicom_slide_header import Instance, instance, stain_of, to_world
from .pyramid import Level, Pyramid, attributes_of, grid, of_tiles, overview_of, scattered
from .source import RecordError, content_id, place_id, place_of, split_uri

_CLASS = b"\x02\x00\x02\x00UI\x1e\x001.2.840.10008.5.1.4.1.1.77.1.6"
"""(0002,0002) Media Storage SOP Class UID: VL Whole Slide Microscopy Image Storage."""


def mine(path: Path) -> bool:
    """Whether it is a whole slide image, by its file meta information: its gigabytes are not read for that."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return marked(file.read(1024))


def marked(head: bytes) -> bool:
    """Whether a file that begins so is one."""
    return head[128:132] == b"DICM" and _CLASS in head[:1024]


@dataclass(frozen=True, slots=True)
class _Matrix:
    """One level: an instance, or the parts of a concatenation in their order."""

    parts: tuple[Instance, ...]
    about: dict[str, Scalar] = field(default_factory=dict)

    @property
    def head(self) -> Instance:
        """The first part."""
        return self.parts[0]


def _matrices(instances: Sequence[Instance]) -> tuple[list[_Matrix], list[tuple[Instance, RecordError]]]:
    """The levels, the finest first, and the instances that are none, with the reason."""
    aside: list[tuple[Instance, RecordError]] = []
    groups: dict[str, list[Instance]] = {}
    seen: set[str] = set()
    for one in sorted(instances, key=lambda i: (_number(i), i.path.name)):
        uid = text(one.dataset, "SOPInstanceUID") or str(one.path)
        if uid in seen:
            aside.append(
                (one, RecordError("an instance that is there twice", "one file an instance", "leave one of them out"))
            )
            continue
        seen.add(uid)
        groups.setdefault(text(one.dataset, "ConcatenationUID") or uid, []).append(one)
    found: list[_Matrix] = []
    for parts in groups.values():
        try:
            found.append(_whole(parts))
        except RecordError as error:
            aside.extend((one, error) for one in parts)
    found.sort(key=lambda m: -m.head.size[0] * m.head.size[1])  # as sorted above where they are of one size
    kept: list[_Matrix] = []
    for one in found:
        if reason := _unlike(one, kept):
            aside.extend((part, reason) for part in one.parts)
        else:
            kept.append(one)
    return kept, aside


def _number(one: Instance) -> tuple[int, int]:
    return int(one.dataset.get("InConcatenationNumber") or 0), int(one.dataset.get("InstanceNumber") or 0)


def _whole(parts: Sequence[Instance]) -> _Matrix:
    """A concatenation with all its parts (PS3.3 C.7.6.16.2.2.4), or the one instance.

    Raises:
        RecordError: a part is missing.
    """
    start = 0
    total = int(parts[0].dataset.get("InConcatenationTotalNumber") or len(parts))
    for part in parts:
        begins = part.dataset.get("ConcatenationFrameOffsetNumber")
        if begins is not None and int(begins) != start:
            total = max(total, len(parts) + 1)
        start += frames(part.dataset)
    if total != len(parts) or len({(p.size, p.tile) for p in parts}) > 1:
        raise RecordError(f"{len(parts)} of {total} parts of a concatenation", "all of them", "export the whole series")
    return _Matrix(tuple(parts))


def _unlike(one: _Matrix, kept: Sequence[_Matrix]) -> RecordError | None:
    """Why it is no level of the slide that the others are; None where it is."""
    if not kept:
        return None
    finest = kept[0].head
    if any(other.head.size == one.head.size for other in kept):
        return RecordError(
            "a level of the size of another: a second optical path, focal plane or version", "one instance a level",
            "export it as a series of its own",
        )  # fmt: skip
    x, y = (a / b for a, b in zip(finest.size, one.head.size, strict=True))
    if abs(x - y) > 0.02 * x + max(x / one.head.size[0], y / one.head.size[1]):
        return RecordError(
            "a level of another aspect than the finest", "levels of one slide", "export it as a series of its own"
        )
    sort = lambda i: (int(i.dataset.get("SamplesPerPixel") or 1), int(i.dataset.BitsAllocated))
    if sort(finest) != sort(one.head):
        return RecordError(
            "a level of another depth or colour than the finest",
            "levels of one slide",
            "export it as a series of its own",
        )
    return None


def _tiles(matrix: _Matrix) -> tuple[Any, int, int]:
    """Which frames make up the level, as `grid` or `scattered` finds them; focal planes and optical paths that there are.

    Raises:
        RecordError: there are not as many frames as there are tiles, or one has no place.
    """
    head, count = matrix.head, sum(frames(part.dataset) for part in matrix.parts)
    across, down = (ceil(n / t) for n, t in zip(head.size, head.tile, strict=True))
    sparse = text(head.dataset, "DimensionOrganizationType") == "TILED_SPARSE"
    if not sparse:
        planes = int(head.dataset.get("TotalPixelMatrixFocalPlanes") or 1)
        paths = int(head.dataset.get("NumberOfOpticalPaths") or len(head.dataset.get("OpticalPathSequence") or ()) or 1)
        if count == across * down * planes * paths:
            # C.7.6.17.3: along a row, down the rows, then by focal plane, then by optical path.
            skipped = planes // 2 * across * down
            whole = grid(*head.size, head.tile)
            return (lambda *box: ((skipped + n, x, y) for n, x, y in whole(*box))), planes, paths
        if "PerFrameFunctionalGroupsSequence" not in head.dataset:
            raise RecordError(
                f"{count} frames for {across} × {down} tiles, {planes} focal planes, {paths} optical paths",
                "a frame each (PS3.3 C.7.6.17.3)", "send it again from the PACS",
            )  # fmt: skip
    return _sparse(matrix, count)


def _sparse(matrix: _Matrix, count: int) -> tuple[Any, int, int]:
    each = [item for part in matrix.parts for item in part.dataset.get("PerFrameFunctionalGroupsSequence") or ()]
    if len(each) != count:
        raise RecordError(
            f"{count} frames with functional groups for {len(each)}",
            "one item a frame (PS3.3 C.7.6.16)",
            "export it again",
        )
    rows: list[tuple[int, int, float, str]] = []
    for number, item in enumerate(each, start=1):
        place = first(item, "PlanePositionSlideSequence")
        column, row = (place.get(f"{axis}PositionInTotalImagePixelMatrix") for axis in ("Column", "Row"))
        if column is None or row is None:
            raise RecordError(
                f"frame {number} without a place", "Plane Position (Slide), PS3.3 C.8.12.6.1", "export it again"
            )
        path = text(first(item, "OpticalPathIdentificationSequence"), "OpticalPathIdentifier")
        rows.append((int(column) - 1, int(row) - 1, float(place.get("ZOffsetInSlideCoordinateSystem") or 0), path))
    heights, paths = sorted({z for _, _, z, _ in rows}), list(dict.fromkeys(path for *_, path in rows))
    path = matrix.head.path_id if matrix.head.path_id in paths else paths[0]
    middle = heights[len(heights) // 2]
    numbers = np.array([n for n, (_, _, z, p) in enumerate(rows) if z == middle and p == path], dtype=np.int64)
    corners = np.array([rows[n][:2] for n in numbers], dtype=np.int64).reshape(-1, 2)
    return scattered(numbers, corners, matrix.head.tile), len(heights), len(paths)


def _level(matrix: _Matrix, files: ExitStack, background: int, dtype: np.dtype) -> tuple[Level, dict[str, Scalar]]:
    held = [Frames(part.dataset, files.enter_context(part.path.open("rb"))) for part in matrix.parts]
    touching, planes, paths = _tiles(matrix)
    starts = np.cumsum([0, *(one.count for one in held)])

    def decode(number: int) -> np.ndarray:
        part = int(np.searchsorted(starts, number, side="right")) - 1
        return held[part].pixels(number - int(starts[part]))

    samples = int(matrix.head.dataset.get("SamplesPerPixel") or 1)
    level = of_tiles(*matrix.head.size, touching, decode, np.full(samples, background, dtype))
    return level, {"focal_planes": planes, "optical_paths": paths}


@contextmanager
def _open(matrices: Sequence[_Matrix]) -> Iterator[tuple[Pyramid, dict[str, Scalar]]]:
    head = matrices[0].head.dataset
    samples, bits = int(head.get("SamplesPerPixel") or 1), int(head.BitsAllocated)
    dtype = np.dtype(f"{'i' if head.get('PixelRepresentation') else 'u'}{bits // 8}")
    background = 255 if samples == 3 else 0
    with ExitStack() as files:
        made = [_level(one, files, background, dtype) for one in matrices]
        yield (
            Pyramid(tuple(level for level, _ in made), to_world(matrices[0].head), samples, dtype, background),
            made[0][1],
        )


def _found(paths: Sequence[Path]) -> tuple[list[Instance], list[tuple[Path, RecordError]]]:
    instances, broken = [], []
    for path in paths:
        try:
            instances.append(instance(path))
        except RecordError as error:
            broken.append((path, error))
    return instances, broken


def _levels(instances: Sequence[Instance]) -> tuple[list[_Matrix], list[tuple[Instance, RecordError]]]:
    kept, aside = _matrices([i for i in instances if i.role == "VOLUME"])
    if not kept and not aside:
        roles = ", ".join(sorted({i.role.lower() for i in instances}))
        raise RecordError(
            f"a slide's {roles or 'headers'} alone", "its levels (Image Type VOLUME)", "leave it out, or add the levels"
        )
    return kept, aside


@silent
def read(paths: Sequence[Path], root: Path) -> list[Record | Rejected]:
    """One record of the instances of a series: the levels of one slide. What is broken, or no level of it, is set aside.

    Args:
        paths: its files, of one folder.
        root: the ingested folder.
    """
    instances, broken = _found(paths)
    out: list[Record | Rejected] = [Rejected(place_of(p, root), e.found, e.expected, e.remedy) for p, e in broken]
    if not instances:
        return out
    matrices, aside = _levels(instances)
    out += [Rejected(place_of(i.path, root), e.found, e.expected, e.remedy) for i, e in aside]
    matrices = _decoding(matrices, out, root)
    if not matrices:
        return out
    with _open(matrices) as (slide, said):
        slide.overview()
        attributes = attributes_of(slide)
    return [*out, _record(matrices, instances, paths, root, attributes | said)]


def _record(
    matrices: Sequence[_Matrix],
    instances: Sequence[Instance],
    paths: Sequence[Path],
    root: Path,
    attributes: dict[str, Scalar],
) -> Record:
    head = matrices[0].head
    name = None if head.path.parent == root or len(paths) == 1 else head.path.parent.name
    record = record_of(head.dataset, head.path, root, name)
    files = [part.path for one in matrices for part in one.parts]
    stain, beside = stain_of(head.dataset), sorted({i.role.lower() for i in instances if i.role != "VOLUME"})
    anatomy = first(first(head.dataset, "SpecimenDescriptionSequence"), "PrimaryAnatomicStructureSequence")
    optics = first(head.dataset, "OpticalPathSequence")
    power = optics.get("ObjectiveLensPower")
    told = {
        "rows": attributes["height"],  # of the whole; the header's are a tile's
        "columns": attributes["width"],
        "magnification": float(power) if power else None,
        "vendor": text(head.dataset, "Manufacturer") or None,
        "stain": stain,
        "associated": " ".join(beside) or None,
        "anatomy": text(anatomy, "CodeMeaning").lower() or None,
    }
    whole = len(paths) == 1
    series = text(head.dataset, "SeriesInstanceUID")
    return replace(
        record,
        id=content_id(files[0]) if whole else place_id("+".join(content_id(p) for p in files), "slide"),
        modality=Modality.SLIDE,
        kind=" ".join(filter(None, ("SM slide", stain))),
        uri=record.uri if whole else f"{place_of(head.path.parent, root)}#series={series}",
        attributes={**record.attributes, **attributes, **told},
    )


def _decoding(matrices: Sequence[_Matrix], out: list[Record | Rejected], root: Path) -> list[_Matrix]:
    """The levels whose frames are all there; the others are set aside, and the slide goes on without them."""
    kept = []
    for one in matrices:
        try:
            with _open([one]):
                kept.append(one)
        except RecordError as e:
            out += [Rejected(place_of(part.path, root), e.found, e.expected, e.remedy) for part in one.parts]
    return kept


@contextmanager
def opened(path: Path, series: str = "") -> Iterator[Pyramid]:
    """A slide, open.

    Args:
        path: its file; or its folder, with
        series: its UID.
    Raises:
        RecordError: it does not open.
    """
    paths = [path]
    if series:
        paths = [p for p in sorted(path.iterdir()) if mine(p) and series_of(p) == series]
    instances, broken = _found(paths)
    if not instances:
        raise (
            broken[0][1] if broken else RecordError("a series of no slide", "the folder as ingested", "ingest it again")
        )
    aside: list[Record | Rejected] = []
    matrices = _decoding(_levels(instances)[0], aside, path if series else path.parent)
    if not matrices:
        reason = next(item for item in aside if isinstance(item, Rejected))
        raise RecordError(reason.found, reason.expected, reason.remedy)
    with _open(matrices) as (slide, _):
        yield slide


def series_of(path: Path) -> str | None:
    """The UID of the series that an instance is of; None where it says none."""
    return text(header_of(path, pixels=False), "SeriesInstanceUID") or None


@silent
def load(record: Record) -> Payload:
    """The overview, array (3 y x) or (1 y x) float32; to_world (x y z 1) → mm of the slide's coordinate system."""
    place, fragment = split_uri(record.uri)
    with opened(Path(place), fragment.removeprefix("series=")) as slide:
        return overview_of(slide, record.uri)
