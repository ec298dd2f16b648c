from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from polyclinic.models import TwoTower, build_model
from polyclinic.schema import Batch, Modality, Target
from polyclinic.tasks import Detection, DetectionTask, Thing
from polyclinic.tasks.detection import best_cut, once
from polyclinic.tokens import phantom

VOLUMES: dict[str, Any] = {"modality": "volume", "source": "masks", "structure": "lesion"}


def task_of(**fields: Any) -> DetectionTask:
    model = build_model(TwoTower(width=16, embedding=16), phantom.encoders(), phantom.fingerprint(), 0)
    spec = Detection.model_validate({"classes": ["nodule", "mass"], "channels": 8} | fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return spec.build("lesions", model)


def output_of(task: DetectionTask, boxes: torch.Tensor, cells: tuple[int, ...]) -> torch.Tensor:
    """What a head would say that had learned these boxes by heart."""
    heat, weight, wanted = task._wanted(boxes, cells)
    return torch.cat([torch.where(heat >= 1, 6.0, -6.0), torch.where(weight > 0, wanted, torch.zeros_like(wanted))])


FLAT = torch.tensor([[0, 3.5, 2.0, 11.0, 9.5], [1, 14.0, 12.5, 30.0, 29.0], [0, 20.0, 1.0, 23.0, 3.0]])
DEEP = torch.tensor([[0, 1.0, 2.5, 3.0, 9.0, 10.0, 12.0], [1, 12.0, 12.5, 13.0, 24.0, 22.0, 26.0]])


@pytest.mark.parametrize(("boxes", "fields"), [(FLAT, {}), (DEEP, VOLUMES)], ids=["flat", "deep"])
def test_what_is_asked_for_is_what_is_read_out_again(boxes: torch.Tensor, fields: dict[str, Any]) -> None:
    task = task_of(**fields)
    output = output_of(task, boxes, (8,) * task.d)
    found = once(task.decoded(output))
    order = np.lexsort(found[:, 2:].T)
    expected = boxes.numpy()[np.lexsort(boxes.numpy()[:, 1:].T)]
    np.testing.assert_allclose(found[order][:, [0, *range(2, 2 + 2 * task.d)]], expected, atol=1e-3)
    assert (found[:, 1] > 0.99).all()
    loss = task.loss(output[None], Target([boxes], torch.tensor([True])))
    random = task.loss(
        torch.randn(output[None].shape, generator=torch.Generator().manual_seed(0)),
        Target([boxes], torch.tensor([True])),
    )
    assert loss is not None
    assert random is not None
    assert float(loss) < 0.15
    assert float(random) > 10 * float(loss)


def test_an_empty_annotated_image_is_a_negative_one_and_one_that_nobody_annotated_is_none() -> None:
    task, none = task_of(), torch.zeros(0, 5)
    output = torch.zeros(2, 6, 8, 8, requires_grad=True)
    loss = task.loss(output, Target([none, FLAT], torch.tensor([True, False])))
    assert loss is not None
    (gradient,) = torch.autograd.grad(loss, output)
    assert (gradient[0, :2] > 0).all(), "less heat, everywhere"
    assert not gradient[0, 2:].any()
    assert not gradient[1].any()
    assert task.loss(output, Target([none, FLAT], torch.tensor([False, False]))) is None


def test_a_box_whose_middle_is_not_seen_asks_for_no_peak() -> None:
    task = task_of()
    heat, _, _ = task._wanted(torch.tensor([[0, -30.0, 0, 10.0, 10.0]]), (8, 8))
    assert (heat < 1).all()
    inside, _, _ = task._wanted(torch.tensor([[0, 0.0, 0, 10.0, 10.0]]), (8, 8))
    assert (inside[0] == 1).sum() == 1
    assert not inside[1].any()


def test_of_two_concentric_boxes_the_smaller_is_told() -> None:
    task = task_of()
    boxes = torch.tensor([[0, 4.0, 4.0, 24.0, 24.0], [0, 10.0, 10.0, 18.0, 18.0]])
    (one,) = once(task.decoded(output_of(task, boxes, (8, 8))))
    np.testing.assert_allclose(one[2:], [10, 10, 18, 18], atol=1e-3)


def test_suppression_by_hand() -> None:
    found = np.array(
        [
            [0, 0.5, 0, 0, 10, 10],
            [0, 0.9, 1, 0, 11, 10],
            [1, 0.4, 0, 0, 10, 10],
            [0, 0.3, 0, 8, 10, 18],
            [0, 0.9, 1, 0, 11, 10],
        ]
    )
    kept = once(found)
    # The surest, of the twins one; the other class's; and what overlaps by 2 of 18.
    assert kept[:, :2].tolist() == [[0, 0.9], [1, 0.4], [0, 0.3]]
    assert once(np.zeros((0, 6))).shape == (0, 6)


def test_the_threshold_is_of_the_best_f1() -> None:
    score, hit = np.array([0.9, 0.8, 0.6, 0.3]), np.array([True, True, False, True])
    # F1: 2/4, 4/5, 4/6, 6/7 from the surest on: all four are told.
    assert best_cut(score, hit, 3) == 0.3
    # With six things of which three are never found, F1 is 2/7, 4/8, 4/9, 6/10.
    assert best_cut(score, hit, 6) == 0.3
    assert best_cut(np.array([0.9, 0.2, 0.1]), np.array([True, False, False]), 1) == pytest.approx(0.55)


def test_thresholds_are_chosen_by_what_the_training_images_hold() -> None:
    task, box = task_of(), [0.0, 0.0, 10.0, 10.0]
    found = [np.array([[0, 0.8, *box], [0, 0.2, 20, 20, 30, 30], [1, 0.6, *box]])]
    task.choose(found, [np.array([[0, *box]])])
    assert task.cuts.tolist() == [0.5, pytest.approx(0.3)]  # of the second class nothing was there: it stays


def test_an_answer_says_where_how_large_how_sure_and_that_a_person_decides() -> None:
    thing = Thing("nodule", 0.832, (120.0, 44.0), (160.5, 90.25), (12.3, 14.1))
    answer = task_of().present([thing], (Modality.IMAGE,))
    assert answer.headline == (
        "1 nodule; the surest: nodule, score 0.83 at x 120.0–160.5, y 44.0–90.2 px; 12.3 × 14.1 mm; a person decides"
    )
    assert answer.values["nodule_found"] == 1
    assert answer.values["mass_found"] == 0
    assert answer.values["nodule 1"] == "score 0.83 at x 120.0–160.5, y 44.0–90.2 px; 12.3 × 14.1 mm"
    nothing = task_of().present([], (Modality.IMAGE,))
    assert nothing.headline.startswith("no nodule or mass above the threshold, which is no proof that there is none")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modality": "volume"}, "nobody draws boxes or points on a volume"),
        ({"source": "masks"}, "structure: a word"),
        ({"numbers": [1, 2]}, "only masks have them"),
        (VOLUMES | {"numbers": [3]}, r"\[3\] for 2 names"),
        (VOLUMES | {"numbers": [3, 1]}, "ascending"),
        ({"least_mm": 3}, "it is for masks"),
        ({"classes": ["a", "a"]}, "'a' twice"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Detection.model_validate({"classes": ["nodule", "mass"]} | fields)


def test_numbers_of_masks_are_the_classes() -> None:
    label = Detection.model_validate({"classes": ["nodule", "mass"]} | VOLUMES | {"numbers": [2, 5]}).label("x")
    assert label.classes == ("", "nodule", "", "", "mass")


def test_a_whole_volume_is_searched_box_by_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that says what lies in its box finds in the whole what lies there, once each."""
    task = task_of(**VOLUMES)
    model = build_model(TwoTower(width=16, embedding=16), phantom.encoders(), phantom.fingerprint(), 0)
    encoder = model.encoder(Modality.VOLUME)
    box = (16, 16, 16)
    monkeypatch.setattr(encoder, "at_once", box)
    boxes = torch.tensor([[0, 2.0, 2, 2, 8, 8, 8], [1, 12.0, 12, 12, 20, 20, 20], [0, 20.0, 3, 22, 26, 9, 28]])
    values = torch.zeros(1, 1, 32, 32, 32)
    for n, corners in enumerate(boxes[:, 1:].long().tolist()):
        z, y, x = ((corners[a] + corners[a + 3]) // 2 for a in range(3))
        values[0, 0, z, y, x] = n + 1

    def output(_: object, batch: Batch) -> torch.Tensor:
        seen = batch.payloads[Modality.VOLUME].values[0]
        here = [(n, torch.nonzero(seen[0] == n + 1)) for n in range(3)]
        rows = [torch.cat([boxes[n, :1], place[0] - 3, place[0] + 3]) for n, place in here if len(place)]
        return output_of(task, torch.stack(rows) if rows else torch.zeros(0, 7), (4, 4, 4))[None]

    monkeypatch.setattr(task, "output", output)
    batch = phantom.batch(
        {Modality.VOLUME: phantom.encoders()[Modality.VOLUME].standard()}, {"a": {Modality.VOLUME: 1}}
    )
    batch.payloads[Modality.VOLUME].values = values
    (found,) = task.found(model, batch)
    assert len(found) == 3
    middle = (found[:, 2:5] + found[:, 5:]) / 2
    np.testing.assert_allclose(sorted(middle.tolist()), [[5, 5, 5], [16, 16, 16], [23, 6, 25]], atol=1e-3)
