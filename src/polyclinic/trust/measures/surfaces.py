"""How far a drawn surface is from the true one, and how wrong a volume is: what Dice does not tell of a segmentation.

By MONAI, in mm on the standard grid, of each structure apart. Normalised surface distance: the share of both surfaces that lies within
a tolerance of the other (Nikolov et al. 2021). HD95: the 95th percentile of their distances, the larger of both ways (Huttenlocher et
al. 1993).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from ...adaptation import Adapted
from ...cohort import Cohort
from ...inference.predict import drawn_masks
from ...schema import Figure, Modality
from ...tasks import SegmentationTask
from .intervals import DRAWS, bootstrap
from .metrics import mean

WITHIN_MM = 1.0
"""The tolerance: of the order of what two readers differ by on a volume of 1 mm voxels."""
WHAT = ("surface_dice", "hd95_mm", "volume_error_percent", "missed")


def surface_figures(adapted: Adapted, cohort: Cohort, *, draws: int = DRAWS) -> list[Figure]:
    """Of each structure, over the test patients who have it: surface Dice, HD95, the volume's error, and how often it was missed.

    `surface_dice_X` is 0 where nothing was drawn. `hd95_mm_X` is of those in whom something was, and so is to be read with
    `missed_X`, the share in whom nothing was. `volume_error_percent_X` is the mean of |drawn - true| over the true volume.

    Args:
        adapted: to a segmentation.
        cohort: with masks.
        draws: resamples of the intervals, over patients; several records of one count by their mean.
    Returns:
        one figure without a value, saying why, where MONAI is not installed or no record says how large its samples are.
    """
    task, split = adapted.task, adapted.run.split.hash
    assert isinstance(task, SegmentationTask)
    try:
        import monai.metrics  # noqa: F401
    except ImportError:
        return [_none(split, "not measured: pip install 'polyclinic[surfaces]'")]
    found: dict[str, list[np.ndarray]] = {}
    for patient, mask, truth, spacing in drawn_masks(adapted, cohort, Modality(task.spec.modality)):
        if np.isfinite(spacing).all():
            found.setdefault(patient, []).append(apart(mask, truth, len(task.spec.classes), spacing))
    if not found:
        return [_none(split, "not measured: no masked record says how large its samples are")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of nobody there is a mean
        each = np.stack([np.nanmean(rows, axis=0) for rows in found.values()])
    return list(_figures(each, task.spec.classes, split, draws))


def apart(mask: np.ndarray, truth: np.ndarray, classes: int, spacing: Sequence[float]) -> np.ndarray:
    """(classes, 4) of `WHAT`, NaN of a structure that is not there, and of the HD95 of one that was not drawn.

    Args:
        mask, truth: (z y x) or (y x) label numbers.
        classes: besides the background.
        spacing: mm along each axis.
    """
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice  # pyright: ignore[reportPrivateImportUsage]

    out = np.full((classes, len(WHAT)), np.nan)
    for k in range(1, classes + 1):
        meant, said = truth == k, mask == k
        if not meant.any():
            continue
        out[k - 1, 2] = 100 * abs(float(said.sum()) / float(meant.sum()) - 1)
        out[k - 1, 3] = float(not said.any())
        if not said.any():
            out[k - 1, 0] = 0.0
            continue
        one, other = (torch.from_numpy(v)[None, None].float() for v in (said, meant))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # MONAI's own of its own arguments
            near = compute_surface_dice(one, other, [WITHIN_MM], True, spacing=list(spacing))
            far = compute_hausdorff_distance(one, other, True, percentile=95, spacing=list(spacing))
        out[k - 1, 0], out[k - 1, 1] = float(near), float(far)
    return out


def _figures(each: np.ndarray, classes: Sequence[str], split: str, draws: int) -> Iterator[Figure]:
    for number, what in enumerate(WHAT):
        for k, name in enumerate(classes):
            values = each[:, k, number]
            values = values[np.isfinite(values)]
            made = bootstrap(
                _mean_of(values), np.zeros(len(values), dtype=int), name=f"{what}_{name}", split=split, draws=draws,
                bounded=what in ("surface_dice", "missed"),
            )  # fmt: skip
            yield replace(made, note=f"{made.note}; within {WITHIN_MM:g} mm") if what == "surface_dice" else made


def _mean_of(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda weights: mean(values, values, weights)


def _none(split: str, why: str) -> Figure:
    return Figure("surface_dice", math.nan, math.nan, math.nan, 0, split, why)
