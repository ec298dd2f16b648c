from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import dice as dissimilarity

from polyclinic.models import TwoTower, build_model
from polyclinic.objectives import ObjectiveError
from polyclinic.schema import Modality, PolyclinicError
from polyclinic.tasks import Predictions, Segmentation, SegmentationTask
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
