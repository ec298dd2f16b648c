from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import dice as dissimilarity

from polyclinic.models import Model, TwoTower, build_model
from polyclinic.objectives import ObjectiveError
from polyclinic.schema import Batch, Modality, PolyclinicError, Target
from polyclinic.tasks import Predictions, Segmentation, SegmentationTask
from polyclinic.tasks.augment import Augment
from polyclinic.tasks.segmentation import dice, volumes_ml
from polyclinic.tokens import phantom

SPEC = Segmentation(structure="hippocampus", classes=("anterior", "posterior"), channels=2)


def head(spec: Segmentation = SPEC) -> SegmentationTask:
    model = build_model(TwoTower(width=16, embedding=16), phantom.encoders(), phantom.fingerprint(), 0)
    return SegmentationTask("hippocampus", spec, model)


@given(st.integers(2, 4), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_dice_is_scipys(classes: int, seed: int) -> None:
    one, other = np.random.default_rng(seed).integers(0, classes, (2, 3, 4, 5))
    found = dice(one, other, classes)
    expected = [
        1 - dissimilarity((one == k).ravel(), (other == k).ravel()) if ((one == k) | (other == k)).any() else 1.0
        for k in range(1, classes)
    ]
    np.testing.assert_allclose(found, expected)


def test_dice_by_hand() -> None:
    one, other = np.zeros((4, 4), int), np.zeros((4, 4), int)
    assert dice(one, other, 3).tolist() == [1, 1]  # neither has it
    one[:2], other[1:3] = 1, 1
    assert dice(one, other, 3).tolist() == [0.5, 1]  # two rows each, one in common
    other[3] = 2
    assert dice(one, other, 3).tolist() == [0.5, 0]
    assert dice(one, one, 2).tolist() == [1]


def test_a_score_is_the_mean_over_the_labelled_patients() -> None:
    outputs = np.array([[0.8, 0.6], [np.nan, np.nan], [0.4, 0.2]])
    known = np.array([True, False, True])
    found = head().score(Predictions("hippocampus", ("a", "b", "c"), outputs, np.zeros((3, 2)), known))
    assert found == {
        name: pytest.approx(v) for name, v in {"dice": 0.5, "dice_anterior": 0.6, "dice_posterior": 0.4}.items()
    }


def test_volumes_are_counts_times_a_voxels_size() -> None:
    mask = torch.zeros(4, 4, 4, dtype=torch.int64)
    mask[0], mask[1, 0] = 1, 2
    assert volumes_ml([mask, torch.zeros_like(mask)], 2, 0.008).tolist() == [[16 * 0.008, 4 * 0.008], [0, 0]]
    mask[2, 0, 0] = 3  # a label that the task does not name
    assert volumes_ml([mask], 2, 1.0).tolist() == [[16, 4]]


def test_an_answer_in_millilitres() -> None:
    mask = np.zeros((10, 10, 10), int)
    mask[:5], mask[5, 0] = 1, 2
    answer = head().present(mask, 0.001, (Modality.VOLUME,))
    assert answer.values == {"anterior_ml": 0.5, "posterior_ml": 0.01}
    assert answer.headline == "hippocampus: anterior 0.5 mL, posterior 0.01 mL"
    assert answer.overlay is mask


def test_an_answer_in_samples_where_the_file_has_no_scale() -> None:
    answer = head().present(np.array([[0, 1], [1, 2]]), None, ())
    assert answer.values == {"anterior_pixels": 2, "posterior_pixels": 1}
    assert answer.headline == "hippocampus: anterior 2 pixels, posterior 1 pixels"


def test_of_images_as_of_volumes() -> None:
    spec = Segmentation.model_validate({"structure": "lung", "classes": ["lung"], "modality": "image", "channels": 2})
    task = head(spec)
    model = build_model(TwoTower(width=16, embedding=16), phantom.encoders(), phantom.fingerprint(), 0)
    standards = {m: s.standard() for m, s in phantom.encoders().items()}
    batch = phantom.batch(standards, {"a": {Modality.IMAGE: 2, Modality.TEXT: 1}, "b": {Modality.IMAGE: 1}})
    logits = task.output(model, batch)
    assert logits.shape == (3, 2, 32, 32)
    for mask, one in zip(task.masks(model, batch), logits, strict=True):
        assert torch.equal(mask, (one[1] > one[0]).long())
    assert spec.label("lungs").modality is Modality.IMAGE


def test_a_model_that_does_not_read_it_is_refused() -> None:
    encoders = {Modality.TEXT: phantom.encoders()[Modality.TEXT]}
    model = build_model(TwoTower(width=16, embedding=16), encoders, phantom.fingerprint(), 0)
    with pytest.raises(ObjectiveError, match="volume, which the model does not read") as caught:
        SPEC.build("hippocampus", model)
    assert isinstance(caught.value, PolyclinicError)


def batch_of(spec: Segmentation) -> tuple[Model, SegmentationTask, Batch]:
    """Two patients' volumes, with masks that are where the volume is bright."""
    model = build_model(TwoTower(width=16, embedding=16), phantom.encoders(), phantom.fingerprint(), 0)
    standards = {m: s.standard() for m, s in phantom.encoders().items()}
    batch = phantom.batch(standards, {"a": {Modality.VOLUME: 1, Modality.TEXT: 1}, "b": {Modality.VOLUME: 1}})
    values = batch.payloads[Modality.VOLUME].values
    assert isinstance(values, torch.Tensor)
    masks = [(one[0] > 0.5).long() for one in values]
    return (
        model,
        SegmentationTask("hippocampus", spec, model),
        replace(batch, targets={"hippocampus": Target(masks, torch.tensor([True, True]))}),
    )


def volumes(batch: Batch) -> torch.Tensor:
    values = batch.payloads[Modality.VOLUME].values
    assert isinstance(values, torch.Tensor)
    return values


def test_training_varies_what_is_segmented_and_nothing_else() -> None:
    _, task, batch = batch_of(SPEC.model_copy(update={"augment": Augment()}))
    before = volumes(batch).clone()
    found = task.varied(batch, torch.Generator().manual_seed(0))
    assert torch.equal(volumes(batch), before)  # a batch is not written over
    assert not torch.equal(volumes(found), before)
    assert found.payloads[Modality.TEXT] is batch.payloads[Modality.TEXT]
    assert len(found.targets["hippocampus"].values) == 2
    _, plain, batch = batch_of(SPEC)
    assert plain.varied(batch, torch.Generator()) is batch


def test_a_decoder_of_full_resolution_learns_what_a_voxel_wide_structure_is() -> None:
    """Sheets of one voxel, two apart: at half resolution they are not to be told from each other."""
    model, _, batch = batch_of(SPEC)
    x = volumes(batch)
    x[:] = 0.01 * x
    x[..., ::3] += 1.0
    wanted = Target([(one[0] > 0.5).long() for one in x], torch.tensor([True, True]))
    task = SegmentationTask("hippocampus", SPEC.model_copy(update={"full": True, "channels": 4}), model)
    with torch.no_grad():
        tokens = model(batch).tokens
    adam = torch.optim.Adam(task.parameters(), 1e-2)
    for _ in range(30):
        loss = task.loss(task.decoder(tokens, x), wanted)
        assert loss is not None
        loss.backward()
        adam.step()
        adam.zero_grad()
    said = task.decoder(tokens, x).argmax(1)
    assert dice(said[0].numpy(), wanted.values[0].numpy(), 2)[0] > 0.95
