from __future__ import annotations

from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from polyclinic.schema import Ragged
from polyclinic.tokens import Vit, phantom
from polyclinic.tokens.image import NOMINAL_SIDE_MM


def pictures(m: int = 2, size: int = 32, spacing: float | None = 0.5, channels: int = 1) -> Ragged:
    values = torch.randn(m, channels, size, size, generator=torch.Generator().manual_seed(0))
    mm = None if spacing is None else torch.full((m, 2), spacing)
    return Ragged(values, torch.arange(m), torch.zeros(m), mm, m, [str(i) for i in range(m)])


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_are_those_of_unfold(channels: Literal[1, 3]) -> None:
    encoder = Vit(size=32, patch=8, channels=channels, width=16, depth=0, heads=2).build(phantom.fingerprint())
    ragged = pictures(channels=channels)
    assert isinstance(ragged.values, torch.Tensor)
    expected = F.unfold(ragged.values, 8, stride=8).transpose(1, 2)
    assert torch.equal(encoder.patches(ragged.values), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_embedding_is_a_strided_convolution(channels: Literal[1, 3]) -> None:
    """As Dosovitskiy et al. 2021 wrote it, plus the place."""
    encoder = Vit(size=32, patch=8, channels=channels, width=16, depth=0, heads=2).build(phantom.fingerprint())
    ragged = pictures(channels=channels)
    tokens = encoder.embed(ragged)
    weight = encoder.project.weight.view(16, channels, 8, 8)
    assert isinstance(ragged.values, torch.Tensor)
    seen = F.conv2d(ragged.values, weight, encoder.project.bias, stride=8).flatten(2).transpose(1, 2).flatten(0, 1)
    place = encoder.position(tokens.position, tokens.time_h)
    torch.testing.assert_close(tokens.values, seen + place, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("spacing", "side"), [(0.5, 16.0), (1.0, 32.0), (None, NOMINAL_SIDE_MM), (torch.nan, NOMINAL_SIDE_MM)]
)
def test_places_span_the_image_in_mm(spacing: float | None, side: float) -> None:
    encoder = Vit(size=32, patch=8, width=16, depth=1, heads=2).build(phantom.fingerprint())
    position = encoder(pictures(1, spacing=spacing)).position
    x, y = position[:, 0].view(4, 4), position[:, 1].view(4, 4)
    assert float(x[0, -1] - x[0, 0]) == pytest.approx(0.75 * side)  # from the first patch's centre to the last one's
    assert float(y[-1, 0] - y[0, 0]) == pytest.approx(0.75 * side)
    assert not position[:, 2:].any()


def test_patches_that_do_not_fill_the_image_are_refused() -> None:
    with pytest.raises(ValidationError, match="do not fill"):
        Vit(size=100, patch=16)


def test_colours_are_asked_for_in_all_channels() -> None:
    spec = Vit(size=32, patch=8, channels=3, width=16, depth=0, heads=2)
    encoder, ragged = spec.build(phantom.fingerprint()), pictures(channels=3)
    assert spec.standard().channels == 3
    assert encoder.answer_size == 3 * 64
    wanted = encoder.answer(ragged)
    assert wanted.shape == (2 * 16, 3 * 64)
    # He et al. 2022, section 4.1: a patch is standardised whole, so that it keeps its colour.
    assert wanted.mean(1).abs().max() < 1e-5
    assert wanted.view(32, 3, 64).mean(2).abs().min() > 0
