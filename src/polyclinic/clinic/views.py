"""Records as a person sees them: pictures with the mask beside them, patient's right on the viewer's left."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from ..harmonise.geometry import nearest_axes, spacing_of
from ..schema import Modality, Payload, Record
from .reply import Edges, Slice, View

COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2")
"""Told apart by people who see colours differently (Okabe and Ito 2008)."""
LARGEST_PX, MOST_SLICES = 512, 64
CT_WINDOW = (-160.0, 240.0)
"""Soft tissue, HU."""


def colour(number: int) -> str:
    """Of label `number`, from 1."""
    return COLOURS[(number - 1) % len(COLOURS)]


@dataclass(frozen=True, slots=True)
class Stack:
    """Slices to look at: (n y x) with patient's left on the right and head last, and where they come from.

    Args:
        grey: (n y x) uint8.
        mask: (n y x) labels, or None.
        pixel_mm: (height, width) of a pixel; None where the file has no scale.
        edges: the letters; None where the file does not say.
        oblique: the slices are tilted by more than 15°.
    """

    grey: np.ndarray
    mask: np.ndarray | None
    pixel_mm: tuple[float, float] | None
    edges: Edges | None
    oblique: bool


def view_of(record: Record, payload: Payload, mask: np.ndarray | None = None) -> View | None:
    """The record as pictures; None for what is not a picture.

    Args:
        record: an image or a volume.
        payload: its source array (c z y x) or (c y x).
        mask: labels on the source's grid.
    """
    if record.modality not in (Modality.IMAGE, Modality.VOLUME):
        return None
    stack = lps(payload, mask, record.kind) if record.modality is Modality.VOLUME else flat(payload, mask)
    chosen, start = pick(stack)
    mm = stack.pixel_mm
    return View(
        title=record.kind or record.modality.value,
        modality=record.modality.value,
        slices=[_slice(stack, int(n)) for n in chosen],
        start=start,
        of=len(stack.grey),
        edges=stack.edges,
        scale=f"{mm[1]:.2f} × {mm[0]:.2f} mm a pixel" if mm else "the file has no scale",
        note="The slices are oblique: the letters name the nearest direction." if stack.oblique else "",
    )


def overlay_of(record: Record, payload: Payload, mask: np.ndarray) -> str:
    """PNG, base64: the slice with most of the mask, in colour on grey."""
    from PIL import Image

    stack = lps(payload, mask, record.kind) if record.modality is Modality.VOLUME else flat(payload, mask)
    at = _fullest(stack)
    grey, labels = (
        np.asarray(_sized(plane, stack, nearest))
        for plane, nearest in ((stack.grey[at], False), (_labels(stack, at), True))
    )
    rgb = np.repeat(grey[..., None].astype(np.float32), 3, axis=2)
    for number in np.unique(labels[labels > 0]):
        tint = np.array([int(colour(int(number))[i : i + 2], 16) for i in (1, 3, 5)], np.float32)
        rgb[labels == number] = 0.5 * rgb[labels == number] + 0.5 * tint
    return _png(Image.fromarray(rgb.round().astype(np.uint8)))


def lps(payload: Payload, mask: np.ndarray | None, kind: str) -> Stack:
    """A volume as axial slices: x towards patient's left, y towards the back, slices from feet to head."""
    array = payload.array[0]
    grey = greyscale(array, CT_WINDOW if kind.startswith("CT") else None)
    if payload.to_world is None:
        return Stack(grey, mask, None, None, False)
    order, sign = nearest_axes(payload.to_world)
    turn = lambda a: _turn(a, order, sign)
    own = spacing_of(payload.to_world)
    cosines = np.abs(payload.to_world[:3, :3] / own)
    tilted = min(cosines[world, axis] for world, axis in enumerate(order)) < np.cos(np.deg2rad(15))
    edges = Edges(left="R", right="L", top="A", bottom="P")
    return Stack(
        turn(grey),
        None if mask is None else turn(mask),
        (float(own[order[1]]), float(own[order[0]])),
        edges,
        bool(tilted),
    )


def _turn(array: np.ndarray, order: tuple[int, int, int], sign: tuple[int, int, int]) -> np.ndarray:
    """(z y x) of the source's axes → (S P L)."""
    turned = array.transpose(2 - order[2], 2 - order[1], 2 - order[0])
    return turned[:: sign[2], :: sign[1], :: sign[0]]


def flat(payload: Payload, mask: np.ndarray | None) -> Stack:
    """An image as one slice, as the file shows it; letters only where it says how the patient lay."""
    array = payload.array[0]
    own = spacing_of(payload.to_world) if payload.to_world is not None else None
    pixel = (float(own[1]), float(own[0])) if own is not None else None
    labels = None if mask is None else mask.reshape(1, *array.shape)
    return Stack(greyscale(array)[None], labels, pixel, None, False)


def greyscale(array: np.ndarray, window: tuple[float, float] | None = None) -> np.ndarray:
    """uint8 by a window, or by the 0.5th and 99.5th percentile."""
    finite = np.nan_to_num(array.astype(np.float32))
    low, high = window or np.percentile(finite, [0.5, 99.5])
    return (np.clip((finite - low) / max(float(high - low), 1e-6), 0, 1) * 255).round().astype(np.uint8)


def pick(stack: Stack) -> tuple[np.ndarray, int]:
    """Which slices to send, and which of them to show first: all where they are few, always the one with most mask."""
    count, best = len(stack.grey), _fullest(stack)
    chosen = (
        np.arange(count)
        if count <= MOST_SLICES
        else np.unique(np.append(np.linspace(0, count - 1, MOST_SLICES).round().astype(int), best))
    )
    return chosen, int(np.searchsorted(chosen, best))


def _fullest(stack: Stack) -> int:
    if stack.mask is None or not (stack.mask > 0).any():
        return len(stack.grey) // 2
    return int((stack.mask > 0).sum(axis=(1, 2)).argmax())


def _labels(stack: Stack, at: int) -> np.ndarray:
    assert stack.mask is not None
    return stack.mask[at].astype(np.uint8)


def _slice(stack: Stack, at: int) -> Slice:
    labels = None if stack.mask is None else _png(_sized(_labels(stack, at), stack, nearest=True))
    return Slice(image=_png(_sized(stack.grey[at], stack)), mask=labels, place=at + 1)


def _sized(plane: np.ndarray, stack: Stack, nearest: bool = False) -> Any:
    """The plane with square pixels and at most `LARGEST_PX` a side."""
    from PIL import Image

    height_mm, width_mm = stack.pixel_mm or (1.0, 1.0)
    side = min(height_mm, width_mm)
    height, width = plane.shape[0] * height_mm / side, plane.shape[1] * width_mm / side
    shrink = min(1.0, LARGEST_PX / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    made = Image.fromarray(np.ascontiguousarray(plane))
    if size == made.size:
        return made
    return made.resize(size, Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR)


def _png(image: Any) -> str:
    out = BytesIO()
    image.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()
