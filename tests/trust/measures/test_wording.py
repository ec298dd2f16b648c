"""Figures of reports: equal to what is counted by hand, with n and an interval, and what is not known is not made up."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from benchmarks.results.findings import phantom

from polyclinic.schema import Modality, Record
from polyclinic.tasks import Predictions
from polyclinic.tasks.wording import bleu, bleu_counts, words
from polyclinic.trust.measures.wording import report_figures, with_earlier

WRITTEN = [
    "Left effusion.", "Right effusion, unchanged since the prior study.", "No effusion. Cardiomegaly.", "Nodule.",
    "No pneumothorax is seen.", "Left effusion. Possible nodule.",
]  # fmt: skip
REFERENCES = [
    "Left effusion.",
    "Left effusion.",
    "Effusion on the left.",
    "No nodule.",
    "No pneumothorax is seen.",
    "Nodule.",
]


def answers(written: list[str] = WRITTEN, references: list[str] = REFERENCES) -> Predictions:
    names = tuple(f"p{i}" for i in range(len(written)))
    return Predictions(
        "report",
        names,
        np.array(written, dtype=object),
        np.array(references, dtype=object),
        np.ones(len(names), dtype=bool),
    )


def test_figures_are_what_is_counted() -> None:
    found = {f.name: f for f in report_figures(answers(), "hash", earlier={"p0"}, draws=200)}
    # effusion: 2 both, 1 extra (p5), 1 missed (p2); cardiomegaly and its kind above: 1 extra each;
    # nodule and the two above: 1 both, 1 extra.
    both, extra, missed = 2 + 3, 1 + 2 + 3, 1
    assert found["finding_f1"].value == pytest.approx(2 * both / (2 * both + extra + missed))
    assert found["finding_precision"].value == pytest.approx(both / (both + extra))
    assert found["finding_recall"].value == pytest.approx(both / (both + missed))
    assert found["f1: effusion"].value == pytest.approx(2 / 3)
    assert found["f1: cardiomegaly"].value == 0
    assert found["side_errors"].value == pytest.approx(1 / 2)
    assert found["prior_made_up"].value == pytest.approx(1 / 5)
    assert found["prior_made_up"].n == 5
    counts = sum(bleu_counts(words(w), words(r)) for w, r in zip(WRITTEN, REFERENCES, strict=True))
    assert found["bleu_1"].value == pytest.approx(float(bleu(np.asarray(counts), 1)))
    for figure in found.values():
        assert figure.split == "hash"
        if np.isfinite(figure.low):
            assert figure.low <= figure.value <= figure.high
    assert found["finding_f1"].low < found["finding_f1"].value < found["finding_f1"].high


def test_comparisons_with_an_earlier_study() -> None:
    """Right, wrong, left out and made up: counted by hand."""
    pairs = [
        ("Nodule, unchanged since the prior study.", "Nodule, unchanged since the prior study."),
        ("There is a nodule. It has grown.", "Nodule, unchanged since the prior study."),
        ("There is a nodule.", "There is a nodule. It is new since the prior study."),
        ("Effusion, resolving.", "Effusion."),
        ("Nodule compared with the prior study.", "Nodule."),
        ("No nodule.", "No nodule."),
    ]
    told = answers([w for w, _ in pairs], [r for _, r in pairs])
    found = {f.name: f for f in report_figures(told, "hash", earlier={"p0", "p1", "p2"}, draws=50)}
    # Said alike: p0; only written: p1 larger, p3 smaller; only in the reference: p1 unchanged, p2 new. To name a study is no change.
    assert found["change_f1"].value == pytest.approx(2 * 1 / (2 * 1 + 2 + 2))
    assert found["change_errors"].value == pytest.approx(1 / 2)  # of p0 and p1
    assert found["prior_missed"].value == pytest.approx(1 / 3)  # p2
    assert found["prior_missed"].n == 3
    assert found["prior_made_up"].value == pytest.approx(2 / 3)  # p3 and p4, not p5
    assert found["prior_made_up"].n == 3
    assert "prior_missed" not in {f.name for f in report_figures(told, "hash", draws=50)}


def test_perfect_reports() -> None:
    found = {f.name: f.value for f in report_figures(answers(REFERENCES, REFERENCES), "hash", draws=50)}
    assert found["finding_f1"] == found["bleu_1"] == found["rouge_l"] == 1
    assert found["side_errors"] == 0
    assert "prior_made_up" not in found


def test_only_patients_with_a_reference_count() -> None:
    some = replace(answers(), mask=np.array([True, True, False, False, True, False]))
    assert {f.n for f in report_figures(some, "hash", draws=50)} == {3}


def test_no_reference_at_all_is_said() -> None:
    none = replace(answers(), mask=np.zeros(6, dtype=bool))
    assert all(np.isnan(f.value) for f in report_figures(none, "hash", draws=50))


def test_words_alone_mislead() -> None:
    """The same denials for everybody sound like the phantom's reports and say nothing."""
    references = [phantom(i, "en", seed=3)[0] for i in range(60)]
    denials = " ".join(
        f"No {noun}." for noun in ("consolidation", "nodule", "pleural effusion", "cardiomegaly", "emphysema")
    )
    usual = f"Indication: Dyspnoea.\n\nComparison: None.\n\nFindings: {denials}\n\nImpression: No acute finding."
    found = {f.name: f.value for f in report_figures(answers([usual] * 60, references), "hash", draws=20)}
    assert found["bleu_4"] > 0.1
    assert found["rouge_l"] > 0.4
    assert found["finding_f1"] == 0


def test_an_earlier_study_is_one_of_another_time() -> None:
    def image(patient: str, day: int | None, modality: Modality = Modality.IMAGE) -> Record:
        time = None if day is None else datetime(2020, 1, day)
        return Record(f"{patient}{day}{modality}", patient, time, modality, "CR chest", "x", None, None, {})

    records = [image("a", 1), image("a", 2), image("b", 1), image("b", 1), image("c", None), image("c", 3), image("d", 1),
               image("d", 2, Modality.TEXT)]  # fmt: skip
    cohort = cast(Any, SimpleNamespace(records=lambda where: records))
    assert with_earlier(cohort, None, [Modality.IMAGE]) == {"a"}
