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

from ...schema import Figure
from .intervals import DRAWS, bootstrap
from .metrics import mean

WITHIN_MM = 1.0
"""The tolerance: of the order of what two readers differ by on a volume of 1 mm voxels."""
WHAT = ("surface_dice", "hd95_mm", "volume_error_percent", "missed")


class Surfaces:
    """Of each structure, over the patients who have it: surface Dice, HD95, the volume's error, and how often it was missed.

    It is shown the masks as `predict` draws them, and keeps figures alone.

    `surface_dice_X` is 0 where nothing was drawn. `hd95_mm_X` is of those in whom something was, and so is to be read with
    `missed_X`, the share in whom nothing was. `volume_error_percent_X` is the mean of |drawn - true| over the true volume.

    Args:
        classes: of the masks, without the background.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._found: dict[str, list[np.ndarray]] = {}
        try:
            import monai.metrics  # noqa: F401
        except ImportError:
            self._measures = False
        else:
            self._measures = True

    def look(self, patient: str, mask: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> None:
        """Measure a record.

        Args:
            patient: whose.
            mask, truth: (z y x) or (y x) label numbers, as drawn and as they are.
            spacing: mm along each axis; one that nobody knows leaves the record out.
        """
        if self._measures and np.isfinite(spacing).all():
            self._found.setdefault(patient, []).append(apart(mask, truth, len(self.classes), spacing))

    def figures(self, split: str, *, draws: int = DRAWS) -> list[Figure]:
        """What was seen.

        Args:
            split: the split's hash.
            draws: resamples of the intervals, over patients; several records of one count by their mean.
        Returns:
            one figure without a value, saying why, where MONAI is not installed or no record says how large its samples are.
        """
        if not self._found:
            sizes, extra = "no masked record says how large its samples are", "pip install 'polyclinic[surfaces]'"
            why = f"not measured: {sizes if self._measures else extra}"
            return [Figure("surface_dice", math.nan, math.nan, math.nan, 0, split, why)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of nobody there is a mean
            each = np.stack([np.nanmean(rows, axis=0) for rows in self._found.values()])
        return list(_figures(each, self.classes, split, draws))


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
