from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from polyclinic.schema import Ragged
from polyclinic.tokens import Vivit, phantom
from polyclinic.tokens.video import NOMINAL_SIDE_MM

SPEC = Vivit(size=32, patch=8, frames=2, rate_hz=4, seconds=2, width=16, depth=0, heads=2)


def clips(*frames: int, spacing: float | None = 0.5) -> Ragged:
    draw = torch.Generator().manual_seed(0)
    values = [torch.randn(n, 3, 32, 32, generator=draw) for n in frames]
    places = [torch.cat([torch.zeros(n, 3), 100 + torch.arange(n)[:, None] ** 1.5 / 4], 1) for n in frames]
    m = len(frames)
    mm = None if spacing is None else torch.full((m, 2), spacing)
    alike = torch.stack(values) if len(set(frames)) == 1 else values
    return Ragged(alike, torch.arange(m), torch.zeros(m), mm, m, [str(i) for i in range(m)], places)


def test_embedding_is_a_strided_convolution_in_space_and_time() -> None:
    """As Arnab et al. 2021 wrote it (section 3.2), plus the place."""
    encoder, ragged = SPEC.build(phantom.fingerprint()), clips(8, 8)
    tokens = encoder.embed(ragged)
    weight = encoder.project.weight.view(16, 2, 3, 8, 8).transpose(1, 2)
    assert isinstance(ragged.values, torch.Tensor)
    seen = F.conv3d(ragged.values.transpose(1, 2), weight, encoder.project.bias, stride=(2, 8, 8))
    place = encoder.position(tokens.position, tokens.time_h)
    expected = seen.flatten(2).transpose(1, 2).flatten(0, 1) + place
    torch.testing.assert_close(tokens.values, expected, atol=1e-5, rtol=1e-5)


def test_a_tubelet_s_time_is_that_of_its_frames() -> None:
    ragged = clips(5, 1)
    tokens = SPEC.build(phantom.fingerprint())(ragged)
    assert tokens.lengths.tolist() == [3 * 16, 16]
    assert ragged.places is not None
    times = ragged.places[0][:, 3]
    seconds = tokens.position[:48, 3].view(3, 16)
    expected = [times[:2].mean(), times[2:4].mean(), times[4]]  # an odd frame is the last tubelet, at its own time
    assert torch.equal(seconds, torch.stack(expected)[:, None].expand(-1, 16))
    assert tokens.position[48:, 3].unique().tolist() == [100.0]


@pytest.mark.parametrize(("spacing", "side"), [(0.5, 16.0), (None, NOMINAL_SIDE_MM), (torch.nan, NOMINAL_SIDE_MM)])
def test_places_span_the_frame_in_mm(spacing: float | None, side: float) -> None:
    position = SPEC.build(phantom.fingerprint())(clips(4, spacing=spacing)).position
    x, y = position[:, 0].view(2, 4, 4), position[:, 1].view(2, 4, 4)
    assert float(x[1, 0, -1] - x[1, 0, 0]) == pytest.approx(
        0.75 * side
    )  # from the first patch's centre to the last one's
    assert float(y[1, -1, 0] - y[1, 0, 0]) == pytest.approx(0.75 * side)
    assert not position[:, 2].any()


def test_an_odd_frame_stands_still() -> None:
    encoder, odd = SPEC.build(phantom.fingerprint()), clips(3)
    assert isinstance(odd.values, torch.Tensor)
    still = torch.cat([odd.values[0], odd.values[0][-1:]])
    assert torch.equal(encoder.tubelets(odd.values[0]), encoder.tubelets(still))


def test_a_grey_clip_has_a_third_of_the_numbers() -> None:
    spec = SPEC.model_copy(update={"colour": False})
    assert spec.standard().colour is False
    assert (spec.build(phantom.fingerprint()).answer_size, SPEC.build(phantom.fingerprint()).answer_size) == (128, 384)


def test_patches_that_do_not_fill_the_frame_are_refused() -> None:
    with pytest.raises(ValidationError, match="do not fill"):
        Vivit(size=100, patch=16)
