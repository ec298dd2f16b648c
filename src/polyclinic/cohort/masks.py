"""Several masks of one image as one: structures lie side by side, and readers of one structure are asked for what most of them drew.

Which masks are of the same structure is told by their kind, and by what a file is called beyond its image's name
(`p12_liver_seg` of `p12`); what a name says of a reader (`p12_reader2_seg`) is no structure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np

from ..records.naming import case_words
from ..records.source import place_id
from ..schema import Payload, Record

UNION = "union"
"""The attribute of a mask that is made of several: [[number or null, [ids of its readers]], …] as JSON, a structure each."""
_READERS = {
    "reader",
    "rater",
    "annotator",
    "observer",
    "expert",
    "radiologist",
    "pathologist",
    "grader",
    "doctor",
    "session",
    "round",
}


def one_of(masks: Sequence[Record], image: Record | None, classes: Sequence[str] = ()) -> Record:
    """The mask of an image that has several: itself where there is one and it says nothing of a class, else a record that `united` makes.

    Args:
        masks: all of one image's, in any order.
        image: theirs, whose name theirs may begin with.
        classes: what the numbers 1, 2 … mean; a structure that is called as one of them takes its number.
    """
    order = sorted(masks, key=lambda r: (r.uri, r.id))
    structures: dict[str, list[Record]] = {}
    for mask in order:
        structures.setdefault(_structure(mask, image), []).append(mask)
    parts = [(_number(name, classes), [r.id for r in readers]) for name, readers in structures.items()]
    if len(order) == 1 and parts[0][0] in (None, 1):
        return order[0]
    parts.sort(key=lambda part: part[0] or 0)  # where structures overlap, the class that is named later lies on top
    said = json.dumps(parts)
    return replace(order[0], id=place_id(said, UNION), attributes={**order[0].attributes, UNION: said})


def _structure(mask: Record, image: Record | None) -> str:
    """What a mask is of, in the words of its kind and of its file's name."""
    if mask.attributes.get("annotation") or mask.attributes.get("segmentation"):
        return mask.kind  # it says what it is of itself; its file may be called anything
    words = [
        w for w in case_words(PurePosixPath(mask.uri).stem.split(".")[0]) if w.rstrip("0123456789") not in _READERS
    ]
    of_image = case_words(PurePosixPath(image.uri).stem.split(".")[0]) if image else []
    return " ".join([mask.kind, *(w for w in words if w not in of_image and not w.isdigit() and len(w) > 1)])


def _number(structure: str, classes: Sequence[str]) -> int | None:
    """The number of the one class that a structure's name has in it; None where it has none or several."""
    words = " ".join(re.findall(r"[a-z0-9]+", structure.lower()))
    plain = [" ".join(re.findall(r"[a-z0-9]+", name.lower())) for name in classes]
    found = [
        number for number, name in enumerate(plain, start=1) if name and re.search(rf"\b{re.escape(name)}\b", words)
    ]
    return found[0] if len(found) == 1 else None


def united(mask: Record, load: Callable[[Sequence[str]], list[Payload]]) -> Payload:
    """The mask that `one_of` made: on the grid of its first part, where of its readers' numbers the one that most drew counts, of
    as many the first reader's.

    Args:
        mask: with the attribute `UNION`.
        load: the masks of records, by their ids.
    """
    whole: Payload | None = None
    for number, ids in json.loads(str(mask.attributes[UNION])):
        payloads = load(ids)
        whole = whole or replace(payloads[0], array=np.zeros_like(payloads[0].array))
        labels = _most([_onto(p, whole) for p in payloads])
        labels = np.where(labels > 0, number, 0) if number is not None else labels
        whole.array[0] = np.where(labels > 0, labels, whole.array[0])
    assert whole is not None
    return whole


def _most(readers: Sequence[np.ndarray]) -> np.ndarray:
    """Of each voxel the number that most readers gave it; of several as frequent, the one that comes first among the readers."""
    if len(readers) == 1:
        return readers[0]
    best, votes = readers[0].copy(), np.zeros(readers[0].shape, np.int16)
    for one in readers:
        count = np.stack([one == other for other in readers]).sum(axis=0, dtype=np.int16)
        better = count > votes
        best[better], votes[better] = one[better], count[better]
    return best


def _onto(mask: Payload, other: Payload) -> np.ndarray:
    """The numbers (… y x) of a mask on another's grid: its own where that is the same, else of the nearest voxel, 0 outside."""
    labels, shape = mask.array[0], other.array.shape[1:]
    known = mask.to_world is not None and other.to_world is not None
    if labels.shape == shape and not (known and np.abs(mask.to_world - other.to_world).max() > 1e-3):  # type: ignore[operator]
        return labels
    if known:
        there = np.linalg.inv(mask.to_world) @ other.to_world  # type: ignore[arg-type, operator]
    else:  # two pictures of one thing: pixels are of another size
        scale = [a / b for a, b in zip(labels.shape[::-1], shape[::-1], strict=True)]
        there = np.eye(4)
        for axis, share in enumerate(scale):
            there[axis, axis], there[axis, 3] = share, (share - 1) / 2
    deep = labels.reshape(-1, *labels.shape[-2:])
    planes = 1 if len(shape) == 2 else shape[0]
    result = np.zeros((planes, *shape[-2:]), labels.dtype)
    rows, columns = np.indices(shape[-2:])
    for number in range(planes):  # a plane at a time: a volume's places take twenty times its memory
        at = [np.rint(m[0] * columns + m[1] * rows + m[2] * number + m[3]).astype(int) for m in there[:3]][::-1]
        inside = np.logical_and.reduce([(p >= 0) & (p < n) for p, n in zip(at, deep.shape, strict=True)])
        result[number][inside] = deep[tuple(p[inside] for p in at)]
    return result.reshape(shape)
