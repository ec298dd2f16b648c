from __future__ import annotations

import math

import numpy as np
import pytest

from polyclinic.schema import Modality
from polyclinic.tasks import Detection, Keypoints, Predictions
from polyclinic.tasks.keypoints import measures as of_points
from polyclinic.tasks.matching import RATES, measures
from polyclinic.trust.measures.curves import ALARMS, Traced, traced
from polyclinic.trust.measures.detection import coco

SPEC = Detection(classes=("nodule", "mass"))
POINTS = Keypoints(points=("tip", "base"))


def objects(rows: list[np.ndarray]) -> np.ndarray:
    out = np.empty(len(rows), object)
    for number, row in enumerate(rows):
        out[number] = row
    return out


def boxes(seed: int = 0, patients: int = 20) -> Predictions:
    """An image a patient with up to three things, which are mostly found, and up to three false alarms."""
    random, said, true = np.random.default_rng(seed), [], []
    for _ in range(patients):
        rows, truth = [], []
        for _ in range(int(random.integers(4))):
            low, size, kind = random.uniform(0, 60, 2), random.uniform(5, 20, 2), float(random.integers(2))
            truth.append([0, kind, *low, *(low + size)])
            if random.random() < 0.8:
                near = low + random.normal(0, 1, 2)
                rows.append([0, kind, random.random(), *near, *(near + size)])
        for _ in range(int(random.integers(4))):
            low = random.uniform(0, 60, 2)
            rows.append([0, float(random.integers(2)), 0.7 * random.random(), *low, *(low + 8)])
        said.append(np.array(rows).reshape(-1, 7))
        true.append(np.array(truth).reshape(-1, 6))
    names = tuple(f"p{n}" for n in range(patients))
    ids = tuple((f"i{n}",) for n in range(patients))
    return Predictions("lesions", names, objects(said), objects(true), np.ones(patients, bool), (), ids)


def points(seed: int = 0, patients: int = 15) -> Predictions:
    random = np.random.default_rng(seed)
    errors = objects([random.exponential(3.0, (1, 2)) for _ in range(patients)])
    known = objects([np.array([[random.uniform(20, 40), 1.0]]) for _ in range(patients)])
    names = tuple(f"p{n}" for n in range(patients))
    return Predictions("ends", names, errors, known, np.ones(patients, bool), (), tuple(((n,),)[0] for n in names))


def one(curves: tuple[Traced, ...], axes: str, name: str = "") -> Traced:
    return next(c for c in curves if (c.axes, c.name) == (axes, name))


def test_the_free_response_curve_passes_through_the_figures() -> None:
    told = boxes()
    curve, figures = one(traced(SPEC, told, draws=50), "froc"), measures(told, SPEC.classes)
    assert list(curve.y) == sorted(curve.y), "more false alarms find no less"
    for rate in RATES:
        at = int(np.flatnonzero(np.isclose(ALARMS, rate))[0])
        assert curve.y[at] == pytest.approx(float(figures[f"sensitivity_at_{rate:g}"](np.ones((1, 20)))[0]), abs=1e-6)
    assert all(low <= y <= high for low, y, high in zip(curve.low, curve.y, curve.high, strict=True))
    assert any(high > low for low, high in zip(curve.low, curve.high, strict=True))


def test_the_area_below_precision_and_recall_is_pycocotools_own() -> None:
    told = boxes()
    curves = traced(SPEC, told, draws=50)
    each = [float(np.mean(one(curves, "precision_recall", name).y)) for name in SPEC.classes]
    assert np.mean(each) == pytest.approx(coco(told, 2, (0.5,)), abs=1e-6)


def test_of_volumes_boxes_need_to_overlap_less() -> None:
    """An answer that shares a third with a thing is found in three dimensions, where a tenth is enough, and not in two."""
    flat = np.array([[0, 0, 0.9, 0, 5, 10, 15]]), np.array([[0, 0, 0, 0, 10, 10]])
    deep = np.array([[0, 0, 0.9, 0, 0, 5, 1, 10, 15]]), np.array([[0, 0, 0, 0, 0, 1, 10, 10]])
    for spec, (said, true), worth in (
        (Detection(classes=("nodule",)), flat, 0.0),
        (Detection(classes=("nodule",), modality=Modality.VOLUME, source="masks", structure="m"), deep, 1.0),
    ):
        told = Predictions(
            "x", ("a",), objects([said.astype(float)]), objects([true.astype(float)]), np.ones(1, bool), (), (("i",),)
        )
        curve = one(traced(spec, told), "precision_recall", "nodule")
        assert set(curve.y) == {worth}
        assert all(map(math.isnan, curve.low)), "one patient has no band"


def test_shares_of_points_pass_through_the_figures_and_are_those_that_are_counted() -> None:
    told = points()
    curves, figures = traced(POINTS, told, draws=50), of_points(told, POINTS.points)
    pck, mm = one(curves, "pck"), one(curves, "within_mm")
    for share in (0.05, 0.1, 0.2):
        at = int(np.flatnonzero(np.isclose(pck.x, share))[0])
        assert pck.y[at] == pytest.approx(float(figures[f"pck_{100 * share:g}"](np.ones((1, 15)))[0]))
    errors = np.concatenate(list(told.outputs))
    assert one(curves, "within_mm", "tip").y == pytest.approx([(errors[:, 0] <= x).mean() for x in mm.x], abs=1e-6)
    assert mm.y == pytest.approx([(errors <= x).mean() for x in mm.x], abs=1e-6)


def test_what_has_no_scale_has_no_curve_in_mm_and_who_has_nothing_has_none() -> None:
    told = points()
    for known in told.targets:
        known[:, 1] = np.nan
    assert {c.axes for c in traced(POINTS, told, draws=50)} == {"pck"}
    nobody = told.where(np.zeros(15, bool))
    assert traced(POINTS, nobody) == ()
    empty = boxes()
    empty.targets[:] = objects([np.zeros((0, 6))] * 20)
    assert traced(SPEC, empty, draws=50) == (), "nothing to find"
