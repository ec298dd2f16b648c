"""What a report says beside its reference, in cases that can be counted by hand, and on the phantom's reports."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.results.findings import phantom

from polyclinic.tasks.correctness import NAMES, correctness, f1, stacked

REFERENCE = "Small left effusion. Possible consolidation in the right lower lobe. No pneumothorax."


def said(written: str, reference: str = REFERENCE) -> dict[str, tuple[float, ...]]:
    counts = correctness(written, reference).said
    return {name: tuple(row) for name, row in zip(NAMES, counts, strict=True) if row.any()}


def test_counts_by_hand() -> None:
    found = said("There is an effusion on the left. There is a pneumothorax.")
    assert found == {
        "effusion": (1, 0, 0),
        "pneumothorax": (0, 1, 0),
        "consolidation": (0, 0, 1),
        "lung_opacity": (0, 0, 1),
    }


def test_absent_is_not_said_and_doubted_is() -> None:
    assert said("No effusion.", "No pneumothorax.") == {}
    assert said("Possible effusion.", "Effusion.") == {"effusion": (1, 0, 0)}


def test_one_word_turns_the_finding_but_hardly_the_words() -> None:
    assert said("No left effusion.", "Small left effusion.") == {"effusion": (0, 0, 1)}


@pytest.mark.parametrize(
    ("written", "sides", "places"),
    [
        ("Effusion on the right.", (1, 1), (0, 0)),
        ("Effusion on the left.", (1, 0), (0, 0)),
        ("Bilateral effusions.", (1, 1), (0, 0)),
        ("Effusion.", (0, 0), (0, 0)),
        ("Consolidation in the right upper lobe.", (1, 0), (1, 1)),
        ("Consolidation in the right upper and lower lobes.", (1, 0), (1, 0)),
    ],
)
def test_sides_and_places(written: str, sides: tuple[int, int], places: tuple[int, int]) -> None:
    found = correctness(written, REFERENCE)
    assert (found.sides, found.places) == (sides, places)


def test_an_earlier_study() -> None:
    found = correctness("Left effusion, unchanged since the prior study.", REFERENCE)
    assert (found.compared, found.reference_compared) == (True, False)


def test_f1() -> None:
    assert f1(np.array([[2, 1, 1], [0, 0, 0]]))[0] == pytest.approx(2 / 3)
    assert np.isnan(f1(np.array([0, 0, 0])))


@pytest.mark.parametrize("language", ["en", "es"])
def test_a_report_beside_itself_is_right(language: str) -> None:
    texts = [phantom(i, language, seed=8)[0] for i in range(40)]
    counts = stacked([correctness(t, t, language) for t in texts])
    assert counts[..., 1:].sum() == 0
    assert counts[..., 0].sum() > 40
    assert stacked([]).shape == (0, len(NAMES), 3)
