"""Surfaces and volumes of shapes whose answers are known."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from polyclinic.adaptation import open_adapted
from polyclinic.cohort import Cohort
from polyclinic.inference import predict
from polyclinic.tasks import Segmentation
from polyclinic.training import Run
from polyclinic.trust.measures.surfaces import WHAT, WITHIN_MM, Surfaces, apart

pytest.importorskip("monai")


def cube(shape: tuple[int, ...], low: int, high: int, moved: int = 0, label: int = 1) -> np.ndarray:
    out = np.zeros(shape, np.int64)
    out[(slice(low + moved, high + moved), *(slice(low, high) for _ in shape[1:]))] = label
    return out


@pytest.mark.parametrize("shape", [(24, 24), (24, 24, 24)], ids=["image", "volume"])
def test_the_same_mask_is_without_an_error(shape: tuple[int, ...]) -> None:
    found = apart(cube(shape, 5, 15), cube(shape, 5, 15), 1, (1.0,) * len(shape))
    assert found[0].tolist() == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(("moved", "spacing"), [(2, 1.0), (2, 3.0), (4, 0.5)])
def test_a_shift_is_told_in_mm(moved: int, spacing: float) -> None:
    """Two faces are as far from each other as the cube was moved, and nothing is farther."""
    shape = (30, 30, 30)
    (surface, far, volume, missed), *_ = apart(cube(shape, 5, 15), cube(shape, 5, 15, moved), 1, (spacing, 1.0, 1.0))
    assert far == pytest.approx(moved * spacing)
    assert (volume, missed) == (0, 0)
    assert surface < 1


def test_within_the_tolerance_nothing_is_wrong() -> None:
    found = apart(cube((30, 30, 30), 5, 15), cube((30, 30, 30), 5, 15, 1), 1, (WITHIN_MM,) * 3)
    assert found[0, 0] == 1.0
    assert apart(cube((30, 30, 30), 5, 15), cube((30, 30, 30), 5, 15, 1), 1, (1.01 * WITHIN_MM,) * 3)[0, 0] < 1


def test_concentric_balls() -> None:
    """Each place of one surface is as far from the other as the radii differ, and volumes are as their cubes; but for the grid."""
    z, y, x = np.mgrid[:48, :48, :48] - 24
    radius = np.sqrt(z**2 + y**2 + x**2)
    (surface, far, volume, _), *_ = apart((radius < 16).astype(int), (radius < 12).astype(int), 1, (0.5, 0.5, 0.5))
    assert far == pytest.approx(2.0, abs=0.3)
    assert surface == 0
    assert volume == pytest.approx(100 * ((16 / 12) ** 3 - 1), rel=0.03)


def test_what_is_not_there_and_what_was_missed() -> None:
    truth, nothing = cube((20, 20), 5, 10, label=2), np.zeros((20, 20), np.int64)
    found = apart(nothing, truth, 2, (1.0, 1.0))
    assert np.isnan(found[0]).all()  # the first structure is not there: nobody can draw it well or badly
    assert found[1, 0] == 0
    assert math.isnan(found[1, 1])
    assert found[1, 2:].tolist() == [100.0, 1.0]


def test_the_figures_of_a_run(tiny_segmentation_run: Run, tiny_cohort: Cohort) -> None:
    adapted = open_adapted(tiny_segmentation_run)
    spec = adapted.run.recipe.tasks[adapted.name]
    assert isinstance(spec, Segmentation)
    classes = spec.classes
    surfaces = Surfaces(classes)
    predict(adapted, tiny_cohort, look=surfaces.look)
    figures = {f.name: f for f in surfaces.figures(adapted.run.split.hash, draws=30)}
    assert set(figures) == {f"{what}_{name}" for what in WHAT for name in classes}
    for name in classes:
        missed, far = figures[f"missed_{name}"], figures[f"hd95_mm_{name}"]
        assert far.n == round(missed.n * (1 - missed.value))
        assert 0 <= figures[f"surface_dice_{name}"].value <= 1
        assert figures[f"surface_dice_{name}"].note.endswith("within 1 mm")


def test_what_has_no_size_is_not_measured() -> None:
    surfaces = Surfaces(("liver",))
    surfaces.look("p", cube((20, 20), 5, 10), cube((20, 20), 5, 10), (math.nan, 1.0))
    (figure,) = surfaces.figures("")
    assert (figure.n, math.isnan(figure.value)) == (0, True)
    assert "how large its samples are" in figure.note


def test_without_monai_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai.metrics", None)
    surfaces = Surfaces(("liver",))
    surfaces.look("p", cube((20, 20), 5, 10), cube((20, 20), 5, 10), (1.0, 1.0))
    (figure,) = surfaces.figures("")
    assert math.isnan(figure.value)
    assert "polyclinic[surfaces]" in figure.note
