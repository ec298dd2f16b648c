from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from polyclinic.models import TwoTower, build_model
from polyclinic.schema import Modality
from polyclinic.tasks import Retrieval, TaskError, ranks
from polyclinic.tokens import phantom


@given(st.integers(1, 10), st.integers(0, 99), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_rank_is_scipys_with_ties_against_it(p: int, seed: int, tied: bool) -> None:
    draws = np.random.default_rng(seed)
    draw = (lambda: draws.integers(-1, 2, (p, 2)).astype(float)) if tied else (lambda: draws.normal(size=(p, 4)))
    query, answer = draw(), draw()
    expected = [rankdata(-row, method="max")[i] for i, row in enumerate(query @ answer.T)]
    assert ranks(query, answer).tolist() == expected


def test_ranks_by_hand() -> None:
    same = np.eye(3)
    assert ranks(same, same).tolist() == [1, 1, 1]
    assert ranks(same, np.roll(same, 1, axis=0)).tolist() == [3, 3, 3]  # one is better; the other ties at zero
    assert ranks(np.ones((4, 1)), np.ones((4, 1))).tolist() == [
        4,
        4,
        4,
        4,
    ]  # vectors that say nothing are last, not first
    assert ranks(np.zeros((0, 3)), np.zeros((0, 3))).tolist() == []


def test_a_vector_that_is_not_a_number_is_never_first() -> None:
    query, answer = np.eye(3), np.eye(3)
    query[1] = np.nan
    assert ranks(query, answer).tolist() == [1, 3, 1]
    answer[2] = np.nan
    assert ranks(np.eye(3), answer)[2] == 3


def test_there_is_nothing_to_adapt() -> None:
    model = build_model(TwoTower(width=16, embedding=16), phantom.encoders(), phantom.fingerprint(), 0)
    spec = Retrieval(query=Modality.IMAGE, answer=Modality.TEXT)
    with pytest.raises(TaskError, match="has no head"):
        spec.build("xray_to_note", model)
    assert spec.label("xray_to_note") is None
    assert spec.columns() == ()
