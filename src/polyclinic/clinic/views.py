"""Records as a person sees them: pictures with the mask beside them, patient's right on the viewer's left."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from typing import Any, Literal

import numpy as np

from ..harmonise.geometry import nearest_axes, spacing_of
from ..records.raster import luminance
from ..schema import Modality, Payload, Record
from .levels import levels_of, packed, shade, sixteen
from .reply import Axis, Edges, Levels, Slice, View

Pictures = Literal["png", "samples"]
"""Slices as PNG that anything can show, or as values in sixteen bits, of which a page makes pictures at any grey levels."""

COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2")
"""Told apart by people who see colours differently (Okabe and Ito 2008)."""
LARGEST_PX, FEW_SLICES, MOST_SLICES = 512, 64, 256
"""A stack of more than `FEW_SLICES` is sent at half the size, one of more than `MOST_SLICES` thinned: 17 million pixels at most."""
TILT_DEG = 15.0
SHEAR_DEG = 2.0
_OPPOSITE = str.maketrans("LRAPHF", "RLPAFH")


def colour(number: int) -> str:
    """Of label `number`, from 1."""
    return COLOURS[(number - 1) % len(COLOURS)]


@dataclass(frozen=True)
class Stack:
    """Slices to look at, and where they come from.

    Args:
        values: (n y x), of a volume with patient's left on the right and head last; in the file's own units.
        mask: (n y x) labels, or None.
        levels: what its grey values mean, and which of them are black and white.
        pixel_mm: (height, width) of a sample; None where the file has no scale.
        step_mm: from slice to slice.
        edges: the letters; None where the file does not say.
        notes: what to know before looking.
        colours: (y x 3) of a single image that is in colours.
        image: whether it is an image, and no volume.
        turned: which axis of the source each of x, y, z is, and whether it runs on; None where the source is shown as it lies.
    """

    values: np.ndarray
    mask: np.ndarray | None
    levels: Levels
    pixel_mm: tuple[float, float] | None
    step_mm: float | None = None
    edges: Edges | None = None
    notes: tuple[str, ...] = ()
    colours: np.ndarray | None = None
    image: bool = False
    turned: tuple[tuple[int, int, int], tuple[int, int, int]] | None = None

    def with_mask(self, mask: np.ndarray) -> Stack:
        """The same slices with labels, given on the source's grid."""
        lain = mask.reshape(self.values.shape) if self.turned is None else _turn(mask, *self.turned)
        return replace(self, mask=lain)

    @property
    def axes(self) -> list[Axis]:
        """Of each of the source's own axes, x, y and z, along which of the pictures' it lies; an image has no use for the third."""
        sizes, names = self.values.shape[::-1], ("column", "row", "slice")
        order, sign = self.turned or ((0, 1, 2), (1, 1, 1))
        return [Axis(along=names[w], samples=sizes[w], reversed=sign[w] < 0) for w in map(order.index, range(3))]

    @cached_property
    def fullest(self) -> int:
        """The slice with most of the mask; the middle one without."""
        if self.mask is None or not (self.mask > 0).any():
            return len(self.values) // 2
        return int((self.mask > 0).sum(axis=(1, 2)).argmax())

    @cached_property
    def chosen(self) -> np.ndarray:
        """Which slices are shown: all where they are not too many, always the fullest."""
        count = len(self.values)
        if count <= MOST_SLICES:
            return np.arange(count)
        return np.unique(np.append(np.linspace(0, count - 1, MOST_SLICES).round().astype(int), self.fullest))

    @cached_property
    def size(self) -> tuple[int, int]:
        """(width, height) of the pictures: square pixels, no sample smaller than one, unless that is too large."""
        height_mm, width_mm = self.pixel_mm or (1.0, 1.0)
        side = min(height_mm, width_mm)
        height, width = self.values.shape[1] * height_mm / side, self.values.shape[2] * width_mm / side
        largest = LARGEST_PX if len(self.values) <= FEW_SLICES else LARGEST_PX // 2
        shrink = min(1.0, largest / max(height, width))
        return max(1, round(width * shrink)), max(1, round(height * shrink))

    @property
    def step(self) -> float | None:
        """Pixels of the pictures from one slice to the next, as the patient is built; as many as a sample is wide where that is unknown."""
        if self.image:
            return None
        wide = self.values.shape[2] / self.size[0] * (self.pixel_mm[1] if self.pixel_mm else 1.0)
        return (self.step_mm or 1.0) / wide

    def samples(self, at: int) -> np.ndarray:
        """(height width) float32: the values of a slice as its picture has them, one channel."""
        from PIL import Image

        return np.asarray(
            Image.fromarray(self.values[at].astype(np.float32)).resize(self.size, Image.Resampling.BILINEAR)
        )

    def picture(self, at: int) -> Any:
        """The picture of a slice: grey, at the first of its windows, or in its colours."""
        from PIL import Image

        window = self.levels.presets[0]
        if self.colours is None:
            return Image.fromarray(_eight(shade(self.samples(at), window)))
        return Image.fromarray(_eight(shade(self.colours, window))).resize(self.size, Image.Resampling.BILINEAR)

    def labels(self, at: int) -> Any | None:
        """The picture of a slice's labels; None where there are none."""
        from PIL import Image

        if self.mask is None or not self.mask[at].any():
            return None
        plane = np.ascontiguousarray(self.mask[at].astype(np.uint8))
        return Image.fromarray(plane).resize(self.size, Image.Resampling.NEAREST)


def stack_of(record: Record, payload: Payload, mask: np.ndarray | None = None) -> Stack:
    """A record's slices.

    Args:
        record: an image or a volume.
        payload: its source array (c z y x) or (c y x).
        mask: labels on the source's grid.
    """
    return (_volume if record.modality is Modality.VOLUME else _image)(record, payload, mask)


def view_of(stack: Stack, record: Record, file: str, caution: str = "", pictures: Pictures = "png") -> View:
    """The slices as pictures that a page can show.

    Args:
        stack: of the record.
        record: an image or a volume.
        file: what to call it.
        caution: what the answer does not cover.
        pictures: how the slices are told.
    """
    mm, (width, height) = stack.pixel_mm, stack.size
    notes = stack.notes
    if len(stack.chosen) < len(stack.values):
        notes = (*notes, f"{len(stack.chosen)} of the {len(stack.values)} slices are shown.")
    if stack.size[0] * stack.size[1] < stack.values.shape[1] * stack.values.shape[2]:
        notes = (*notes, "The pictures are smaller than the file's.")
    return View(
        file=file,
        title=record.kind or record.modality.value,
        modality=record.modality.value,
        slices=[_slice(stack, int(n), pictures) for n in stack.chosen],
        start=int(np.searchsorted(stack.chosen, stack.fullest)),
        of=len(stack.values),
        width=width,
        height=height,
        columns=stack.values.shape[2],
        rows=stack.values.shape[1],
        step=stack.step,
        levels=stack.levels if stack.colours is None else None,
        edges=stack.edges,
        pixel_mm=mm and stack.values.shape[2] * mm[1] / width,
        scale=_scale(stack),
        note=" ".join(notes),
        caution=caution,
    )


def overlay_of(stack: Stack) -> str:
    """PNG, base64: the slice with most of the mask, in colour on the picture."""
    from PIL import Image

    rgb = np.asarray(stack.picture(stack.fullest).convert("RGB")).astype(np.float32)
    drawn = stack.labels(stack.fullest)
    labels = np.zeros(rgb.shape[:2], np.uint8) if drawn is None else np.asarray(drawn)
    for number in np.unique(labels[labels > 0]):
        tint = np.array([int(colour(int(number))[i : i + 2], 16) for i in (1, 3, 5)], np.float32)
        rgb[labels == number] = 0.5 * rgb[labels == number] + 0.5 * tint
    return _png(Image.fromarray(rgb.round().astype(np.uint8)))


def _volume(record: Record, payload: Payload, mask: np.ndarray | None) -> Stack:
    """Axial slices: x towards patient's left, y towards the back, slices from feet to head."""
    array = payload.array[0]
    levels, notes = levels_of(record, array), tuple[str, ...]()
    if len(payload.array) > 1:
        notes = (f"The first of {len(payload.array)} volumes in the file is shown.",)
    if payload.to_world is None:
        return Stack(array, mask, levels, None, notes=notes)
    order, sign = nearest_axes(payload.to_world)
    own = spacing_of(payload.to_world)
    cosines = np.abs(payload.to_world[:3, :3] / own)
    if min(cosines[world, axis] for world, axis in enumerate(order)) < np.cos(np.deg2rad(TILT_DEG)):
        notes = (*notes, "The slices are oblique: the letters name the nearest direction.")
    if _shear_deg(payload.to_world[:3, :3] / own) > SHEAR_DEG:
        notes = (*notes, "The slices lie askew, as of a tilted gantry: planes across them are sheared.")
    return Stack(
        _turn(array, order, sign),
        None if mask is None else _turn(mask, order, sign),
        levels,
        (float(own[order[1]]), float(own[order[0]])),
        float(own[order[2]]),
        Edges(left="R", right="L", top="A", bottom="P") if record.attributes.get("oriented", True) else None,
        notes,
        turned=(order, sign),
    )


def _turn(array: np.ndarray, order: tuple[int, int, int], sign: tuple[int, int, int]) -> np.ndarray:
    """(z y x) of the source's axes → (S P L)."""
    turned = array.transpose(2 - order[2], 2 - order[1], 2 - order[0])
    return turned[:: sign[2], :: sign[1], :: sign[0]]


def _image(record: Record, payload: Payload, mask: np.ndarray | None) -> Stack:
    """An image as one slice, as the file shows it."""
    array, to_world = luminance(payload.array), payload.to_world
    colours = np.moveaxis(payload.array, 0, 2) if len(payload.array) == 3 else None
    own = spacing_of(to_world) if to_world is not None else None
    labels = None if mask is None else mask.reshape(1, *array.shape)
    pixel = (float(own[1]), float(own[0])) if own is not None else None
    levels = levels_of(record, array if colours is None else colours)
    return Stack(array[None], labels, levels, pixel, edges=_edges(record, to_world), colours=colours, image=True)


def _edges(record: Record, to_world: np.ndarray | None) -> Edges | None:
    """The letters of a single image, where its file gives directions.

    Source: DICOM PS3.3 C.7.6.1.1.1 (Patient Orientation: of the rows, then of the columns) and C.7.6.2 (image plane).
    """
    said = str(record.attributes.get("orientation") or "")
    if re.fullmatch(r"[LRAPHF]+\\[LRAPHF]+", said):
        right, bottom = said.split("\\")
    elif to_world is not None and not np.array_equal(to_world, np.diag(np.diag(to_world))):
        right, bottom = (_letter(to_world[:3, axis]) for axis in (0, 1))
    else:  # a scale alone says nothing of how the patient lay
        return None
    return Edges(left=right.translate(_OPPOSITE), right=right, top=bottom.translate(_OPPOSITE), bottom=bottom)


def _letter(direction: np.ndarray) -> str:
    """The letter of the nearest axis; LPS."""
    axis = int(np.abs(direction).argmax())
    return ("LR", "PA", "HF")[axis][int(direction[axis] < 0)]


def unread(payload: Payload, spacing_mm: Sequence[float], size: Sequence[int]) -> str:
    """That a volume reaches beyond the standard grid about its centre, where it does: nothing outside was seen by the model.

    Args:
        payload: the source's.
        spacing_mm, size: the standard grid's (z y x).
    """
    if payload.to_world is None:
        return ""
    order, _ = nearest_axes(payload.to_world)
    extent = np.array(payload.array.shape[:0:-1]) * spacing_of(payload.to_world)
    has = [float(extent[axis]) for axis in order]
    seen = [n * mm for n, mm in zip(size[::-1], spacing_mm[::-1], strict=True)]
    if all(h <= s + m for h, s, m in zip(has, seen, spacing_mm[::-1], strict=True)):
        return ""
    words = [
        " × ".join(f"{min(a, b):.0f}" for a, b in zip(has, seen, strict=True)),
        " × ".join(f"{h:.0f}" for h in has),
    ]
    return (
        f"The model read only the middle {words[0]} mm of these {words[1]} mm "
        "(left to right × front to back × feet to head): what lies outside was not looked at."
    )


def _shear_deg(axes: np.ndarray) -> float:
    """By how much the axes (columns, of length 1) are off the right angle, at most."""
    off = np.abs(axes.T @ axes - np.eye(3)).max()
    return float(np.rad2deg(np.arcsin(min(off, 1.0))))


def _scale(stack: Stack) -> str:
    if stack.pixel_mm is None:
        return "the file has no scale"
    height, width = stack.pixel_mm
    apart = "" if stack.step_mm is None else f", slices {stack.step_mm:.2f} mm apart"
    return f"{width:.2f} × {height:.2f} mm a sample{apart}"


def labels_of(stack: Stack) -> list[str | None]:
    """PNG, base64: of each slice that is shown its labels, None where there are none."""
    drawn = (stack.labels(int(n)) for n in stack.chosen)
    return [None if labels is None else _png(labels) for labels in drawn]


def _slice(stack: Stack, at: int, pictures: Pictures) -> Slice:
    labels = stack.labels(at)
    grey = pictures == "samples" and stack.colours is None
    return Slice(
        image=None if grey else _png(stack.picture(at)),
        samples=packed(sixteen(stack.samples(at), stack.levels)) if grey else None,
        mask=None if labels is None else _png(labels),
        place=at + 1,
    )


def _eight(bright: np.ndarray) -> np.ndarray:
    return (np.nan_to_num(bright) * 255).round().astype(np.uint8)


def _png(image: Any) -> str:
    out = BytesIO()
    image.save(out, "PNG", compress_level=2)  # half the time of the default, a tenth more bytes
    return base64.b64encode(out.getvalue()).decode()
