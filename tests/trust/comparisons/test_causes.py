"""The baselines of several events, on patients whose hazards are known."""

from __future__ import annotations

import numpy as np
import pytest

from polyclinic.schema import Modality, Payload, Record
from polyclinic.trust import EvidenceError, figure
from polyclinic.trust.comparisons import baselines as b
from polyclinic.trust.comparisons.causes import cause_specific, incidences, nobody

TRAIN, TEST = tuple(f"t{i:03}" for i in range(250)), tuple(f"x{i:03}" for i in range(150))
NAMES = ("death", "transplant")


@pytest.fixture(scope="module")
def study() -> b.Study:
    """Exponential times to either event, each hastened by a cell of its own, and to the end of observation."""
    random = np.random.default_rng(0)
    values = {p: random.normal(size=2) for p in (*TRAIN, *TEST)}
    answers = {}
    for patient, cells in values.items():
        came = [random.exponential(20 / np.exp(1.2 * cell)) for cell in cells]
        until = random.exponential(60)
        first = int(np.argmin(came))
        answers[patient] = (min(*came, until), float(first + 1 if came[first] < until else 0), 0.0)
    records = [Record(p, p, None, Modality.TABLE, "row", "", None, None, {}) for p in values]
    load = lambda r: Payload(np.array([[v, 0.0] for v in values[r.patient]]), names=("marker", "size"))
    return b.Study(records, load, TRAIN, TEST, answers)


def test_constant_hazards_give_the_incidences_of_the_formula() -> None:
    at = np.linspace(0.001, 10, 10000)
    steps = np.diff(at, prepend=0.0)
    grown = np.array([[0.05 * steps, 0.2 * steps]])
    ends = np.array([0.0005, 2.0, 5.0, 10.0])
    found = incidences(grown, at, ends)[0]
    every = 1 - np.exp(-0.25 * ends[1:])
    np.testing.assert_allclose(found[:, 1:], np.outer([0.2, 0.8], every), rtol=1e-3)
    assert (found[:, 0] == 0).all(), "before the first event nobody has one"


def test_each_event_has_its_own_risks(study: b.Study) -> None:
    found = cause_specific(study, "course", NAMES, 8)
    assert found.outputs.shape == (150, 2, 8)
    assert (np.diff(found.outputs, axis=2) >= -1e-12).all()
    assert (found.outputs.sum(1) <= 1 + 1e-9).all()
    assert figure("macro_concordance", found, "s", draws=50).low > 0.65
    # On average they are the training patients' own, of whom many were not followed until their event.
    null = nobody(study, "course", NAMES, 8)
    assert np.ptp(null.outputs, axis=0).max() == 0
    assert found.outputs[:, :, 3].mean(0) == pytest.approx(null.outputs[0, :, 3], abs=0.06)
    assert figure("macro_concordance", null, "s", draws=50).value == pytest.approx(0.5)


def test_one_event_is_ranked_as_by_cox(study: b.Study) -> None:
    alone = {p: (t, float(e == 1), 0.0) for p, (t, e, _) in study.answers.items()}
    told = cause_specific(b.Study(study.records, study.load, TRAIN, TEST, alone), "x", ("death",), 6)
    pairs = {p: (t, e) for p, (t, e, _) in alone.items()}
    cox = b.cox(b.Study(study.records, study.load, TRAIN, TEST, pairs), "x")
    assert np.array_equal(np.argsort(told.outputs[:, 0].mean(1)), np.argsort(cox.outputs))


def test_without_an_event_or_a_cell_there_is_none(study: b.Study) -> None:
    never = {p: (t, 0.0, 0.0) for p, (t, *_) in study.answers.items()}
    for make in (cause_specific, nobody):
        with pytest.raises(EvidenceError, match=r"0 events|without an event"):
            make(b.Study(study.records, study.load, TRAIN, TEST, never), "course", NAMES, 8)
    with pytest.raises(EvidenceError, match="0 features"):
        cause_specific(b.Study([], study.load, TRAIN, TEST, study.answers), "course", NAMES, 8)
    rare = {p: (t, float(e == 1), 0.0) for p, (t, e, _) in study.answers.items()}
    found = cause_specific(b.Study(study.records, study.load, TRAIN, TEST, rare), "course", NAMES, 8)
    assert (found.outputs[:, 1] == 0).all(), "an event that nobody had has no risk"
