"""Annotations of pictures (COCO and LabelMe JSON, Pascal VOC XML): what was drawn stays, and names its pictures by their new names.

A file is written anew from a table of its keys: numbers stay, names of files are mapped as the files' own are, ids get other ids,
labels and captions go by the rules for notes, dates move with the person of the picture. Whatever is in no table goes: who drew it,
licences, addresses on the web, a picture embedded in the file.

Source: cocodataset.org/#format-data; LabelMe 5; the PASCAL VOC 2012 development kit, 4.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

from .. import annotation as reader
from ..polygons import run_lengths
from ..source import RecordError, parse_time
from .cleaning import Cleaning
from .keyed import moved_time
from .known import Known
from .naming import pictured

_FILE_BYTES = 1 << 20
Write = Callable[[Any, str, "_Drawn"], Any]
_NOTHING = object()
"""What a key has that cannot stay."""


class _Drawn(Cleaning):
    """Cleans one file of annotations; each `Write` gives a value anew, or `_NOTHING`."""

    __slots__ = ()

    def image(self, path: str) -> str:
        """The new name of the picture: below a folder its place too, of a place on somebody's machine the name alone."""
        parts = re.split(r"[\\/]", path)
        if len(parts) > 1 and (not parts[0] or ":" in parts[0]):
            parts = parts[-1:]
        folders = [part if part in (".", "..") else self.namer.word(part) for part in parts[:-1] if part]
        return "/".join([*folders, self.namer.file(parts[-1])])

    def seen(self, file: str) -> str:
        """Whose a picture is: as its own file has it, where that is here."""
        name = PurePosixPath(file.replace("\\", "/")).name
        return self.known.files.get(name.casefold()) or pictured(name)


def _number(value: Any, place: str, at: _Drawn) -> Any:
    return value if isinstance(value, int | float) else _NOTHING


def _numbers(value: Any, place: str, at: _Drawn) -> Any:
    """Numbers, in lists of lists if need be."""
    if isinstance(value, list):
        return value if all(_numbers(v, place, at) is not _NOTHING for v in value) else _NOTHING
    return _number(value, place, at)


def _outline(value: Any, place: str, at: _Drawn) -> Any:
    """Polygons, or runs; those in letters have to be as many as the picture has pixels, or they are words."""
    if not isinstance(value, dict):
        return _numbers(value, place, at)
    counts, size = value.get("counts"), value.get("size")
    if _numbers(size, place, at) is _NOTHING or not isinstance(size, list) or len(size) != 2:
        return _NOTHING
    if isinstance(counts, str):
        try:
            whole = sum(run_lengths(counts)) == size[0] * size[1]
        except RecordError:
            whole = False
        return {"size": size, "counts": counts} if whole else _NOTHING
    return {"size": size, "counts": counts} if _numbers(counts, place, at) is not _NOTHING else _NOTHING


def _words(value: Any, place: str, at: _Drawn) -> Any:
    if value is None:
        return None
    if isinstance(value, list):
        return [_words(v, place, at) for v in value]
    return at.words(value, place) if isinstance(value, str) else _NOTHING


def _id(value: Any, place: str, at: _Drawn) -> Any:
    """Another id, the same in every file: of a number a number, which every JSON holds exactly."""
    if isinstance(value, str):
        return at.key.pseudonym(value)
    return at.key.number("identifier", str(value)) % 10**15 if isinstance(value, int) else _NOTHING


def _group(value: Any, place: str, at: _Drawn) -> Any:
    return value if value is None or (isinstance(value, int) and abs(value) < 10_000) else _NOTHING


def _category(value: Any, place: str, at: _Drawn) -> Any:
    """A small number says what was drawn, in COCO's own list too; a larger one is an id like others."""
    small = _group(value, place, at)
    return _id(value, place, at) if small is _NOTHING else small


def _file(value: Any, place: str, at: _Drawn) -> Any:
    return at.image(value) if isinstance(value, str) else _NOTHING


def _date(value: Any, place: str, at: _Drawn) -> Any:
    moment = parse_time(value) if isinstance(value, str) else None
    if moment is None or at.options.dates == "remove":
        return _NOTHING
    return moved_time(moment, at.days).strftime("%Y-%m-%d %H:%M:%S")


def _one_of(pattern: str) -> Write:
    return lambda value, place, at: value if isinstance(value, str) and re.fullmatch(pattern, value) else _NOTHING


_IMAGE: dict[str, Write] = {"id": _id, "file_name": _file, "width": _number, "height": _number, "date_captured": _date}
_COCO: dict[str, dict[str, Write]] = {
    "images": _IMAGE,
    "categories": {"id": _category, "name": _words, "supercategory": _words, "keypoints": _words, "skeleton": _numbers, "isthing": _number},
    "annotations": {
        "id": _id, "image_id": _id, "category_id": _category, "bbox": _numbers, "segmentation": _outline, "area": _number,
        "iscrowd": _number, "keypoints": _numbers, "num_keypoints": _number, "score": _number, "caption": _words,
    },
}  # fmt: skip
_SHAPE: dict[str, Write] = {
    "label": _words, "points": _numbers, "group_id": _group, "description": _words,
    "shape_type": _one_of(r"polygon|rectangle|circle|point|line|linestrip|points|mask"),
}  # fmt: skip
_LABELME: dict[str, Write] = {
    "version": _one_of(r"\d{1,2}(\.\d{1,3}){1,2}"), "imagePath": _file, "imageHeight": _number, "imageWidth": _number
}  # fmt: skip
_VOC: dict[str, Write] = {
    "filename": _file, "path": _file, "folder": lambda value, place, at: at.namer.word(value), "name": _words,
    "pose": _one_of(r"Unspecified|Frontal|Rear|Left|Right"),
    **dict.fromkeys(
        ("width", "height", "depth", "segmented", "truncated", "difficult", "occluded", "xmin", "ymin", "xmax", "ymax", "x", "y"),
        _one_of(r"\s*[-+]?\d{1,7}(\.\d{1,9})?\s*"),
    ),
}  # fmt: skip
_HOLDS = frozenset({"annotation", "size", "object", "bndbox", "part", "polygon", "point"})
"""Elements of VOC that hold others."""


def survey(path: Path, place: str, known: Known) -> str:
    """Whose they are: of one picture, its person's; a file of COCO's has many."""
    with path.open("rb") as file:
        head = file.read(_FILE_BYTES)
    for _ in reader.read(path, path.parents[place.count("/")]):
        pass  # what it is not, it says now
    return "" if b'"images"' in head and b'"shapes"' not in head else pictured(place)


def deidentify(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Write the annotations anew.

    Raises:
        RecordError: they are none.
    """
    at = _Drawn.of(cleaning)
    if path.suffix.lower() == ".xml":
        from defusedxml.ElementTree import parse

        root = parse(path).getroot()
        if root is None:
            raise RecordError("XML without an element", "<annotation>", "export it again")
        _element(root, at)
        ElementTree.ElementTree(root).write(to, encoding="utf-8")
        return
    data = json.loads(path.read_bytes())
    if "shapes" in data:
        new = _kept(data, _LABELME, "", at)
        new |= {"flags": {}, "shapes": [_kept(s, _SHAPE, f"shape {n}", at) for n, s in enumerate(data["shapes"])]}
        new["imageData"] = None
    else:
        new = _coco(data, at)
    to.write_text(json.dumps(new, ensure_ascii=False), encoding="utf-8")


def _coco(data: Mapping[str, Any], at: _Drawn) -> dict[str, Any]:
    """Each item is the person's of its picture: known names are theirs, and dates move with theirs."""
    people = {
        str(i.get("id")): at.seen(str(i.get("file_name", ""))) for i in data.get("images", ()) if isinstance(i, dict)
    }
    new: dict[str, Any] = {}
    for part, table in _COCO.items():
        new[part] = []
        for number, item in enumerate(data.get(part, ())):
            at.who = (
                people.get(str(item.get("id" if part == "images" else "image_id")), "") if part != "categories" else ""
            )
            new[part].append(_kept(item, table, f"{part} {number}", at))
    if left := sorted(set(data) - set(_COCO)):
        at.did(f"{len(left)} parts (info, licences)", "X")
    return new


def _kept(item: Any, table: Mapping[str, Write], place: str, at: _Drawn) -> dict[str, Any]:
    """The keys of a table, each anew."""
    new, dropped = {}, 0
    for key, value in item.items() if isinstance(item, dict) else ():
        write = table.get(key)
        written = write(value, f"{place} {key}".strip(), at) if write else _NOTHING
        if written is _NOTHING:
            dropped += key != "shapes"
        else:
            new[key] = written
    if dropped:
        at.did(f"{place} {dropped} keys".strip(), "X")
    return new


def _element(element: Any, at: _Drawn) -> None:
    """An element's own, its attributes and what is between its children are left out."""
    element.attrib.clear()
    element.tail = None
    if element.tag in _HOLDS:
        element.text = None
    for child in list(element):
        write = _VOC.get(child.tag)
        text = (child.text or "").strip()
        written = write(text, child.tag, at) if write and not len(child) else _NOTHING
        if child.tag in _HOLDS:
            _element(child, at)
        elif written is _NOTHING:
            element.remove(child)
            at.did("an element", "X")
        else:
            child.attrib.clear()
            child.text, child.tail = written, None
