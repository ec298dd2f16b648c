from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from polyclinic.adaptation.probe import fit_head
from polyclinic.cohort.labels import implied
from polyclinic.schema import Target
from polyclinic.tasks import Findings, Predictions
from polyclinic.tasks.tree import TreeTask, called, lines
from polyclinic.trust.measures.figures import figures

NAN = math.nan
NAMES = ("pneumonia", "opacity", "nodule", "consolidation", "effusion")
TREE = {"pneumonia": "consolidation", "consolidation": "opacity", "nodule": "opacity"}
SOUGHT = {n: {"column": n, "positive": ["Y"], "negative": ["N"]} for n in NAMES}
SPEC = Findings.model_validate({"findings": SOUGHT, "tree": TREE})
PARENTS = (3, -1, 1, 1, -1)


def head(width: int = 3) -> TreeTask:
    task = SPEC.build("chest", type("Sized", (), {"width": width})())  # type: ignore[arg-type]
    assert isinstance(task, TreeTask)
    return task


def loss_of(logits: list[float], known: list[float]) -> float | None:
    target = Target(torch.tensor([implied(known, PARENTS)]), torch.ones(1, dtype=torch.bool))
    loss = head().loss(torch.tensor([logits]), target)
    return None if loss is None else float(loss)


def test_the_tree_is_told_by_places() -> None:
    assert SPEC.parents() == PARENTS
    np.testing.assert_array_equal(
        lines(PARENTS), [[1, 1, 0, 1, 0], [0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 0, 0, 1]]
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=5, max_size=5))
def test_none_is_likelier_than_what_it_is_a_kind_of(logits: list[float]) -> None:
    told = head().answer(torch.tensor([logits]))[0].tolist()
    s = torch.tensor(logits).sigmoid().tolist()
    assert told == pytest.approx([s[0] * s[3] * s[1], s[1], s[2] * s[1], s[3] * s[1], s[4]], rel=1e-4, abs=1e-30)
    for number, parent in enumerate(PARENTS):
        assert parent < 0 or told[number] <= told[parent]


def test_what_cells_imply() -> None:
    assert implied((1, NAN, NAN, NAN, NAN), PARENTS)[:2] == (1, 1)
    assert implied((1, NAN, NAN, NAN, NAN), PARENTS)[3] == 1
    assert implied((NAN, 0, NAN, NAN, 1), PARENTS) == (0, 0, 0, 0, 1)
    kept = implied((NAN, 1, 0, NAN, NAN), PARENTS)
    assert kept[1:3] == (1, 0)
    assert np.isnan([kept[0], kept[3], kept[4]]).all()
    against = implied((1, 0, NAN, NAN, NAN), PARENTS)  # a yes under a no: nobody knows
    assert np.isnan(against).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=5, max_size=5))
def test_what_is_implied_agrees_with_itself(known: list[float]) -> None:
    told = implied(known, PARENTS)
    for number, parent in enumerate(PARENTS):
        if parent >= 0:
            assert not (told[number] == 1 and told[parent] != 1)
            assert not (told[parent] == 0 and told[number] != 0)
    assert implied(told, PARENTS) == pytest.approx(told, nan_ok=True)


def worlds() -> list[tuple[int, ...]]:
    """All that a patient can have."""
    return [w for w in product((0, 1), repeat=5) if all(p < 0 or w[p] >= w[n] for n, p in enumerate(PARENTS))]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=5, max_size=5), st.integers(0, 99))
def test_the_likelihood_is_the_sum_over_all_that_agrees_with_what_is_known(known: list[float], seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=5) * 2
    chance, told, total = 1 / (1 + np.exp(-logits)), implied(known, PARENTS), 0.0
    for world in worlds():
        if all(math.isnan(k) or k == w for k, w in zip(told, world, strict=True)):
            asked = [n for n, p in enumerate(PARENTS) if p < 0 or world[p]]
            total += np.prod([chance[n] if world[n] else 1 - chance[n] for n in asked])
    found = loss_of(list(logits), known)
    if np.isnan(told).all():
        assert found is None
    else:
        assert found == pytest.approx(-math.log(total) / 5, rel=1e-4, abs=1e-6)


def test_the_loss_by_hand() -> None:
    logits = [0.3, -0.2, 0.9, 0.5, -1.0]
    p, o, n, c, e = torch.tensor(logits).sigmoid().tolist()
    # An opacity that is a nodule and no consolidation; of pneumonia nothing is left to tell.
    assert loss_of(logits, [NAN, 1, 1, 0, 0]) == pytest.approx(-math.log(o * n * (1 - c) * (1 - e)) / 5, rel=1e-5)
    # No pneumonia, and of an opacity nothing is known: its chance among all.
    assert loss_of(logits, [0, NAN, NAN, NAN, NAN]) == pytest.approx(-math.log(1 - p * c * o) / 5, rel=1e-5)
    # No opacity: nothing below is asked.
    assert loss_of(logits, [NAN, 0, NAN, NAN, NAN]) == pytest.approx(-math.log(1 - o) / 5, rel=1e-5)
    assert loss_of(logits, [NAN] * 5) is None


def test_extreme_logits_have_a_finite_loss_and_gradient() -> None:
    for signs in product((-200.0, 200.0), repeat=2):
        logits = torch.tensor([[signs[0]] * 2 + [signs[1]] * 3], requires_grad=True)
        for known in ([0, NAN, NAN, NAN, 0], [1, NAN, 1, NAN, 1]):
            loss = head().loss(logits, Target(torch.tensor([implied(known, PARENTS)]), torch.ones(1, dtype=torch.bool)))
            assert loss is not None
            assert loss.isfinite()
            assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_called_is_extended_by_what_it_is_a_kind_of() -> None:
    said = called(np.array([[0.6, 0.4, 0.1, 0.3, 0.2]]), (0.5,) * 5, PARENTS)
    assert said.tolist() == [[1, 1, 0, 1, 0]]


def test_the_hierarchical_f1_is_kiritchenkos() -> None:
    """Per patient the sets, with all that each is a kind of; here without what is unknown of a patient."""
    draws = np.random.default_rng(0)
    outputs = draws.uniform(size=(30, 5))
    truth = np.array([implied(row, PARENTS) for row in draws.choice([0.0, 1, NAN], (30, 5))])
    task = head()
    known = Predictions("chest", tuple(map(str, range(30))), outputs, truth, np.ones(30, bool))
    hits = said = there = 0
    for row, told in zip(outputs, truth, strict=True):
        mine = {a for k in np.flatnonzero(row >= 0.5) for a in np.flatnonzero(lines(PARENTS)[k])}
        mine, true = {k for k in mine if np.isfinite(told[k])}, set(np.flatnonzero(told == 1))
        hits, said, there = hits + len(mine & true), said + len(mine), there + len(true)
    precision, recall = hits / said, hits / there
    wanted = 2 * precision * recall / (precision + recall)
    assert task.score(known)["hierarchical_f1"] == pytest.approx(wanted)
    found = {
        f.name: f for f in figures("findings", known, "split", NAMES, draws=50, thresholds=(0.5,) * 5, parents=PARENTS)
    }
    assert found["hierarchical_f1"].value == pytest.approx(wanted)
    assert found["hierarchical_f1"].low < wanted < found["hierarchical_f1"].high
    plain = figures("findings", known, "split", NAMES, draws=10, thresholds=(0.5,) * 5)
    assert "hierarchical_f1" not in {f.name for f in plain}


def test_fitted_it_tells_the_chances_among_all() -> None:
    """Every other patient's parent is not told, and the parent is rare."""
    draws, n = np.random.default_rng(1), 2000
    there = np.zeros((n, 5))
    there[:, 1] = draws.uniform(size=n) < 0.3
    there[:, 3] = (draws.uniform(size=n) < 0.5) * there[:, 1]
    there[:, 0] = (draws.uniform(size=n) < 0.4) * there[:, 3]
    there[:, 2] = (draws.uniform(size=n) < 0.2) * there[:, 1]
    told = there.copy()
    told[::2, 1] = NAN
    told[::3, 3] = NAN
    target = Target(torch.tensor([implied(row.tolist(), PARENTS) for row in told]), torch.ones(n, dtype=torch.bool))
    task, vectors = head(), torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    fit_head(task, [(vectors, target)], 0, ridge=10.0)
    found = task.answer(task.read(vectors[:1])).detach()[0].numpy()
    np.testing.assert_allclose(found, there.mean(0), atol=0.015)
    assert all(0 <= cut <= 1 for cut in task.thresholds)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"nodule": "mass"}, "no finding 'mass'"),
        ({"mass": "opacity"}, "no finding 'mass'"),
        ({"nodule": "nodule"}, "a kind of itself"),
        ({"nodule": "opacity", "opacity": "effusion", "effusion": "opacity"}, "a kind of itself"),
    ],
)
def test_a_tree_that_is_none_is_refused(tree: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Findings.model_validate({"findings": SOUGHT, "tree": tree})
