from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.fusion import Late
from polyclinic.models import TwoTower, build_model
from polyclinic.objectives import Contrastive, clip_loss
from polyclinic.schema import Modality
from polyclinic.tokens import phantom

ENCODERS = phantom.encoders()
STANDARDS = {m: s.standard() for m, s in ENCODERS.items()}


def unit(p: int, e: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(p, e, generator=torch.Generator().manual_seed(seed)), dim=1)


def model_of():
    return build_model(TwoTower(width=16, embedding=16, fusion=Late()), ENCODERS, phantom.fingerprint(), 0)


@given(st.integers(2, 9), st.floats(0.1, 100), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_it_is_clips_loss(p: int, scale: float, seed: int) -> None:
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    one, other = unit(p, 8, seed), unit(p, 8, seed + 1)
    theirs = image_text_contrastive_loss(scale * one @ other.T)
    torch.testing.assert_close(clip_loss(one, other, torch.tensor(scale)), theirs, atol=1e-5, rtol=1e-5)


def test_cases_by_hand() -> None:
    same, scale = torch.eye(3), torch.tensor(2.0)
    expected = math.log(math.exp(2) + 2) - 2  # each row: its own at 1, two others at 0
    assert float(clip_loss(same, same, scale)) == pytest.approx(expected, rel=1e-5)
    alike = torch.ones(4, 1)
    assert float(clip_loss(alike, alike, scale)) == pytest.approx(math.log(4), rel=1e-5)  # nobody is told apart


def test_its_gradient_is_the_differences() -> None:
    one, other = (unit(4, 3, s).double().requires_grad_() for s in (0, 1))
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(clip_loss, (one, other, scale))


def test_bfloat16_does_not_round_the_similarities() -> None:
    one, other, scale = unit(16, 64, 0), unit(16, 64, 1), torch.tensor(100.0)
    exact = clip_loss(one, other, scale)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(clip_loss(one, other, scale), exact)


def test_only_pairs_that_two_patients_have_are_compared() -> None:
    image, text, table = Modality.IMAGE, Modality.TEXT, Modality.TABLE
    has = {"a": {image: 1, text: 1, table: 1}, "b": {image: 1, table: 1}, "c": {text: 2, image: 1}, "d": {}}
    model, batch = model_of(), phantom.batch(STANDARDS, has)
    losses = Contrastive(weight=3.0).build(model, {})(model, batch, torch.Generator())
    assert losses.weights == {
        "contrastive/image-text": 1.5,
        "contrastive/image-table": 1.5,
    }  # a alone has text and table
    towers = model.towers(model.encode(batch))
    expected = clip_loss(towers[image].vectors[[0, 2]], towers[text].vectors, torch.tensor(1 / 0.07))
    torch.testing.assert_close(losses.terms["contrastive/image-text"], expected)


def test_patients_without_a_partner_get_no_gradient() -> None:
    image, text = Modality.IMAGE, Modality.TEXT
    model = model_of()
    batch = phantom.batch(STANDARDS, {"a": {image: 1, text: 1}, "b": {image: 1}, "c": {image: 1, text: 1}})
    pictures = batch.payloads[image].values
    assert isinstance(pictures, torch.Tensor)
    pictures.requires_grad_()
    total = Contrastive().build(model, {})(model, batch, torch.Generator()).total
    assert total is not None
    gradient = torch.autograd.grad(total, pictures)[0].flatten(1).abs().sum(1)
    assert (gradient > 0).tolist() == [True, False, True]


def test_pairs_that_are_named() -> None:
    spec = Contrastive.model_validate({"kind": "contrastive", "pairs": [["omics", "table"]]})
    assert spec.named() == {Modality.OMICS, Modality.TABLE}
    model, batch = model_of(), phantom.batch(STANDARDS, {p: dict.fromkeys(ENCODERS, 1) for p in "ab"})
    assert list(spec.build(model, {})(model, batch, torch.Generator()).terms) == ["contrastive/omics-table"]


def test_the_temperature_is_learned_and_its_inverse_stays_below_a_hundred() -> None:
    model, batch = model_of(), phantom.batch(STANDARDS, {p: {Modality.IMAGE: 1, Modality.TEXT: 1} for p in "abc"})
    objective = Contrastive(temperature=0.5).build(model, {})
    assert objective.log_scale.exp().item() == pytest.approx(2.0)
    total = objective(model, batch, torch.Generator()).total
    assert total is not None
    total.backward()
    assert objective.log_scale.grad is not None
    assert objective.log_scale.grad.item() != 0
    largest, beyond = (
        Contrastive(temperature=t).build(model, {})(model, batch, torch.Generator()).total for t in (0.01, 1e-4)
    )
    torch.testing.assert_close(largest, beyond)
