"""Fidelity: how far a translated record is from the one that there is, in its own units and as it looks.

PSNR, MAE    sample by sample
SSIM         by levels, contrasts and structures within a Gaussian of 11 samples (Wang et al. 2004)
MS-SSIM      the same at scales of halves (Wang et al. 2003), as many of the paper's five as fit
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

SIGMA, REACH = 1.5, 5
"""Of the window: 11 samples a side (Wang et al. 2004, section III.B)."""
K1, K2 = 0.01, 0.03
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""What each scale counts (Wang et al. 2003, section 3.2)."""


def mae(truth: np.ndarray, found: np.ndarray, where: np.ndarray | None = None) -> float:
    """The mean absolute error over samples that both have; NaN where there are none.

    Args:
        truth, found: (c …).
        where: (…) bool, of a region; None for all.
    """
    known = np.isfinite(truth) & np.isfinite(found)
    if where is not None:
        known = known & where
    return float(np.abs(truth - found)[known].mean()) if known.any() else float("nan")


def psnr(truth: np.ndarray, found: np.ndarray, reach: float) -> float:
    """The peak signal-to-noise ratio in dB, of values that span `reach`; infinite where both are the same."""
    known = np.isfinite(truth) & np.isfinite(found)
    if not known.any():
        return float("nan")
    error = float(np.square(truth - found, dtype=np.float64)[known].mean())
    return float("inf") if error == 0 else float(10 * np.log10(reach**2 / error))


def _parts(truth: np.ndarray, found: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Of (z y x) or (y x): SSIM, and its part of contrast and structure, where the window lies wholly inside."""
    from scipy.ndimage import gaussian_filter

    seen = lambda x: gaussian_filter(x, SIGMA, truncate=REACH / SIGMA)[(slice(REACH, -REACH),) * x.ndim]
    x, y = truth.astype(np.float64), found.astype(np.float64)
    a, b = seen(x), seen(y)
    spread = lambda p, q, r: seen(p) - q * r
    c1, c2 = (K1 * reach) ** 2, (K2 * reach) ** 2
    structure = (2 * spread(x * y, a, b) + c2) / (spread(x * x, a, a) + spread(y * y, b, b) + c2)
    return (2 * a * b + c1) / (a * a + b * b + c1) * structure, structure


def ssim(truth: np.ndarray, found: np.ndarray, reach: float) -> float:
    """The structural similarity, 1 of the same (Wang et al. 2004); the mean over channels.

    Args:
        truth, found: (c z y x) or (c y x).
        reach: what the values span.
    Returns:
        NaN where a side has fewer samples than the window.
    """
    if min(truth.shape[1:]) <= 2 * REACH:
        return float("nan")
    return float(np.mean([_parts(t, f, reach)[0].mean() for t, f in zip(truth, found, strict=True)]))


def scales_of(shape: tuple[int, ...]) -> int:
    """How many of the five scales fit records of (c …)."""
    fit = [n for n in range(len(SCALES)) if min(shape[1:]) // 2**n > 2 * REACH]
    return len(fit)


def ms_ssim(truth: np.ndarray, found: np.ndarray, reach: float) -> float:
    """SSIM at several scales, each as much as the paper's; what does not fit is left out, and the rest counts the more.

    Returns:
        NaN where fewer than two scales fit.
    """
    count = scales_of(truth.shape)
    if count < 2:
        return float("nan")
    weights = np.array(SCALES[:count]) / sum(SCALES[:count])
    each = []
    for t, f in zip(truth, found, strict=True):
        value = 1.0
        for number, weight in enumerate(weights):
            whole, structure = _parts(t, f, reach)
            # Below zero (structures that oppose each other) a root is not defined: as the authors' code, and torchmetrics', nothing.
            value *= max(float((whole if number == count - 1 else structure).mean()), 0.0) ** weight
            t, f = halved(t), halved(f)
        each.append(value)
    return float(np.mean(each))


def halved(x: np.ndarray) -> np.ndarray:
    """Means of boxes of two a side; a last odd sample is left out."""
    for axis in range(x.ndim):
        n = x.shape[axis] // 2
        x = x.take(range(2 * n), axis).reshape(*x.shape[:axis], n, 2, *x.shape[axis + 1 :]).mean(axis + 1)
    return x


def fidelity(
    truth: np.ndarray, found: np.ndarray, reach: float, regions: Mapping[str, np.ndarray] | None = None, pictured: bool = True
) -> dict[str, float]:  # fmt: skip
    """All of one record.

    Args:
        truth, found: (c …) in the units that are reported.
        reach: what the values span there.
        regions: name → (…) bool.
        pictured: it is an image or a volume, so that it has structures to be seen.
    """
    told = {"mae": mae(truth, found), "psnr": psnr(truth, found, reach)}
    if pictured:
        told |= {"ssim": ssim(truth, found, reach), "ms_ssim": ms_ssim(truth, found, reach)}
    return told | {f"mae_{name}": mae(truth, found, where) for name, where in (regions or {}).items()}
