from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from polyclinic.fusion import Late
from polyclinic.models import TwoTower, build_model
from polyclinic.objectives import Symile, clip_loss, symile_loss
from polyclinic.objectives.symile import tuples_of
from polyclinic.schema import Modality
from polyclinic.tokens import phantom

ENCODERS = phantom.encoders()
STANDARDS = {m: s.standard() for m, s in ENCODERS.items()}
IMAGE, TEXT, OMICS = Modality.IMAGE, Modality.TEXT, Modality.OMICS


def units(m: int, p: int, e: int) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(p)
    return [F.normalize(torch.randn(p, e, generator=draws), dim=1) for _ in range(m)]


def every(p: int, others: int) -> torch.Tensor:
    return tuples_of(p, others, 10**9, torch.Generator())


@pytest.mark.parametrize(("m", "p"), [(3, 2), (3, 5), (4, 3)])
def test_it_is_the_papers_formula(m: int, p: int) -> None:
    """Equation by equation in a loop: -log of the own tuple's share of all tuples, each modality in turn the anchor."""
    e, scale = 6, 3.0
    vectors = [v.double().numpy() for v in units(m, p, e)]
    losses = []
    for anchor in range(m):
        rest = [vectors[n] for n in range(m) if n != anchor]
        for i in range(p):
            score = {
                rows: scale * e ** ((m - 2) / 2) * sum(
                    vectors[anchor][i, d] * np.prod([v[row, d] for v, row in zip(rest, rows, strict=True)]) for d in range(e)
                )
                for rows in itertools.product(range(p), repeat=m - 1)
            }  # fmt: skip
            losses.append(math.log(sum(math.exp(s) for s in score.values())) - score[(i,) * (m - 1)])
    found = symile_loss(units(m, p, e), torch.tensor(scale), every(p, m - 1))
    assert float(found) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_of_two_modalities_it_is_clips_loss() -> None:
    one, other = units(2, 7, 8)
    scale = torch.tensor(5.0)
    torch.testing.assert_close(symile_loss([one, other], scale, every(7, 1)), clip_loss(one, other, scale))


def test_it_sees_what_no_pair_does() -> None:
    """The third is the exclusive or of the other two, of which any two are independent (the paper's first experiment)."""
    x = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    y = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    scale = 4.0
    joint = symile_loss([x, y, x * y], torch.tensor(scale), every(4, 2))
    assert float(joint) == pytest.approx(math.log(8 + 8 * math.exp(-2 * scale)), rel=1e-5)  # chance is log 16
    for a, b in itertools.combinations((x, y, x * y), 2):
        assert float(clip_loss(a, b, torch.tensor(scale))) >= math.log(4)  # no better than chance


def test_what_is_drawn_is_of_everybody() -> None:
    drawn = tuples_of(20, 3, 500, torch.Generator().manual_seed(0))
    assert drawn.shape == (500, 3)
    assert all(set(column.tolist()) == set(range(20)) for column in drawn.T)
    assert every(3, 2).tolist() == [list(rows) for rows in itertools.product(range(3), repeat=2)]


@pytest.mark.parametrize("tuples", [[[0, 0], [0, 1], [1, 0]], [[1, 1], [1, 1], [0, 0], [0, 1]], [[0, 0]]])
def test_a_patients_own_tuple_counts_once_however_often_it_was_drawn(tuples: list[list[int]]) -> None:
    vectors, drawn = units(3, 2, 4), torch.tensor(tuples)
    found = symile_loss(vectors, torch.tensor(2.0), drawn)
    assert float(found) == pytest.approx(with_own_in_front(vectors, drawn), rel=1e-5)


def with_own_in_front(vectors: list[torch.Tensor], tuples: torch.Tensor) -> float:
    """The loss of three modalities at scale 2, patient by patient: the own tuple first, and every copy of it taken out."""
    losses = []
    for anchor in range(3):
        a, (b, c) = vectors[anchor], [vectors[n] for n in range(3) if n != anchor]
        for i in range(len(a)):
            others = [(j, k) for j, k in tuples.tolist() if (j, k) != (i, i)]
            scores = torch.stack([2.0 * 2.0 * (a[i] * b[j] * c[k]).sum() for j, k in [(i, i), *others]])
            losses.append(F.cross_entropy(scores[None], torch.tensor([0])))
    return float(torch.stack(losses).mean())


def test_only_patients_with_all_of_them_take_part() -> None:
    model = build_model(TwoTower(width=16, embedding=16, fusion=Late()), ENCODERS, phantom.fingerprint(), 0)
    objective = Symile(modalities=(IMAGE, TEXT, OMICS), weight=2.0).build(model, {})
    whole = {IMAGE: 1, TEXT: 1, OMICS: 1}
    has = {"a": whole, "b": {IMAGE: 1, TEXT: 1}, "c": {OMICS: 1}, "d": whole, "e": {}}
    losses = objective(model, phantom.batch(STANDARDS, has), torch.Generator())
    alone = objective(model, phantom.batch(STANDARDS, {p: has[p] for p in "ad"}), torch.Generator())
    assert losses.weights == {"symile/image-text-omics": 2.0}
    torch.testing.assert_close(losses.terms, alone.terms)
    few = {"a": whole, "b": {IMAGE: 1, TEXT: 1}}
    assert objective(model, phantom.batch(STANDARDS, few), torch.Generator()).total is None


def test_a_modality_that_is_named_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="twice"):
        Symile(modalities=(IMAGE, IMAGE, TEXT))
