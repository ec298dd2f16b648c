from __future__ import annotations

import numpy as np
import torch

from polyclinic.models import TwoTower, build_model
from polyclinic.schema import Modality, Target
from polyclinic.tasks import Keypoints, KeypointsTask, Thing
from polyclinic.tokens import phantom

POINTS = torch.tensor([[3.0, 20.5], [17.25, 9.0], [30.0, 30.0]])


def task_of() -> KeypointsTask:
    model = build_model(TwoTower(width=16, embedding=16), phantom.encoders(), phantom.fingerprint(), 0)
    return Keypoints(points=("tip", "base", "side"), channels=8).build("ends", model)


def output_of(task: KeypointsTask, points: torch.Tensor) -> torch.Tensor:
    """(k+kd 8 8) of a head that had learned these points by heart."""
    place = task.head.cells(points)
    heat, offset = torch.full((3, 8, 8), -6.0), torch.zeros(3, 2, 8, 8)
    for n, (y, x) in enumerate(place.round().long().tolist()):
        heat[n, y, x] = 6.0
        offset[n, :, y, x] = place[n] - torch.tensor([y, x])
    return torch.cat([heat, offset.view(6, 8, 8)])


def test_points_are_read_out_between_samples() -> None:
    task = task_of()
    found = task.decoded(output_of(task, POINTS))
    np.testing.assert_allclose(found[:, 1:], POINTS, atol=1e-4)
    assert (found[:, 0] > 0.99).all()


def test_only_a_part_is_looked_at_where_another_box_sees_better() -> None:
    task = task_of()
    found = task.decoded(output_of(task, POINTS), low=(-np.inf, 16.0), high=(16.0, np.inf))
    np.testing.assert_allclose(found[0, 1:], POINTS[0], atol=1e-4)
    assert found[0, 0] > 0.99
    assert (found[1:, 0] < 0.01).all()


def test_a_point_that_was_not_drawn_takes_no_part() -> None:
    task = task_of()
    points = POINTS.clone()
    points[1] = torch.nan
    output = torch.zeros(2, 9, 8, 8, requires_grad=True)
    loss = task.loss(output, Target([points, POINTS], torch.tensor([True, False])))
    assert loss is not None
    (gradient,) = torch.autograd.grad(loss, output)
    assert gradient[0, [0, 2]].abs().sum() > 0
    assert not gradient[0, 1].any(), "neither here nor elsewhere: nobody knows"
    assert not gradient[0, 5:7].any()
    assert not gradient[1].any()
    assert task.loss(output, Target([points * torch.nan, POINTS], torch.tensor([True, False]))) is None


def test_an_answer_names_the_least_sure() -> None:
    things = [Thing("tip", 0.9, (3.25, 7.0), (3.25, 7.0)), Thing("base", 0.4, (1.0, 2.0), (1.0, 2.0))]
    answer = task_of().present(things, (Modality.IMAGE,))
    assert answer.headline == "2 points placed; the least sure: base, score 0.40 at x 1.0, y 2.0 px; a person decides"
    assert answer.values["tip"] == "score 0.90 at x 3.2, y 7.0 px"
