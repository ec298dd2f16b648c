from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.models import Model, TwoTower, build_model
from polyclinic.schema import Modality
from polyclinic.tasks import TaskError
from polyclinic.tasks.heat import DenseHead, bells, focal, peaks
from polyclinic.tasks.sliding import tiles
from polyclinic.tokens import phantom
from polyclinic.tokens.image import Vit


def model_of(**options: int) -> Model:
    encoders = {
        Modality.IMAGE: Vit.model_validate({"size": 32, "patch": 8, "width": 16, "depth": 1, "heads": 2} | options)
    }
    return build_model(TwoTower(width=16, embedding=16), encoders, phantom.fingerprint(), 0)


def test_a_bell_is_as_high_as_it_should_be() -> None:
    found = bells(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.5]]), (4, 5))
    assert found[0, 1, 2] == 1
    assert float(found[0, 3, 2]) == pytest.approx(np.exp(-0.5 * 4))
    assert float(found[0, 0, 3]) == pytest.approx(np.exp(-0.5 * (1 + 4)))
    deep = bells(torch.zeros(2, 3), torch.tensor(1.0), (2, 3, 4))
    assert deep.shape == (2, 2, 3, 4)
    assert float(deep[1, 1, 1, 1]) == pytest.approx(np.exp(-1.5))


def test_the_focal_loss_by_hand() -> None:
    logits, heat = torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[1.0, 0.5, 0.0]])
    sure = 1 / (1 + np.exp(-2.0))
    expected = 0.25 * np.log(2) + 0.5**4 * 0.25 * np.log(2) - sure**2 * np.log(1 - sure)
    assert float(focal(logits, heat)) == pytest.approx(expected, rel=1e-5)
    assert float(focal(torch.tensor([[40.0, -40.0]]), torch.tensor([[1.0, 0.0]]))) == pytest.approx(0, abs=1e-6)


def test_a_peak_has_no_higher_neighbour_and_a_plateau_has_one() -> None:
    heat = torch.zeros(2, 5, 6)
    heat[0, 1, 1], heat[0, 1, 2], heat[0, 4, 5] = 0.9, 0.8, 0.3
    heat[1, 2, 2] = heat[1, 2, 3] = heat[1, 3, 2] = 0.5
    found = torch.nonzero(peaks(heat) & (heat > 0)).tolist()
    assert found == [[0, 1, 1], [0, 4, 5], [1, 2, 2]]
    assert torch.nonzero(peaks(heat[:1, None, :, :].expand(1, 3, 5, 6)) & (heat[0] > 0)).tolist()[0] == [0, 0, 1, 1]


@pytest.mark.parametrize(("patch", "stride"), [(8, 4), (16, 4), (2, 2), (4, 4)])
def test_a_cell_has_four_samples_or_what_the_patch_allows(patch: int, stride: int) -> None:
    head = DenseHead(model_of(patch=patch), Modality.IMAGE, 8, 2, 4)
    assert head.stride == (stride, stride)
    places = torch.tensor([[0.0, 0.0], [(stride - 1) / 2, 5.0]])
    assert torch.allclose(head.samples(head.cells(places)), places)
    assert head.cells(places)[1, 0] == 0  # the middle of the first cell's samples


def test_an_untrained_head_says_of_every_cell_that_it_is_most_likely_empty() -> None:
    model = model_of()
    head = DenseHead(model, Modality.IMAGE, 8, 2, 4)
    batch = phantom.batch({Modality.IMAGE: Vit(size=32, patch=8).standard()}, {"a": {Modality.IMAGE: 1}})
    output = head.read(model, batch)
    assert output.shape == (1, 6, 8, 8)
    assert float(output[:, :2].sigmoid().max()) < 0.1


def test_a_model_that_does_not_read_it_is_refused() -> None:
    with pytest.raises(TaskError, match="a search in volume, which the model does not read"):
        DenseHead(model_of(), Modality.VOLUME, 8, 1, 6)


@given(st.integers(8, 40), st.integers(8, 40), st.integers(4, 8))
@settings(max_examples=30, deadline=None)
def test_each_place_is_one_tiles_to_tell_and_well_within_it(rows: int, columns: int, box: int) -> None:
    parts = list(tiles((rows, columns), (box, box)))
    places = np.stack(np.meshgrid(np.arange(-3, rows + 3), np.arange(columns), indexing="ij"), -1).reshape(-1, 2)
    owners = np.zeros(len(places), int)
    for start, low, high in parts:
        mine = ((places >= low) & (places < high)).all(1)
        owners += mine
        inside = places[mine & ((places >= 0) & (places < (rows, columns))).all(1)]
        assert ((inside >= start) & (inside < np.array(start) + box)).all()
    assert (owners == 1).all()
