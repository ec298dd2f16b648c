"""Volumes: axes nearest to LPS, one spacing, one size about the centre, standardised intensities."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..schema import Payload, Record
from .fingerprint import Fingerprint
from .geometry import GridError, apply, fills, finite, parallel, plan, resample_labels

HU_CENTRE, HU_WIDTH = 0.0, 500.0


class VolumeStandard(BaseModel):
    """A grid of `size` (z y x) voxels; spacing_mm (z y x), or None for the median of the training volumes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["volume"] = "volume"
    spacing_mm: tuple[float, float, float] | None = (1.0, 1.0, 1.0)
    size: tuple[int, int, int] = Field(default=(40, 56, 40))


def standardise(array: np.ndarray, hounsfield: bool) -> np.ndarray:
    """CT by its units: HU / 500, within ±2; anything else by its own voxels: zero mean, unit variance of what is not background."""
    array = finite(array)
    if hounsfield:
        return np.clip((array - HU_CENTRE) / HU_WIDTH, -2, 2)
    body = array[array > array.min()]
    body = body if body.size > 16 else array.reshape(-1)
    low, high = np.percentile(body, [0.5, 99.5])
    clipped = np.clip(array, low, high)
    body = np.clip(body, low, high)
    return (clipped - body.mean()) / max(float(body.std()), 1e-6)


def harmonise(payload: Payload, record: Record, standard: VolumeStandard, fingerprint: Fingerprint) -> Payload:
    """(1 z y x) float32 on the standard grid."""
    spacing = standard.spacing_mm or fingerprint.spacing_mm
    to_world = payload.to_world if payload.to_world is not None else np.diag([spacing[2], spacing[1], spacing[0], 1.0])
    ct = record.kind.startswith("CT") or (record.kind.startswith("volume") and fingerprint.hounsfield)
    source = Payload(standardise(payload.array[:1], ct), to_world, payload.history, payload.to_world is None)
    to_source = plan(payload.array.shape[1:], to_world, spacing, standard.size)
    return apply(source, to_source, standard.size, "resample", fill=float(source.array.min()))


def harmonise_mask(payload: Payload, image: Payload, standard: VolumeStandard) -> np.ndarray:
    """A mask (1 z y x) of the image's source, on the image's standard grid: (z y x) int64.

    It lands by geometry where it fills the image's box (its axes may be turned) or has another shape; a mask of the image's
    shape that claims to lie elsewhere lands index by index: its header was not kept up.

    Raises:
        GridError: neither can be.
    """
    step = image.history[-1]
    labels, shape = np.rint(payload.array[0]), tuple(payload.array.shape[1:])
    to_source = np.array(step.parameters["to_source"], float)
    if step.to_world is not None and payload.to_world is not None:
        to_mask = np.linalg.inv(payload.to_world) @ np.array(step.to_world)
        if parallel(to_mask) and (fills(to_mask, step.shape, shape) or shape != step.shape):
            return resample_labels(labels, to_mask @ to_source, standard.size)
    if shape != step.shape:
        raise GridError(
            f"a mask of {shape} on an image of {step.shape} (z y x), turned against it", "the same grid",
            "resample the mask to its image",
        )  # fmt: skip
    return resample_labels(labels, to_source, standard.size)
