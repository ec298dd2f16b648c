from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.fusion import Intermediate
from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import ObjectiveError, SegmentationPart, Structure, dice_cross_entropy
from polyclinic.objectives.segmentation import labelled_loss, mask_decoder
from polyclinic.schema import Batch, Modality, Target
from polyclinic.tokens import Vit, phantom

ENCODERS = phantom.encoders()
STANDARDS = {m: s.standard() for m, s in ENCODERS.items()}
SPEC = SegmentationPart(task="structure", channels=2, weight=2.0)


def model_of(*some: Modality) -> Model:
    """Of all modalities, or of some."""
    encoders = {m: ENCODERS[m] for m in some or ENCODERS}
    spec = TwoTower(width=16, embedding=16, fusion=Intermediate(depth=1, heads=2))
    return build_model(spec, encoders, phantom.fingerprint(), 0)


def built(model: Model):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SPEC.build(model, {"structure": Structure(Modality.VOLUME, ("one", "two"))})


def batch(known: list[bool], has: dict[str, dict[Modality, int]]) -> Batch:
    made = phantom.batch(STANDARDS, has)
    values = made.payloads[Modality.VOLUME].values
    assert isinstance(values, torch.Tensor)
    masks = [(v[0] > 0).long() + (v[0] > 1).long() for v in values]
    made.targets["structure"] = Target(masks, torch.tensor(known))
    return made


def by_loops(logits: np.ndarray, masks: np.ndarray) -> float:
    """The definition, sample by sample, in float64: mean of -log p, plus one minus the mean Dice of the foreground classes."""
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    crossed = -np.mean(
        [np.log(p[i, masks[i][at], *at]) for i in range(len(masks)) for at in np.ndindex(*masks[i].shape)]
    )
    scores = []
    for k in range(1, logits.shape[1]):
        truth = masks == k
        scores.append((2 * (p[:, k] * truth).sum() + 1) / (p[:, k].sum() + truth.sum() + 1))
    return float(crossed + 1 - np.mean(scores))


@given(st.integers(1, 3), st.integers(2, 4), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_the_loss_is_its_definition(m: int, k: int, seed: int) -> None:
    draws = np.random.default_rng(seed)
    logits, masks = draws.normal(size=(m, k, 3, 4, 2)) * 3, draws.integers(0, k, (m, 3, 4, 2))
    found = dice_cross_entropy(torch.tensor(logits), torch.tensor(masks))
    assert float(found) == pytest.approx(by_loops(logits, masks), rel=1e-5)


def test_cases_by_hand() -> None:
    masks = torch.tensor([[[0, 1], [2, 1]]])
    sure = 100.0 * torch.nn.functional.one_hot(masks, 3).movedim(-1, 1).float()
    assert float(dice_cross_entropy(sure, masks)) == pytest.approx(0.0, abs=1e-6)
    even = torch.zeros(1, 2, 2, 2)  # half of every sample: crossed log 2, Dice (2 * 1 + 1) / (2 + 2 + 1)
    assert float(dice_cross_entropy(even, torch.tensor([[[0, 1], [0, 1]]]))) == pytest.approx(
        np.log(2) + 1 - 3 / 5, rel=1e-5
    )


def test_its_gradient_is_the_differences() -> None:
    logits = torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    masks = torch.tensor([[[0, 1], [2, 1]], [[0, 0], [1, 1]]])
    assert torch.autograd.gradcheck(lambda x: dice_cross_entropy(x, masks), (logits,))


def test_unlabelled_records_get_exactly_no_gradient() -> None:
    logits = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    masks = [torch.zeros(4, 4, dtype=torch.int64)] * 3
    loss = labelled_loss(logits, Target(masks, torch.tensor([False, True, False])))
    assert loss is not None
    gradient = torch.autograd.grad(loss, logits)[0].flatten(1).abs().sum(1)
    assert (gradient > 0).tolist() == [False, True, False]
    torch.testing.assert_close(loss, dice_cross_entropy(logits[1:2], masks[1][None]))
    assert labelled_loss(logits, Target(masks, torch.zeros(3, dtype=torch.bool))) is None


@pytest.mark.parametrize("label", [2, -1])
def test_a_label_beyond_the_classes_is_named(label: int) -> None:
    mask = torch.full((4, 4), label)
    with pytest.raises(ObjectiveError, match=f"{label}.*\n.*1 to 1.*\n.*classes"):
        labelled_loss(torch.zeros(1, 2, 4, 4), Target([mask], torch.tensor([True])))


def test_patients_without_a_mask_change_nothing() -> None:
    """They are not decoded: the term is that of the others alone, whoever else is there."""
    model, has = (
        model_of(),
        {"a": {Modality.VOLUME: 1, Modality.TEXT: 1}, "b": {Modality.VOLUME: 2}, "c": {Modality.OMICS: 1}},
    )
    objective = built(model)
    losses = objective(model, batch([True, False, False], has), torch.Generator())
    alone = objective(model, batch([True], {"a": has["a"]}), torch.Generator())
    assert losses.weights == {"segmentation/structure": 2.0}
    torch.testing.assert_close(
        losses.terms["segmentation/structure"], alone.terms["segmentation/structure"], atol=1e-5, rtol=1e-5
    )


def test_of_a_patients_two_volumes_the_one_with_a_mask_counts() -> None:
    model = model_of()
    data = batch([False, True], {"a": {Modality.VOLUME: 2}})
    volumes = data.payloads[Modality.VOLUME].values
    assert isinstance(volumes, torch.Tensor)
    volumes.requires_grad_()
    objective = built(model)
    one = objective(model, data, torch.Generator()).terms["segmentation/structure"]
    assert isinstance(data.targets["structure"].values, list)
    data.targets["structure"].values[0] = 2 * torch.ones_like(data.targets["structure"].values[0])
    assert torch.equal(objective(model, data, torch.Generator()).terms["segmentation/structure"], one)
    assert (
        torch.autograd.grad(one, volumes)[0].flatten(1).abs().sum(1).all()
    )  # the first is seen by the second's tokens


def test_it_learns_a_box() -> None:
    model = model_of(Modality.VOLUME)
    data, objective = batch([True], {"a": {Modality.VOLUME: 1}}), built(model)
    box = torch.zeros(16, 16, 24, dtype=torch.int64)
    box[4:12, 2:10, 6:20], box[6:10, 4:8, 8:14] = 1, 2
    data.targets["structure"].values = [box]
    adam = torch.optim.Adam([*model.parameters(), *objective.parameters()], 3e-2)
    found = []
    for _ in range(25):
        total = objective(model, data, torch.Generator()).total
        assert total is not None
        adam.zero_grad()
        total.backward()
        adam.step()
        found.append(total.item())
    assert found[-1] < 0.5 * found[0]


def test_a_model_that_cannot_be_asked_says_so() -> None:
    model = model_of(Modality.TEXT)
    with pytest.raises(ObjectiveError, match="volume, which the model does not read"):
        SPEC.build(model, {"structure": Structure(Modality.VOLUME, ("one", "two"))})
    with pytest.raises(ObjectiveError, match="no grid"):
        mask_decoder(model, Modality.TEXT, 2, 2)


def test_the_decoder_of_images_and_of_volumes() -> None:
    model: Any = model_of()
    data = phantom.batch(STANDARDS, {"a": {Modality.IMAGE: 2, Modality.VOLUME: 1}, "b": {Modality.IMAGE: 1}})
    tokens = model(data).tokens
    for modality, shape in ((Modality.IMAGE, (3, 4, 32, 32)), (Modality.VOLUME, (1, 4, 16, 16, 24))):
        decoder = mask_decoder(model, modality, 4, 2)
        assert decoder(tokens, data.payloads[modality].values).shape == shape


def test_the_decoder_of_images_in_colours_reads_each_colour() -> None:
    spec = Vit(size=32, patch=8, channels=3, width=16, depth=1, heads=2)
    model: Any = build_model(
        TwoTower(width=16, fusion=Intermediate(depth=1, heads=2)), {Modality.IMAGE: spec}, phantom.fingerprint(), 0
    )
    data = phantom.batch({Modality.IMAGE: spec.standard()}, {"a": {Modality.IMAGE: 2}})
    values = data.payloads[Modality.IMAGE].values
    assert isinstance(values, torch.Tensor)
    logits = mask_decoder(model, Modality.IMAGE, 3, 2)(model(data).tokens, values.requires_grad_())
    assert logits.shape == (2, 3, 32, 32)
    (gradient,) = torch.autograd.grad(logits.square().sum(), values)
    assert gradient.abs().amax((0, 2, 3)).min() > 0
