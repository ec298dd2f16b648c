"""Images: grey or in colours, letterboxed to a square, standardised; a nominal scale by kind where the file has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..records.raster import luminance
from ..schema import Payload, Record
from .fingerprint import Fingerprint
from .geometry import GridError, apply, finite, plan, spacing_of
from .resampling import resample_labels

NOMINAL_MM = {"chest": 350.0, "": 200.0}
"""The longest side of an image without a scale, by a word of its kind."""


class ImageStandard(BaseModel):
    """A square of `size` pixels, about zero mean and unit variance.

    Args:
        size: pixels of a side.
        channels: 1 for luminance, 3 for red, green and blue, those of a grey image alike.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["image"] = "image"
    size: int = Field(default=128, ge=8)
    channels: Literal[1, 3] = 1


def nominal_side_mm(record: Record) -> float:
    """The longest side that an image of this kind is taken to have."""
    return next(mm for word, mm in NOMINAL_MM.items() if word in record.kind.lower())


def harmonise(payload: Payload, record: Record, standard: ImageStandard, fingerprint: Fingerprint) -> Payload:
    """(c size size) float32; robust range (1st to 99th percentile), then zero mean and unit variance.

    Of the image and of all its channels at once: light and gain, which differ from camera to camera, go; hue, which is how the
    channels differ, stays. Each channel by itself, or by the training images', would take the colour out of a retina
    that is redder than most.
    """
    rows, columns = payload.array.shape[1:]
    nominal = payload.to_world is None
    to_world = (
        payload.to_world
        if payload.to_world is not None
        else np.diag([nominal_side_mm(record) / max(rows, columns)] * 2 + [1.0, 1.0])
    )
    shown = finite(payload.array)
    if standard.channels == 1 or len(shown) != 3:
        shown = luminance(shown)[None]
    low, high = np.percentile(shown, [1, 99])
    shown = np.clip((shown - low) / max(float(high - low), 1e-6), 0, 1)
    inside = (shown - shown.mean()) / max(float(shown.std()), 1e-3)
    own = spacing_of(to_world)
    side = max(rows * own[1], columns * own[0]) / standard.size
    to_source = plan(
        (1, rows, columns), to_world, (own[2], side, side), (1, standard.size, standard.size), reorient=False
    )
    square = apply(
        Payload(inside[:, None], to_world),
        to_source,
        (1, standard.size, standard.size),
        "letterbox",
        fill=float(inside.min()),
    )
    step = replace(square.history[-1], shape=(rows, columns))
    array = square.array[:, 0]
    return Payload(np.repeat(array, standard.channels // len(array), axis=0), square.to_world, (step,), nominal)


def harmonise_mask(payload: Payload, image: Payload, standard: ImageStandard) -> np.ndarray:
    """A mask (1 y x) of the image's source, on the image's standard grid: (size size) int64.

    Raises:
        GridError: it has another aspect than the image: it is not of this picture.
    """
    step = image.history[-1]
    labels = payload.array[0]
    scale_of(labels.shape, step.shape)
    if labels.shape != step.shape:  # the same picture at another resolution
        rows = np.arange(step.shape[0]) * labels.shape[0] // step.shape[0]
        columns = np.arange(step.shape[1]) * labels.shape[1] // step.shape[1]
        labels = labels[rows][:, columns]
    to_source = np.array(step.parameters["to_source"], float)
    return resample_labels(np.rint(labels)[None], to_source, (1, standard.size, standard.size))[0]


def onto_drawn(shape: Sequence[int], image: Payload) -> np.ndarray:
    """4x4 index (x y z 1) of an image's standard grid → index of a picture (y x) of the same, at any resolution.

    Raises:
        GridError: it has another aspect.
    """
    step = image.history[-1]
    tall, wide = scale_of(shape, step.shape)
    onto = np.diag([wide, tall, 1.0, 1.0])
    onto[:2, 3] = (wide - 1) / 2, (tall - 1) / 2  # an index is a pixel's centre
    return onto @ np.array(step.parameters["to_source"], float)


def scale_of(shape: Sequence[int], image: Sequence[int]) -> tuple[float, float]:
    """How many times as tall and as wide (y x) as its image something is that was drawn on it.

    Raises:
        GridError: it has another aspect than the image: it is not of this picture.
    """
    tall, wide = shape[0] / image[0], shape[1] / image[1]
    if abs(tall / wide - 1) > 0.02:
        raise GridError(
            f"a mask of {shape[0]} × {shape[1]} on an image of {image[0]} × {image[1]}",
            "the same aspect", "give the mask that was drawn on this image",
        )  # fmt: skip
    return tall, wide
