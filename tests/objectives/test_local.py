from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from polyclinic.fusion import Early, Intermediate
from polyclinic.models import TwoTower, Unified, build_model
from polyclinic.objectives import Local, local_loss
from polyclinic.objectives.embeddings import Pieces, pieces
from polyclinic.objectives.local import local_similarity
from polyclinic.schema import Modality
from polyclinic.tokens import phantom

ENCODERS = phantom.encoders()
STANDARDS = {m: s.standard() for m, s in ENCODERS.items()}
IMAGE, TEXT = Modality.IMAGE, Modality.TEXT
ATTENTION, POOLING, TEMPERATURE = 0.25, 0.2, 0.1


def some(lengths: list[int], e: int, seed: int) -> Pieces:
    """Unit vectors; what lies beyond a patient's length is not zero, so that nobody may read it."""
    draws = torch.Generator().manual_seed(seed)
    vectors = F.normalize(torch.randn(len(lengths), max(lengths), e, generator=draws), dim=2)
    inside = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Pieces(vectors, inside, torch.arange(len(lengths)))


def by_loops(words: list[np.ndarray], regions: list[np.ndarray]) -> np.ndarray:
    """The paper's formulas for one note and one image at a time."""
    out = np.zeros((len(words), len(regions)))
    for p, t in enumerate(words):
        for q, v in enumerate(regions):
            cosines = []
            for word in t:
                weights = np.exp(v @ word / ATTENTION)
                context = (weights / weights.sum()) @ v
                cosines.append(context @ word / np.linalg.norm(context) / np.linalg.norm(word))
            out[p, q] = math.log(np.mean(np.exp(np.array(cosines) / POOLING)))
    return out


def test_it_is_the_papers_formula() -> None:
    words, regions = some([3, 1, 5, 2], 6, 0), some([4, 4, 2, 6], 6, 1)
    alone = lambda x: [v[i].double().numpy() for v, i in zip(x.vectors, x.inside, strict=True)]
    expected = by_loops(alone(words), alone(regions))
    found = local_similarity(words, regions, ATTENTION, POOLING)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    shares = lambda x: x - np.log(np.exp(x).sum(1, keepdims=True))
    both = [np.diag(shares(x / TEMPERATURE)).mean() for x in (expected, expected.T)]
    loss = local_loss(words, regions, ATTENTION, POOLING, TEMPERATURE)
    assert float(loss) == pytest.approx(-sum(both) / 2, rel=1e-4)


def test_a_word_finds_its_region_wherever_that_lies() -> None:
    words = Pieces(torch.eye(4)[:, None], torch.ones(4, 1, dtype=torch.bool), torch.arange(4))
    regions = torch.eye(4)[torch.tensor([[0, 1], [1, 0], [2, 3], [3, 2]])]  # two patients share a pair of regions
    found = local_similarity(words, Pieces(regions, torch.ones(4, 2, dtype=torch.bool), torch.arange(4)), 0.01, 0.2)
    expected = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]) / 0.2
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_longer_note_is_not_liked_better_for_its_length() -> None:
    one, regions = some([2, 2], 5, 0), some([3, 3], 5, 1)
    twice = Pieces(one.vectors.repeat(1, 2, 1), one.inside.repeat(1, 2), one.patient)
    similar = [local_similarity(x, regions, ATTENTION, POOLING) for x in (one, twice)]
    torch.testing.assert_close(*similar)


def test_its_gradient_is_the_differences() -> None:
    words, regions = some([2, 1], 3, 0), some([2, 3], 3, 1)

    def loss(t: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return local_loss(
            Pieces(t, words.inside, words.patient), Pieces(v, regions.inside, regions.patient), 0.5, 0.5, 0.5
        )

    inputs = [x.vectors.double().requires_grad_() for x in (words, regions)]
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("kind", [TwoTower, Unified])
@pytest.mark.parametrize("fusion", [Intermediate(depth=1, heads=2), Early(depth=1, heads=2)])
def test_pieces_are_the_tokens_of_one_patient_at_a_time(kind: type[TwoTower | Unified], fusion: Intermediate) -> None:
    model = build_model(kind(width=16, embedding=8, fusion=fusion), ENCODERS, phantom.fingerprint(), 0)
    has = {"a": {TEXT: 2, IMAGE: 1}, "b": {IMAGE: 2}, "c": {}, "d": {TEXT: 1}}
    together = pieces(model, phantom.batch(STANDARDS, has), None)
    assert together[TEXT].patient.tolist() == [0, 3]
    assert together[IMAGE].inside.sum(1).tolist() == [16, 32]
    for row, name in enumerate("ad"):
        alone = pieces(model, phantom.batch(STANDARDS, {name: {TEXT: has[name][TEXT]}}), None)[TEXT]
        mine = together[TEXT].vectors[row][together[TEXT].inside[row]]
        torch.testing.assert_close(mine, alone.vectors[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(mine.norm(dim=1), torch.ones(len(mine)))


def test_each_direction_is_its_own_term() -> None:
    model = build_model(TwoTower(width=16, embedding=16), ENCODERS, phantom.fingerprint(), 0)
    batch = phantom.batch(
        STANDARDS, {"a": {TEXT: 1, IMAGE: 1}, "b": {IMAGE: 1}, "c": {TEXT: 2, IMAGE: 1}, "d": {TEXT: 1}}
    )
    spec = Local(pairs=((TEXT, IMAGE), (IMAGE, TEXT), (TEXT, Modality.OMICS)), weight=3.0)
    losses = spec.build(model, {})(model, batch, torch.Generator())
    assert losses.weights == {"local/text-image": 1.5, "local/image-text": 1.5}
    whole = phantom.batch(STANDARDS, {"a": {TEXT: 1, IMAGE: 1}, "c": {TEXT: 2, IMAGE: 1}})
    torch.testing.assert_close(losses.terms, spec.build(model, {})(model, whole, torch.Generator()).terms)


def test_a_pair_of_a_modality_with_itself_is_refused() -> None:
    with pytest.raises(ValidationError, match="with itself"):
        Local(pairs=((TEXT, TEXT),))
