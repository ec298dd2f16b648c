from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.schema import MissingExtraError, Modality
from polyclinic.tasks import Detection, Keypoints, Predictions
from polyclinic.tasks.matching import STRICT, measures
from polyclinic.trust.measures.detection import coco, placed_figures, primary

SPEC = Detection(classes=("nodule", "mass"))
VOLUMES = Detection(classes=("nodule", "mass"), modality=Modality.VOLUME, source="masks", structure="lesion")


def objects(rows: list[np.ndarray]) -> np.ndarray:
    out = np.empty(len(rows), object)
    for number, row in enumerate(rows):
        out[number] = row
    return out


def scenes(seed: int, patients: int = 12, deep: bool = False, ties: bool = False) -> Predictions:
    """Answers that find most of the things, about; false ones, doubled ones; images without any."""
    random = np.random.default_rng(seed)
    said, true, ids = [], [], []
    for _ in range(patients):
        rows, truth, images = [], [], int(random.integers(1, 3))
        for image in range(images):
            for _ in range(int(random.integers(4))):
                low, size, kind = random.uniform(0, 60, 2), random.uniform(5, 20, 2), float(random.integers(2))
                truth.append([image, kind, *low, *(low + size)])
                for _ in range(int(random.integers(3))):
                    near = low + random.normal(0, 2, 2)
                    rows.append([image, kind, random.random(), *near, *(near + size * random.uniform(0.7, 1.3, 2))])
            for _ in range(int(random.integers(3))):
                low = random.uniform(0, 60, 2)
                rows.append(
                    [image, float(random.integers(2)), random.random(), *low, *(low + random.uniform(5, 20, 2))]
                )
        said.append(np.array(rows).reshape(-1, 7))
        true.append(np.array(truth).reshape(-1, 6))
        if ties:
            said[-1][:, 2] = np.ceil(said[-1][:, 2] * 3) / 3
        ids.append(tuple(f"i{n}" for n in range(images)))
    if deep:  # the same boxes, a third axis along which all are alike
        flat = lambda rows, head: np.concatenate(
            [
                rows[:, :head],
                np.zeros((len(rows), 1)),
                rows[:, head : head + 2],
                np.ones((len(rows), 1)),
                rows[:, head + 2 :],
            ],
            1,
        )
        said, true = [flat(r, 3) for r in said], [flat(r, 2) for r in true]
    names = tuple(f"p{n}" for n in range(patients))
    return Predictions("d", names, objects(said), objects(true), np.ones(patients, bool), (), tuple(ids))


@given(st.integers(0, 10_000), st.booleans(), st.booleans())
@settings(max_examples=25, deadline=None)
def test_ours_is_pycocotools_own_also_along_a_third_axis(seed: int, deep: bool, ties: bool) -> None:
    flat = scenes(seed, ties=ties)
    ours = measures(scenes(seed, deep=deep, ties=ties), SPEC.classes)
    for name, overlaps in (("map_10", (0.1,)), ("map_50", (0.5,)), ("map_50_95", STRICT)):
        np.testing.assert_allclose(ours[name](np.ones((1, 12)))[0], coco(flat, 2, overlaps), atol=1e-9)


def test_figures_have_intervals_and_say_what_they_rest_on() -> None:
    found = {f.name: f for f in placed_figures(SPEC, scenes(1, 30), "abc", draws=200)}
    assert list(found)[:2] == ["froc", "sensitivity_at_0.125"]
    assert {"map_10", "map_50", "map_50_95", "froc_nodule", "ap_50_mass"} <= set(found)
    for figure in found.values():
        assert figure.low <= figure.value <= figure.high
        assert figure.low < figure.high
        assert (figure.n, figure.split) == (30, "abc")
        assert "things in" in figure.note
    assert found["sensitivity_at_8"].value >= found["sensitivity_at_0.125"].value
    assert primary(SPEC, scenes(1, 30), "abc", draws=200).value == found["froc"].value


def test_of_volumes_the_same_without_pycocotools(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = {f.name: f.value for f in placed_figures(SPEC, scenes(2), "abc", draws=50)}
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    deep = {f.name: f.value for f in placed_figures(VOLUMES, scenes(2, deep=True), "abc", draws=50)}
    assert deep == {name: pytest.approx(v) for name, v in flat.items()}
    with pytest.raises(MissingExtraError, match=r"polyclinic\[detection\]"):
        placed_figures(SPEC, scenes(2), "abc", draws=50)


def test_perfect_answers_get_a_bound_by_patients_and_nothing_to_find_gets_none() -> None:
    truth = scenes(3, 20).targets
    perfect = objects([np.concatenate([t[:, :2], np.full((len(t), 1), 0.9), t[:, 2:]], 1) for t in truth])
    known = Predictions("d", scenes(3, 20).patients, perfect, truth, np.ones(20, bool), (), scenes(3, 20).records)
    figure = placed_figures(SPEC, known, "abc", draws=100)[0]
    with_some = sum(bool(len(t)) for t in truth)
    assert (figure.value, figure.high) == (1, 1)
    assert figure.low == pytest.approx(0.025 ** (1 / with_some))
    assert f"{with_some} patients with something to find" in figure.note
    empty = objects([np.zeros((0, 6))] * 20)
    for each in placed_figures(
        SPEC, Predictions("d", known.patients, perfect, empty, known.mask, (), known.records), "a", draws=50
    ):
        assert np.isnan(each.value)
        assert "none to find" in each.note


def test_nobody_annotated() -> None:
    known = scenes(4, 3)
    nobody = Predictions("d", known.patients, known.outputs, known.targets, np.zeros(3, bool), (), known.records)
    assert all(np.isnan(f.value) and f.n == 0 for f in placed_figures(SPEC, nobody, "a", draws=50))


def points(errors: list[list[list[float]]], images: list[list[list[float]]]) -> Predictions:
    p = len(errors)
    said, true = (objects([np.array(row, float) for row in rows]) for rows in (errors, images))
    return Predictions("k", tuple("abcdefgh"[:p]), said, true, np.ones(p, bool))


def test_keypoints_by_hand() -> None:
    """Two patients: errors of 1, 3 and (not drawn) in 50 mm; of 6 in 40 mm, and of 2 in a picture without a scale of extent 100."""
    nan = float("nan")
    spec = Keypoints(points=("tip", "base", "side"))
    of = points([[[1, 3, nan]], [[6, nan, nan], [2, nan, nan]]], [[[50, 1]], [[40, 1], [100, nan]]])
    found = {f.name: f for f in placed_figures(spec, of, "abc", draws=50)}
    values = {name: f.value for name, f in found.items()}
    assert values == {
        "pck_10": 3 / 4, "pck_5": 2 / 4, "pck_20": 1, "mre_mm": pytest.approx(10 / 3), "within_2mm": pytest.approx(1 / 3),
        "within_4mm": pytest.approx(2 / 3), "mre_mm_tip": 3.5, "mre_mm_base": 3, "mre_mm_side": pytest.approx(nan, nan_ok=True),
    }  # fmt: skip
    assert found["pck_10"].note.startswith("4 points; ")
    assert next(iter(found)) == "pck_10"
    one = {
        f.name: f.value
        for f in placed_figures(Keypoints(points=("tip",)), points([[[3]]], [[[nan, 1]]]), "a", draws=50)
    }
    assert np.isnan(one["pck_10"]), "one point has no extent"
    assert one["mre_mm"] == 3
