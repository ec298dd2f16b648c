"""The words beside an answer are those that the measured patients bear out."""

from __future__ import annotations

import math

import pytest

from polyclinic.clinic.evidence import about, headline
from polyclinic.schema import Figure, Modality
from polyclinic.tasks import Answer
from polyclinic.trust import Evidence
from polyclinic.trust.measures.calibration import Bin, Calibration, wilson
from polyclinic.trust.modalities.subsets import Subset

IMAGE, TEXT = Modality.IMAGE, Modality.TEXT


def figure(
    value: float, low: float, high: float, n: int = 40, name: str = "auroc", note: str = "95% interval, bootstrap"
) -> Figure:
    return Figure(name, value, low, high, n, "s", note)


def known(first: Figure, hits: tuple[int, ...] = (), n: int = 20, parts: tuple[Subset, ...] = ()) -> Evidence:
    """Bins of n patients at 0.1, 0.3, … with so many hits."""
    bins = tuple(Bin(0.1 + 0.2 * k, h / n, *wilson(h, n), n) for k, h in enumerate(hits))
    curve = Calibration(bins, (), n * len(bins), "") if bins else None
    return Evidence("r", "finding", "classification", "probe", ("image", "text"), 8, "s", "w", (first,), curve, parts)


def classified(score: float, used: tuple[Modality, ...] = (IMAGE, TEXT)) -> Answer:
    return Answer(f"COVID-19: score {score}", {"score": score, "finding": "COVID-19"}, used)


@pytest.mark.parametrize(
    ("score", "hits", "words"),
    [
        (0.95, (1, 19), "more likely than not"),  # nearest to 0.3, where 19 of 20 had it
        (0.05, (1, 19), "less likely than not"),
        (0.01, (10, 19), "not clear"),  # the score is near 0, and yet half of such patients had it
        (0.99, (1, 12), "not clear"),  # 12 of 20: the interval holds a half
    ],
)
def test_the_word_is_that_of_the_test_patients_and_not_of_the_score(
    score: float, hits: tuple[int, ...], words: str
) -> None:
    answer = classified(score)
    told, evidence = about(answer, known(figure(0.9, 0.8, 0.95), hits), "")
    assert headline(answer, evidence) == f"COVID-19: {words} (score {score:.2f})"
    near = 0.1 if abs(score - 0.1) < abs(score - 0.3) else 0.3
    came = hits[0] if near == 0.1 else hits[1]
    assert (
        f"Of the 20 test patients with the nearest scores (mean {near:.2f}, from everything they had) the truth was yes for {came}"
        in told
    )
    assert f"{came / 20:.0%}" in told
    assert evidence is not None
    assert evidence.alike is not None
    assert (evidence.alike.low, evidence.alike.high) == wilson(came, 20)


def test_a_score_of_which_nothing_is_known_gets_no_word() -> None:
    answer = classified(0.97)
    told, evidence = about(answer, None, "Nothing is known.")
    assert (told, evidence) == ("Nothing is known.", None)
    assert headline(answer, evidence) == "COVID-19: score 0.97, of unknown meaning"


def test_what_is_read_decides_which_figure_counts() -> None:
    parts = (Subset(("image",), figure(0.5, 0.3, 0.7, n=31), 31),)
    measured = known(figure(0.9, 0.8, 0.95), parts=parts)
    told, evidence = about(classified(0.5, (IMAGE,)), measured, "")
    assert told.startswith("From image alone, on 31 patients the model never saw: AUROC 0.50 (0.30 to 0.70; ")
    assert "no better than a guess is not excluded" in told
    assert evidence is not None
    assert (evidence.metric.value, evidence.metric.modalities) == (0.5, ["image"])
    told, _ = about(classified(0.5), measured, "")
    assert told.startswith("On 40 patients the model never saw: AUROC 0.90")
    assert "guess" not in told
    told, evidence = about(classified(0.5, (TEXT,)), measured, "")
    assert told.startswith(
        "How often it is right from text alone was not measured. With everything they had, on 40 patients"
    )
    assert evidence is not None
    assert evidence.metric.modalities == ["image", "text"]


def test_what_could_not_be_measured_is_no_number() -> None:
    nan = math.nan
    told, evidence = about(classified(0.5), known(figure(nan, nan, nan, 3, note="not defined: one class")), "")
    assert told == "On 3 patients the model never saw, nothing could be measured: not defined: one class."
    assert evidence is not None
    assert (evidence.metric.value, evidence.metric.low) == (None, None)


def test_other_tasks_keep_their_sentence() -> None:
    answer = Answer("hippocampus: anterior 1.2 mL", {"anterior_ml": 1.2}, (IMAGE, TEXT))
    told, evidence = about(answer, known(figure(0.8, 0.7, 0.85, name="dice")), "")
    assert told == "On 40 patients the model never saw: Dice 0.80 (0.70 to 0.85; 95% interval, bootstrap)."
    assert headline(answer, evidence) == answer.headline
    assert evidence is not None
    assert (evidence.alike, evidence.metric.chance) == (None, None)
