from __future__ import annotations

import numpy as np
import pytest

from polyclinic.schema import Modality
from polyclinic.tasks import Classification, Predictions, Retrieval, Segmentation, Survival
from polyclinic.tasks.task import TaskFields


def test_predictions_of_some_patients_keep_their_rows_together() -> None:
    has = ((Modality.IMAGE,), (), (Modality.TEXT, Modality.IMAGE))
    made = Predictions(
        "t",
        ("a", "b", "c"),
        np.array([1.0, 2, 3]),
        np.array([[1, 1], [2, 0], [3, 1]]),
        np.array([True, False, True]),
        has,
    )
    kept = made.labelled()
    assert kept.patients == ("a", "c")
    assert kept.outputs.tolist() == [1, 3]
    assert kept.targets.tolist() == [[1, 1], [3, 1]]
    assert kept.modalities == (has[0], has[2])
    nobody = made.where(np.zeros(3, bool))
    assert (nobody.patients, len(nobody.outputs), nobody.modalities) == ((), 0, ())
    assert Predictions("t", ("a",), np.zeros(1), np.zeros(1), np.ones(1, bool)).labelled().modalities == ()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (Classification(column="went_icu", positive=("Y",)), "Is “went icu” Y?"),
        (Classification(column="finding", positive=("MERS", "SARS")), "Is “finding” MERS or SARS?"),
        (
            Segmentation(structure="hippocampus", classes=("head", "tail")),
            "Where are the parts of the hippocampus: head, tail?",
        ),
        (Survival(time="survival_months", event="censorship"), "Whose event comes sooner, by “survival months”?"),
        (Retrieval(query=Modality.IMAGE, answer=Modality.TEXT), "Does a patient's X-ray find their own note?"),
    ],
)
def test_what_a_task_asks(spec: TaskFields, words: str) -> None:
    assert spec.asks({"image": "X-ray", "text": "note"}) == words
