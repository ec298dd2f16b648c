"""Fidelity: figures known by hand, and those of torchmetrics and MONAI on the same pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from polyclinic.trust.measures.fidelity import fidelity, halved, mae, ms_ssim, psnr, scales_of, ssim


def pair(shape: tuple[int, ...], noise: float = 0.2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(seed)
    truth = gaussian_filter(random.normal(size=shape), (0, *(2,) * (len(shape) - 1)))
    truth = (truth - truth.min()) / np.ptp(truth)
    return truth.astype(np.float32), (truth + noise * random.normal(size=shape)).astype(np.float32)


def test_errors_known_by_hand() -> None:
    truth, found = np.zeros((1, 2, 2)), np.array([[[1.0, 1.0], [1.0, 3.0]]])
    assert mae(truth, found) == 1.5
    assert mae(truth, found, np.array([[False, False], [False, True]])) == 3
    assert math.isnan(mae(truth, found, np.zeros((2, 2), bool)))
    assert psnr(truth, found, 10.0) == pytest.approx(10 * math.log10(100 / 3))
    assert psnr(truth, truth, 1.0) == math.inf
    found[0, 0, 0] = np.nan  # a lead that is not there is in no mean
    assert mae(truth, found) == pytest.approx(5 / 3)


@pytest.mark.parametrize("shape", [(1, 40, 31), (3, 24, 24), (1, 16, 20, 14)])
def test_ssim_is_torchmetrics(shape: tuple[int, ...]) -> None:
    of = pytest.importorskip("torchmetrics.functional.image")
    truth, found = pair(shape)
    told = torch.tensor(found)[None], torch.tensor(truth)[None]
    every = of.structural_similarity_index_measure(*told, data_range=1.0, return_full_image=True)[1][0]
    # It counts windows that reach beyond the picture too, over a mirror of it; the paper has those that lie inside.
    wanted = every[(slice(None), *(slice(5, -5),) * (len(shape) - 1))].mean()
    assert ssim(truth, found, 1.0) == pytest.approx(float(wanted), abs=1e-5)
    assert 0.1 < ssim(truth, found, 1.0) < 0.95
    assert ssim(truth, truth, 1.0) == pytest.approx(1)


def test_ssim_is_monais() -> None:
    metrics = pytest.importorskip("monai.metrics")
    truth, found = pair((1, 30, 26))
    theirs = metrics.SSIMMetric(2, data_range=1.0, win_size=11, kernel_type="gaussian", kernel_sigma=1.5)
    wanted = float(theirs(torch.tensor(found)[None].double(), torch.tensor(truth)[None].double()))
    assert ssim(truth, found, 1.0) == pytest.approx(wanted, abs=1e-4)


def test_ms_ssim_is_monais_and_nearly_torchmetrics() -> None:
    metrics, of = pytest.importorskip("monai.metrics"), pytest.importorskip("torchmetrics.functional.image")
    truth, found = pair((1, 192, 200), 0.1)
    assert scales_of(truth.shape) == 5
    told = torch.tensor(found)[None], torch.tensor(truth)[None]
    theirs = metrics.MultiScaleSSIMMetric(2, data_range=1.0, kernel_size=11, kernel_sigma=1.5)(*told)
    assert ms_ssim(truth, found, 1.0) == pytest.approx(float(theirs), abs=1e-4)
    # Of the coarsest scale torchmetrics counts the mirrored rim.
    other = of.multiscale_structural_similarity_index_measure(*told, data_range=1.0)
    assert ms_ssim(truth, found, 1.0) == pytest.approx(float(other), abs=1e-3)


def test_fewer_scales_where_no_more_fit() -> None:
    truth, found = pair((1, 64, 50))
    assert scales_of(truth.shape) == 3
    assert ssim(truth, found, 1.0) < ms_ssim(truth, found, 1.0) < 1  # what is coarse suffers less of noise
    assert ms_ssim(truth, truth, 1.0) == pytest.approx(1)
    assert math.isnan(ms_ssim(*pair((1, 20, 40)), 1.0))
    assert math.isnan(ssim(*pair((1, 11, 10)), 1.0))


def test_halves_are_means() -> None:
    assert halved(np.arange(10.0).reshape(2, 5)).tolist() == [[3.0, 5.0]]


def test_worse_is_worse_in_all_of_them() -> None:
    truth, near = pair((1, 48, 48), 0.05)
    _, far = pair((1, 48, 48), 0.4)
    lung = np.zeros((48, 48), bool)
    lung[:20, :20] = True
    good, bad = (fidelity(truth, x, 1.0, {"lung": lung}) for x in (near, far))
    assert set(good) == {"mae", "psnr", "ssim", "ms_ssim", "mae_lung"}
    assert all(good[k] < bad[k] for k in ("mae", "mae_lung"))
    assert all(good[k] > bad[k] for k in ("psnr", "ssim", "ms_ssim"))
    # In HU: a thousand times the range, and the same likeness.
    hu = fidelity(1000 * truth, 1000 * near, 1000.0)
    assert hu["mae"] == pytest.approx(1000 * good["mae"], rel=1e-5)
    assert hu["ssim"] == pytest.approx(good["ssim"], rel=1e-5)
