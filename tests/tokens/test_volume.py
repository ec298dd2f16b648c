from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from polyclinic.schema import Ragged
from polyclinic.tokens import Vit3d, phantom
from polyclinic.tokens.volume import VolumeEncoder


def scans(spacing: tuple[float, ...] | None = (2.0, 1.0, 0.5)) -> Ragged:
    values = torch.randn(2, 1, 8, 12, 16, generator=torch.Generator().manual_seed(0))
    mm = None if spacing is None else torch.tensor([spacing, spacing])
    return Ragged(values, torch.tensor([0, 2]), torch.zeros(2), mm, 3, ["a", "c"])


def test_embedding_is_a_strided_convolution() -> None:
    encoder = Vit3d(size=(8, 12, 16), patch=(4, 3, 8), width=16, depth=0, heads=2).build(phantom.fingerprint())
    ragged = scans()
    tokens = encoder.embed(ragged)
    assert isinstance(encoder, VolumeEncoder)
    assert isinstance(ragged.values, torch.Tensor)
    weight = encoder.project.weight.view(16, 1, 4, 3, 8)
    seen = (
        F.conv3d(ragged.values, weight, encoder.project.bias, stride=(4, 3, 8)).flatten(2).transpose(1, 2).flatten(0, 1)
    )
    place = encoder.position(tokens.position, tokens.time_h)
    torch.testing.assert_close(tokens.values, seen + place, atol=1e-5, rtol=1e-5)
    assert tokens.lengths.tolist() == [16, 0, 16]


def test_places_are_in_mm_along_the_axes() -> None:
    encoder = Vit3d(size=(8, 12, 16), patch=(4, 3, 8), width=16, depth=0, heads=2).build(phantom.fingerprint())
    grid = encoder(scans()).position[:16].view(2, 4, 2, 4)  # z, y, x boxes of 8, 3 and 4 mm
    assert (grid[1, 0, 0] - grid[0, 0, 0]).tolist() == [0, 0, 8, 0]
    assert (grid[0, 1, 0] - grid[0, 0, 0]).tolist() == [0, 3, 0, 0]
    assert (grid[0, 0, 1] - grid[0, 0, 0]).tolist() == [4, 0, 0, 0]
    nominal = encoder(scans(None)).position[:16].view(2, 4, 2, 4)
    assert (nominal[1, 1, 1] - nominal[0, 0, 0]).tolist() == [8, 3, 4, 0]


@pytest.mark.parametrize(
    "wrong",
    [{"patch": (8, 8, 7)}, {"patch": (8, 8, 0)}, {"size": (40, -56, 40)}, {"spacing_mm": (1, 0, 1)}, {"patch": (8, 8)}],
)
def test_boxes_that_do_not_fill_the_volume_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Vit3d.model_validate(wrong)
