"""Images: grey, letterboxed to a square, standardised; a nominal scale by kind where the file has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..schema import Payload, Record
from .fingerprint import Fingerprint
from .geometry import GridError, apply, finite, plan, spacing_of
from .resampling import resample_labels

NOMINAL_MM = {"chest": 350.0, "": 200.0}
"""The longest side of an image without a scale, by a word of its kind."""


class ImageStandard(BaseModel):
    """A square of `size` pixels, about zero mean and unit variance."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["image"] = "image"
    size: int = Field(default=128, ge=8)


def nominal_side_mm(record: Record) -> float:
    """The longest side that an image of this kind is taken to have."""
    return next(mm for word, mm in NOMINAL_MM.items() if word in record.kind.lower())


def harmonise(payload: Payload, record: Record, standard: ImageStandard, fingerprint: Fingerprint) -> Payload:
    """(1 size size) float32; robust range (1st to 99th percentile), then zero mean and unit variance."""
    rows, columns = payload.array.shape[1:]
    nominal = payload.to_world is None
    to_world = (
        payload.to_world
        if payload.to_world is not None
        else np.diag([nominal_side_mm(record) / max(rows, columns)] * 2 + [1.0, 1.0])
    )
    grey = finite(payload.array).mean(axis=0, keepdims=True)
    low, high = np.percentile(grey, [1, 99])
    grey = np.clip((grey - low) / max(float(high - low), 1e-6), 0, 1)
    inside = (grey - grey.mean()) / max(float(grey.std()), 1e-3)
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
    return Payload(square.array[:, 0], square.to_world, (step,), nominal)


def harmonise_mask(payload: Payload, image: Payload, standard: ImageStandard) -> np.ndarray:
    """A mask (1 y x) of the image's source, on the image's standard grid: (size size) int64.

    Raises:
        GridError: it has another aspect than the image: it is not of this picture.
    """
    step = image.history[-1]
    labels = payload.array[0]
    if labels.shape != step.shape:  # the same picture at another resolution
        tall, wide = labels.shape[0] / step.shape[0], labels.shape[1] / step.shape[1]
        if abs(tall / wide - 1) > 0.02:
            raise GridError(
                f"a mask of {labels.shape[0]} × {labels.shape[1]} on an image of {step.shape[0]} × {step.shape[1]}",
                "the same aspect", "give the mask that was drawn on this image",
            )  # fmt: skip
        rows = np.arange(step.shape[0]) * labels.shape[0] // step.shape[0]
        columns = np.arange(step.shape[1]) * labels.shape[1] // step.shape[1]
        labels = labels[rows][:, columns]
    to_source = np.array(step.parameters["to_source"], float)
    return resample_labels(np.rint(labels)[None], to_source, (1, standard.size, standard.size))[0]
