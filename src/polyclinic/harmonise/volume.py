"""Volumes: axes nearest to LPS, one spacing, one size about the centre or the whole, standardised intensities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..records.source import LARGEST_BYTES
from ..schema import Payload, Record
from .fingerprint import Fingerprint
from .geometry import GridError, apply, fills, finite, parallel, plan, sheared, spacing_of, straight, whole
from .resampling import resample_labels

AIR_HU, HU_WIDTH = -1000.0, 500.0


class VolumeStandard(BaseModel):
    """A grid of `size` (z y x) voxels, or of as many as hold the whole volume, and how bright they are.

    Args:
        spacing_mm: (z y x); None for the median of the training volumes.
        size: (z y x) about the centre; None for the whole volume, whose size is then its own.
        box: (z y x) of a whole volume, how much a network sees of it at a time; the grid is at least as large.
        window_hu: of a CT, what becomes 0 and 1 (what is beyond stays there); None for HU / 500 within ±2.
        intensity: `own`: each MR (or PET) by its own voxels; `fingerprint`: each CT clipped to the training voxels' 0.5th and
            99.5th percentile, then by their mean and spread (Isensee et al. 2021, nnU-Net).
        bias_field: divide an MR by its bias field (N4, Tustison et al. 2010).
        average: let every source voxel count where the grid is coarser; False interpolates between neighbours only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["volume"] = "volume"
    spacing_mm: tuple[float, float, float] | None = (1.0, 1.0, 1.0)
    size: tuple[int, int, int] | None = Field(default=(40, 56, 40))
    box: tuple[int, int, int] | None = None
    window_hu: tuple[float, float] | None = None
    intensity: Literal["own", "fingerprint"] = "own"
    bias_field: bool = False
    average: bool = True


def windowed(hu: np.ndarray, standard: VolumeStandard, fingerprint: Fingerprint) -> np.ndarray:
    """A CT's HU, written over: within the window from 0 to 1, by the training voxels, or HU / 500 within ±2."""
    if standard.window_hu is not None:
        low, high = standard.window_hu
        hu -= np.float32(low)
        hu *= np.float32(1.0 / (high - low))
        return np.clip(hu, 0.0, 1.0, out=hu)
    if standard.intensity == "fingerprint" and fingerprint.ct is not None:
        np.clip(hu, fingerprint.ct.low, fingerprint.ct.high, out=hu)
        hu -= np.float32(fingerprint.ct.mean)
        hu *= np.float32(1.0 / fingerprint.ct.sd)
        return hu
    hu *= np.float32(1.0 / HU_WIDTH)
    return np.clip(hu, -2.0, 2.0, out=hu)


def in_hu(array: np.ndarray, standard: VolumeStandard, fingerprint: Fingerprint) -> np.ndarray:
    """The way back of `windowed`, but for what lay beyond the window."""
    if standard.window_hu is not None:
        low, high = standard.window_hu
        return array * (high - low) + low
    if standard.intensity == "fingerprint" and fingerprint.ct is not None:
        return array * fingerprint.ct.sd + fingerprint.ct.mean
    return array * HU_WIDTH


def hu_span(standard: VolumeStandard, fingerprint: Fingerprint) -> float:
    """How many HU the window spans."""
    if standard.window_hu is not None:
        return standard.window_hu[1] - standard.window_hu[0]
    if standard.intensity == "fingerprint" and fingerprint.ct is not None:
        return fingerprint.ct.high - fingerprint.ct.low
    return 4 * HU_WIDTH


def standardise(array: np.ndarray) -> np.ndarray:
    """By its own voxels: zero mean and unit variance of what is not background, within their 0.5th and 99.5th percentile."""
    body = array[array > array.min()]
    body = body if body.size > 16 else array.reshape(-1)
    low, high = np.percentile(body, [0.5, 99.5])
    clipped = np.clip(array, low, high)
    body = np.clip(body, low, high)
    return (clipped - body.mean()) / max(float(body.std()), 1e-6)


def without_bias(array: np.ndarray, to_world: np.ndarray) -> np.ndarray:
    """An MR (z y x) divided by its bias field: N4 on a grid of about 4 mm, above the lower of Otsu's two thresholds.

    Source: Tustison et al., N4ITK: Improved N3 Bias Correction, IEEE TMI 2010.
    """
    import SimpleITK as sitk  # noqa: N813  # as its own documents call it

    image = sitk.GetImageFromArray(array.astype(np.float32) - min(float(array.min()), 0.0))
    image.SetSpacing(spacing_of(to_world).tolist())
    factor = [max(1, min(round(4.0 / mm), n // 8)) for mm, n in zip(image.GetSpacing(), image.GetSize(), strict=True)]
    small = sitk.Shrink(image, factor)
    head = sitk.OtsuMultipleThresholds(small, 2) > 0
    if not sitk.GetArrayViewFromImage(head).any() or min(small.GetSize()) < 4:
        return array
    correct = sitk.N4BiasFieldCorrectionImageFilter()
    correct.SetMaximumNumberOfIterations([30, 30, 20])
    correct.Execute(small, head)
    field = sitk.GetArrayFromImage(sitk.Exp(correct.GetLogBiasFieldAsImage(image)))
    return array / np.maximum(field, 1e-3)


def harmonise(payload: Payload, record: Record, standard: VolumeStandard, fingerprint: Fingerprint) -> Payload:
    """(1 z y x) float32 on the standard grid."""
    spacing = standard.spacing_mm or fingerprint.spacing_mm
    to_world = payload.to_world if payload.to_world is not None else np.diag([spacing[2], spacing[1], spacing[0], 1.0])
    shape = payload.array.shape[1:]
    size, box = standard.size, standard.box
    if size is None:
        size = whole(shape, straight(to_world) if sheared(to_world) else to_world, spacing)
        if box is not None:
            size = (max(size[0], box[0]), max(size[1], box[1]), max(size[2], box[2]))
    _fits(size, shape, to_world)
    to_source = plan(shape, to_world, spacing, standard.size if box is None else size)
    array, ct = finite(payload.array[:1]), is_ct(record, fingerprint)
    if not ct:
        array = standardise(without_bias(array[0], to_world)[None] if standard.bias_field else array)
    source = Payload(array, to_world, payload.history, payload.to_world is None)
    fill = AIR_HU if ct else float(array.min())
    result = apply(source, to_source, size, "resample", fill=fill, average=standard.average)
    if ct:
        windowed(result.array, standard, fingerprint)
    return result


def _fits(size: Sequence[int], shape: Sequence[int], to_world: np.ndarray) -> None:
    """Refuse a volume that would take more on the standard grid than any source may.

    Raises:
        GridError: its spacing is wrong, or so much coarser than the standard's.
    """
    if (wanted := 4 * math.prod(size)) > LARGEST_BYTES:
        by = lambda values: " × ".join(f"{n:g}" for n in values)
        raise GridError(
            f"a volume of {by(shape)} samples (z y x) of {by(spacing_of(to_world))} mm (x y z), which is {wanted / 2**30:.1f} GiB on the "
            "standard grid",
            f"at most {LARGEST_BYTES / 2**30:.0f} GiB", "correct the spacing in its header, crop it, or raise the encoder's `spacing_mm`",
        )  # fmt: skip


def is_ct(record: Record, fingerprint: Fingerprint) -> bool:
    """Whether its numbers are HU: its kind says so, or says nothing while most of the training volumes are CT."""
    return record.kind.startswith("CT") or (record.kind.startswith("volume") and fingerprint.hounsfield)


def harmonise_mask(payload: Payload, image: Payload, standard: VolumeStandard) -> np.ndarray:
    """A mask (1 z y x) of the image's source, on the image's standard grid: (z y x) int64.

    Raises:
        GridError: it cannot be laid on it.
    """
    return resample_labels(np.rint(payload.array[0]), onto_mask(payload, image), image.array.shape[1:])


def onto_mask(payload: Payload, image: Payload) -> np.ndarray:
    """4x4 index (x y z 1) of an image's standard grid → index of its source's mask (1 z y x).

    It lands by geometry where it fills the image's box (its axes may be turned) or has another shape; a mask of the image's
    shape that claims to lie elsewhere lands index by index: its header was not kept up.

    Raises:
        GridError: neither can be.
    """
    step, shape = image.history[-1], tuple(payload.array.shape[1:])
    to_source = np.array(step.parameters["to_source"], float)
    if step.to_world is not None and payload.to_world is not None:
        to_mask = np.linalg.inv(payload.to_world) @ np.array(step.to_world)
        if parallel(to_mask) and (fills(to_mask, step.shape, shape) or shape != step.shape):
            return to_mask @ to_source
    if shape != step.shape:
        raise GridError(
            f"a mask of {shape} on an image of {step.shape} (z y x), turned against it", "the same grid",
            "resample the mask to its image",
        )  # fmt: skip
    return to_source
