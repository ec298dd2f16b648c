"""What people drew on images: COCO JSON, Pascal VOC XML, LabelMe JSON. Boxes, masks and keypoints are a record each, a kind an image.

A record names its image by `stem`, as a mask's file does, and is never a model's input. Boxes are (n 4) x, y of the first and x, y
of the last corner in pixels, pixel (0, 0) reaching from 0 to 1; keypoints (n k 3) x, y and COCO's visibility (0 not labelled, 1
hidden, 2 seen); a mask is (1 y x), its number k being the k-th of its names.

Formats: cocodataset.org/#format-data; the PASCAL VOC 2012 development kit, 4 (corners are pixels, counted from 1, the last one
included); LabelMe 5.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..schema import MissingExtraError, Modality, Payload, Record, Rejected
from . import polygons
from .naming import without_mask
from .source import RecordError, check_size, content_id, part_number, place_id, place_of, split_uri

KINDS = ("boxes", "mask", "keypoints")
LARGEST = 128 * 2**20
"""JSON takes twenty times its size in memory, at worst."""
_SIGNS = (
    (b'"images"', b'"file_name"'), (b'"annotations"', b'"category_id"'), (b'"categories"', b'"supercategory"'),
    (b'"shapes"', b'"version"'), (b'"shapes"', b'"imagePath"'),
)  # fmt: skip


@dataclass(slots=True)
class Shape:
    """One drawn thing: its label, and of box (4,), polygons or runs, keypoints (k 3), what there is."""

    label: str
    box: np.ndarray | None = None
    outlines: list[np.ndarray] = field(default_factory=list)
    runs: list[int] | str | None = None
    points: np.ndarray | None = None


@dataclass(slots=True)
class Drawn:
    """An image and what was drawn on it.

    Args:
        file: its name.
        shape: y, x.
        shapes: the drawn things.
    """

    file: str
    shape: tuple[int, int]
    shapes: list[Shape] = field(default_factory=list)


@dataclass(slots=True)
class Drawings:
    """A file of annotations.

    Args:
        images: in the file's order.
        labels: every label, in the order of their numbers; a mask's numbers are the same in all images.
        parts: names of the keypoints.
        wrong: number of the item → why it was left out.
    """

    images: list[Drawn]
    labels: list[str]
    parts: tuple[str, ...] = ()
    wrong: dict[int, RecordError] = field(default_factory=dict)


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is JSON as COCO's or LabelMe's, or XML as Pascal VOC's."""
    if path.suffix.lower() == ".xml":
        return b"<annotation" in head
    return path.suffix.lower() == ".json" and any(all(sign in head for sign in pair) for pair in _SIGNS)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise RecordError("a coordinate that is no number", "numbers", "draw it again")
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise RecordError("a coordinate that is no number", "numbers", "draw it again") from error
    if not math.isfinite(number) or abs(number) > 1e7:
        raise RecordError("a coordinate that is not finite", "numbers", "draw it again")
    return number


def _points(values: Any, width: int) -> np.ndarray:
    """(n width) from a flat list."""
    if not isinstance(values, list) or not values or len(values) % width:
        raise RecordError("a list of points that is none", f"{width} numbers a point", "draw it again")
    return np.array([_number(v) for v in values]).reshape(-1, width)


def _box(corners: list[float], shape: tuple[int, int]) -> np.ndarray:
    """x, y, x, y within the image.

    Raises:
        RecordError: it has no size, or lies outside.
    """
    left, top, right, bottom = corners
    if right <= left or bottom <= top:
        raise RecordError("a box without a size", "positive width and height", "draw it again")
    box = np.array([max(left, 0), max(top, 0), min(right, shape[1]), min(bottom, shape[0])], dtype=np.float32)
    if box[2] <= box[0] or box[3] <= box[1]:
        raise RecordError("a box outside its image", "one that meets it", "check which image it belongs to")
    return box


def _size(rows: Any, columns: Any) -> tuple[int, int]:
    shape = (int(_number(rows)), int(_number(columns)))
    check_size(shape, 4)
    return shape


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [v if isinstance(v, dict) else {} for v in value] if isinstance(value, list) else []


def _coco(data: dict[str, Any]) -> Drawings:
    kinds = sorted(_dicts(data.get("categories")), key=lambda c: (str(type(c.get("id"))), c.get("id") or 0))
    names = {c.get("id"): str(c.get("name", "")) for c in kinds}
    parts = next((c["keypoints"] for c in kinds if isinstance(c.get("keypoints"), list)), [])
    found = Drawings([], list(dict.fromkeys(names.values())), tuple(map(str, parts)))
    by_id: dict[Any, Drawn] = {}
    for image in _dicts(data.get("images")):
        if not isinstance(image.get("file_name"), str) or not isinstance(image.get("id"), int | str):
            raise RecordError("an image without a name or an id", "file_name and id", "export it again")
        by_id[image["id"]] = Drawn(image["file_name"], _size(image.get("height"), image.get("width")))
    for number, item in enumerate(_dicts(data.get("annotations"))):
        try:
            image = by_id.get(item.get("image_id")) if isinstance(item.get("image_id"), int | str) else None
            label = names.get(item.get("category_id")) if isinstance(item.get("category_id"), int | str) else None
            if image is None or label is None:
                raise RecordError("an annotation of an image or a category that is not listed", "one that is", "add it")
            image.shapes.append(_coco_shape(item, label, image.shape, len(parts)))
        except RecordError as reason:
            found.wrong[number] = reason
    found.images = list(by_id.values())
    return found


def _coco_shape(item: dict[str, Any], label: str, shape: tuple[int, int], parts: int) -> Shape:
    drawn = Shape(label)
    if item.get("bbox"):
        (x, y, width, height), *more = _points(item["bbox"], 4)
        if more:
            raise RecordError("a box of more than four numbers", "x, y, width, height", "draw it again")
        drawn.box = _box([x, y, x + width, y + height], shape)
    outline = item.get("segmentation")
    if isinstance(outline, dict):
        if outline.get("size") != list(shape):
            raise RecordError("a run-length code of another size than its image", f"{list(shape)}", "export it again")
        counts = outline.get("counts")
        counts = polygons.run_lengths(counts) if isinstance(counts, str) else [int(_number(c)) for c in counts or []]
        drawn.runs = item["segmentation"]["counts"]
        if sum(counts) != shape[0] * shape[1] or min(counts) < 0:
            raise RecordError(
                "runs that are not as long as the image", f"{shape[0] * shape[1]} pixels", "export it again"
            )
    elif outline:
        drawn.outlines = [_points(ring, 2) for ring in outline]
    if item.get("keypoints"):
        drawn.points = _points(item["keypoints"], 3)
        if parts and len(drawn.points) != parts:
            raise RecordError(f"{len(drawn.points)} keypoints", f"{parts}, as the category names", "draw it again")
    return drawn


def _labelme(data: dict[str, Any]) -> Drawings:
    if not isinstance(data.get("imagePath"), str):
        raise RecordError("drawings of no image", "imagePath", "export it again")
    image = Drawn(data["imagePath"], _size(data.get("imageHeight"), data.get("imageWidth")))
    found = Drawings([image], [])
    places: list[np.ndarray] = []
    for number, item in enumerate(_dicts(data.get("shapes"))):
        try:
            label, kind = str(item.get("label", "")), item.get("shape_type") or "polygon"
            rings = item.get("points")
            points = _points(
                [v for p in rings for v in p]
                if isinstance(rings, list) and all(isinstance(p, list) for p in rings)
                else None,
                2,
            )
            if kind == "rectangle" and len(points) in (2, 4):
                image.shapes.append(Shape(label, _box([*points.min(0), *points.max(0)], image.shape)))
            elif kind == "circle" and len(points) == 2:
                turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
                radius = np.hypot(*(points[1] - points[0]))
                image.shapes.append(
                    Shape(label, outlines=[points[0] + radius * np.stack([np.cos(turn), np.sin(turn)], 1)])
                )
            elif kind == "polygon" and len(points) > 2:
                image.shapes.append(Shape(label, outlines=[points]))
            elif kind == "point":
                places.append(np.array([*points[0], 2.0]))
                found.parts += (label,)
                continue
            else:
                raise RecordError(
                    "a shape that is none of polygon, rectangle, circle, point", "one of them", "draw it again"
                )
            found.labels = list(dict.fromkeys([*found.labels, label]))
        except RecordError as reason:
            found.wrong[number] = reason
    if places:
        image.shapes.append(Shape("", points=np.stack(places)))
    found.labels.sort()
    return found


def _voc(path: Path) -> Drawings:
    try:
        from defusedxml import DefusedXmlException
        from defusedxml.ElementTree import ParseError, parse
    except ImportError as error:
        raise MissingExtraError("defusedxml", "ehr") from error
    try:
        tree = parse(path).getroot()
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise RecordError(
            f"XML that does not parse ({type(error).__name__})", "a Pascal VOC annotation", "export it again"
        ) from error
    said = lambda of, name: (of.findtext(name) or "").strip()
    name = said(tree, "filename") if tree is not None and tree.tag == "annotation" else ""
    if tree is None or not name:
        raise RecordError("XML that annotates no image", "<annotation> with <filename>", "export it again")
    image = Drawn(name, _size(said(tree, "size/height"), said(tree, "size/width")))
    found = Drawings([image], [])
    for number, item in enumerate(tree.iterfind("object")):
        try:
            left, top, right, bottom = (_number(said(item, f"bndbox/{n}")) for n in ("xmin", "ymin", "xmax", "ymax"))
            image.shapes.append(Shape(said(item, "name"), _box([left - 1, top - 1, right, bottom], image.shape)))
            found.labels = sorted({*found.labels, said(item, "name")})
        except RecordError as reason:
            found.wrong[number] = reason
    return found


@lru_cache(maxsize=2)
def _drawings(path: Path, changed: int) -> Drawings:
    """What a file holds; kept, because records of one file are loaded one after the other."""
    if path.stat().st_size > LARGEST:
        raise RecordError(f"annotations of over {LARGEST >> 20} MiB", "less", "split the file")
    if path.suffix.lower() == ".xml":
        return _voc(path)
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RecordError("JSON that does not parse", "a whole file of annotations", "export it again") from error
    if not isinstance(data, dict):
        raise RecordError("JSON that is neither COCO's nor LabelMe's", "one of them", "export it again")
    return _labelme(data) if "shapes" in data else _coco(data)


def _has(shape: Shape, kind: str) -> bool:
    match kind:
        case "boxes":
            return shape.box is not None
        case "mask":
            return bool(shape.outlines) or shape.runs is not None
        case _:
            return shape.points is not None


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """For each image a record of its boxes, its mask and its keypoints, `#item=7`; an item that is none is set aside by its number.

    An image on which nothing was drawn, in a file that draws on others, is known to have nothing: its record says 0.
    """
    source, place, found = content_id(path), place_of(path, root), _drawings(path, path.stat().st_mtime_ns)
    for number, reason in found.wrong.items():
        yield Rejected(place, f"{reason.found} (item {number})", reason.expected, reason.remedy)
    drawn = [kind for kind in KINDS if any(_has(s, kind) for image in found.images for s in image.shapes)]
    if not drawn and not found.wrong:
        raise RecordError("annotations without a shape", "boxes, outlines or keypoints", "check what was exported")
    for number, image in enumerate(found.images):
        stem = without_mask(PurePosixPath(image.file.replace("\\", "/")).name.rsplit(".", 1)[0])
        for kind in drawn:
            item = f"item={number * len(KINDS) + KINDS.index(kind)}"
            yield Record(
                id=place_id(source, item),
                patient=stem or "unknown",
                time=None,
                modality=Modality.IMAGE,
                kind=f"{kind.upper()} image",
                uri=f"{place}#{item}",
                attributes={
                    "mask": True, "annotation": kind, "stem": stem, "image_file": image.file, "anonymous": True,
                    "rows": image.shape[0], "columns": image.shape[1], "shapes": sum(_has(s, kind) for s in image.shapes),
                    "labels": ", ".join(found.parts if kind == "keypoints" else found.labels),
                },
            )  # fmt: skip


def load(record: Record) -> Payload:
    """Boxes (n 4) with their labels, keypoints (n k 3) with their parts' names, or the mask (1 y x) with the names of its numbers.

    Where masks overlap, the one that was drawn later lies on top.

    Raises:
        RecordError: the item is gone.
    """
    path, item = Path(split_uri(record.uri)[0]), part_number(record.uri, "item") or 0
    found, (number, kind) = _drawings(path, path.stat().st_mtime_ns), divmod(item, len(KINDS))
    if number >= len(found.images):
        raise RecordError(f"no item {item} in {path.name}", "the file as ingested", "ingest it again")
    image = found.images[number]
    shapes = [s for s in image.shapes if _has(s, KINDS[kind])]
    if KINDS[kind] == "boxes":
        boxes = [s.box for s in shapes if s.box is not None]
        return Payload(np.array(boxes, dtype=np.float32).reshape(-1, 4), names=tuple(s.label for s in shapes))
    if KINDS[kind] == "keypoints":
        points = [s.points for s in shapes if s.points is not None]
        parts = found.parts or tuple(str(i) for i in range(max(map(len, points), default=0)))
        return Payload(np.array(points, dtype=np.float32).reshape(len(points), -1, 3), names=parts)
    mask = np.zeros(image.shape, dtype=np.float32)
    for shape in shapes:
        mask[_filled(shape, image.shape)] = found.labels.index(shape.label) + 1
    return Payload(mask[None], names=tuple(found.labels))


def _filled(shape: Shape, size: tuple[int, int]) -> np.ndarray:
    """(y x) bool: any of the outlines, or the runs."""
    if shape.runs is not None:
        counts = polygons.run_lengths(shape.runs) if isinstance(shape.runs, str) else shape.runs
        return polygons.runs(counts, size)
    out = np.zeros(size, dtype=bool)
    for outline in shape.outlines:
        out |= polygons.polygon(outline, size)
    return out
