"""The baselines of several answers at once, on patients whose cells tell them."""

from __future__ import annotations

import numpy as np
import pytest

from polyclinic.schema import Modality, Payload, Record
from polyclinic.trust import EvidenceError, figure
from polyclinic.trust.comparisons import baselines as b
from polyclinic.trust.comparisons.several import classes, commonest, findings, grade

TRAIN, TEST = tuple(f"t{i:03}" for i in range(120)), tuple(f"x{i:03}" for i in range(60))
GRADES = ("I", "II", "III")


def study(answers: dict, values: dict) -> b.Study:
    """Patients with two cells."""
    records = [Record(p, p, None, Modality.TABLE, "row", "", None, None, {}) for p in values]
    load = lambda r: Payload(np.array([[v, 0.0] for v in values[r.patient]]), names=("marker", "size"))
    return b.Study(records, load, TRAIN, TEST, answers)


@pytest.fixture(scope="module")
def values() -> dict:
    random = np.random.default_rng(0)
    return {p: tuple(random.normal(size=2)) for p in (*TRAIN, *TEST)}


def test_grades_are_told_by_a_regression_a_threshold(values: dict) -> None:
    random = np.random.default_rng(1)
    answers = {p: int(np.searchsorted([-0.3, 0.8], v[0] + 0.2 * random.normal())) for p, v in values.items()}
    found = grade(study(answers, values), "stage", GRADES)
    assert found.outputs.shape == (60, 3)
    assert found.outputs.sum(1) == pytest.approx(np.ones(60))
    assert (found.outputs >= 0).all()
    assert figure("quadratic_kappa", found, "s", draws=50).low > 0.7
    # Each grade is told as often as it is among the training patients, though the regressions weigh both sides alike.
    common = np.bincount([answers[p] for p in TRAIN], minlength=3) / len(TRAIN)
    assert found.outputs.mean(0) == pytest.approx(common, abs=0.12)


def test_findings_are_told_by_a_regression_each_of_those_who_are_known(values: dict) -> None:
    answers = {
        p: (float(v[0] > 0), float("nan") if n % 3 == 0 else float(v[1] > 0.5))
        for n, (p, v) in enumerate(values.items())
    }
    found = findings(study(answers, values), "signs", ("large", "grown"))
    assert found.outputs.shape == found.targets.shape == (60, 2)
    assert np.isnan(found.targets[:, 1]).sum() == 20
    assert figure("macro_auroc", found, "s", draws=50).value > 0.97
    # The second finding's regression has never seen those of whom it is unknown.
    told = {p: int(v[1]) for p, v in answers.items() if np.isfinite(v[1])}
    known = tuple(p for p in TRAIN if p in told)
    alone = b.Study(study(answers, values).records, study(answers, values).load, known, TEST, told)
    order = np.argsort(b.classify(alone, "grown").outputs)
    assert np.abs(np.argsort(found.outputs[:, 1]) - order).mean() < 5


def test_classes_are_told_by_a_multinomial_regression(values: dict) -> None:
    random = np.random.default_rng(2)
    answers = {
        p: int(np.argmax(random.gumbel(size=4) + np.array([0.5, 3 * v[0], 3 * v[1], -99]))) for p, v in values.items()
    }
    found = classes(study(answers, values), "site", ("a", "b", "c", "nowhere"))
    assert found.outputs.shape == (60, 4)
    assert found.outputs.sum(1) == pytest.approx(np.ones(60))
    assert found.outputs[:, 3].max() < 1e-6, "a class that no training patient has"
    common = np.bincount([answers[p] for p in TRAIN], minlength=4) / len(TRAIN)
    assert found.outputs.mean(0) == pytest.approx(common, abs=0.12)
    null = commonest(study(answers, values), "site", ("a", "b", "c", "nowhere"))
    assert null.outputs[0] == pytest.approx(common)
    commonest_share = np.mean([answers[p] == int(common.argmax()) for p in TEST])
    assert figure("accuracy", null, "s", draws=50).value == pytest.approx(commonest_share)
    assert figure("accuracy", found, "s", draws=50).low > commonest_share
    # The regression itself, as scikit-learn fits it with the same penalty to all training patients, for one of its penalties.
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, y = np.array([values[p] for p in TRAIN]), np.array([answers[p] for p in TRAIN])
    scale = StandardScaler().fit(x)
    asked = scale.transform(np.array([values[p] for p in TEST]))
    fits = [LogisticRegression(C=c, max_iter=2000).fit(scale.transform(x), y) for c in b.PENALTIES]
    apart = [np.abs(f.predict_proba(asked) - found.outputs[:, :3]).max() for f in fits]
    assert min(apart) < 1e-3
    with pytest.raises(EvidenceError, match="one class"):
        classes(study(dict.fromkeys(values, 1), values), "site", ("a", "b"))
    nothing = b.Study([], lambda r: Payload(np.zeros((1, 2))), TRAIN, TEST, answers)
    assert classes(nothing, "site", ("a", "b", "c", "nowhere")).outputs[0] == pytest.approx(common, abs=1e-6)


def test_one_class_is_refused_by_its_name(values: dict) -> None:
    nobody = dict.fromkeys(values, (1.0, 0.0))
    with pytest.raises(EvidenceError, match="'large' of 'signs' with training patients of one class"):
        findings(study(nobody, values), "signs", ("large", "grown"))
    low = {p: int(v[0] > 0) for p, v in values.items()}
    with pytest.raises(EvidenceError, match="'III' or more of 'stage'"):
        grade(study(low, values), "stage", GRADES)


def test_who_is_not_known_is_not_labelled(values: dict) -> None:
    answers = {p: int(v[0] > 0) + int(v[0] > 1) for p, v in values.items() if p != "x000"}
    found = grade(study(answers, values), "stage", GRADES)
    assert not found.mask[0]
    assert found.mask[1:].all()
