from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.schema import Modality
from polyclinic.tokens import Encoder, Vit, phantom
from polyclinic.tokens.encoder import grid_positions, normalised, spacing_or

SPACING = st.floats(0.125, 10, width=32)


def test_positions_of_two_by_three_patches_by_hand() -> None:
    """4 x 6 samples of 2 mm (y) and 0.5 mm (x) in patches of 2: centres 4 mm apart in y and 1 mm in x, about the middle."""
    found = grid_positions((2, 3), (2, 2), torch.tensor([[2.0, 0.5]]))[0]
    expected = [[x, y, 0, 0] for y in (-2, 2) for x in (-1, 0, 1)]
    assert found.tolist() == expected


@given(st.tuples(SPACING, SPACING, SPACING), st.tuples(*[st.integers(1, 4)] * 3), st.tuples(*[st.integers(1, 8)] * 3))
@settings(deadline=None, max_examples=40)
def test_a_step_is_spacing_times_patch_and_the_middle_is_zero(
    spacing: tuple[float, ...], shape: tuple[int, ...], patch: tuple[int, ...]
) -> None:
    found = grid_positions(shape, patch, torch.tensor([spacing, spacing]))
    assert found.dtype == torch.float32
    assert torch.equal(found[0], found[1])
    assert not found[..., 3].any()
    grid = found[0].view(*shape, 4)
    for axis in range(3):  # (z y x) of the grid, x y z of the position
        steps = grid.diff(dim=axis)[..., 2 - axis]
        torch.testing.assert_close(steps, torch.full_like(steps, spacing[axis] * patch[axis]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.mean(1), torch.zeros(2, 4), atol=1e-3, rtol=0)


@given(st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_the_same_anatomy_at_another_spacing_is_at_the_same_mm(finer: int) -> None:
    """A volume of half the spacing has twice the samples a patch of the same extent."""
    coarse = grid_positions((2, 3, 4), (4, 4, 4), torch.tensor([[2.0, 1.0, 0.5]]))
    fine = grid_positions((2, 3, 4), (4 * finer, 4 * finer, 4 * finer), torch.tensor([[2.0, 1.0, 0.5]]) / finer)
    torch.testing.assert_close(coarse, fine)


def test_a_file_without_spacing_has_the_nominal_one() -> None:
    ragged = phantom.ragged(Vit(size=32, patch=16).standard(), {"a": 2})
    ragged.spacing = torch.tensor([[0.5, 0.25], [torch.nan, torch.nan]])
    assert spacing_or(ragged, (3.0, 4.0)).tolist() == [[0.5, 0.25], [3.0, 4.0]]
    ragged.spacing = None
    assert spacing_or(ragged, (3.0, 4.0)).tolist() == [[3.0, 4.0]] * 2


def test_normalised_patches_by_hand() -> None:
    found = normalised(torch.tensor([[1.0, 3.0], [5.0, 5.0]]))
    assert found.tolist() == [[pytest.approx(-(1.01**-0.5)), pytest.approx(1.01**-0.5)], [0.0, 0.0]]
    assert normalised(torch.ones(3, 1)).isfinite().all()  # a patch of one sample


def test_an_encoder_says_what_it_embeds() -> None:
    class Mute(Encoder):
        pass

    with pytest.raises(TypeError, match="embed"):
        Mute(Modality.IMAGE, Vit())  # type: ignore[abstract]


def test_time_is_added_to_a_token_and_the_hour_alone_moves_it() -> None:
    encoder = Vit(size=32, patch=16, width=16, depth=0, heads=2).build(phantom.fingerprint())
    ragged = phantom.ragged(Vit(size=32, patch=16).standard(), {"a": 2})
    assert isinstance(ragged.values, torch.Tensor)
    assert ragged.spacing is not None
    ragged.values[1], ragged.spacing[1] = ragged.values[0], ragged.spacing[0]
    ragged.time_h = torch.tensor([0.0, 0.0])
    tokens = encoder(ragged).values.view(2, -1, 16)
    torch.testing.assert_close(tokens[0], tokens[1])
    ragged.time_h = torch.tensor([0.0, 24.0])
    later = encoder(ragged).values.view(2, -1, 16)
    torch.testing.assert_close(later[0], tokens[0])
    assert (later[1] - later[0]).abs().max() > 1e-2
