from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from polyclinic.schema import Ragged
from polyclinic.tokens import SlideVit, phantom

SPEC = SlideVit(size=32, mpp=1.0, patch=8, width=16, depth=1, heads=2)


def slides(*tiles: int, spacing: float | None = 0.001) -> Ragged:
    draw = torch.Generator().manual_seed(0)
    values = [torch.randint(0, 256, (n, 3, 32, 32), generator=draw, dtype=torch.uint8) for n in tiles]
    places = [torch.cat([torch.rand(n, 2, generator=draw) * 10 + 20, torch.zeros(n, 2)], 1) for n in tiles]
    m = len(tiles)
    mm = None if spacing is None else torch.full((m, 2), spacing)
    return Ragged(values, torch.arange(m), torch.zeros(m), mm, m, [str(i) for i in range(m)], places)


def test_each_tile_is_a_token_of_its_own_pixels_alone() -> None:
    encoder, ragged = SPEC.build(phantom.fingerprint()), slides(3, 2)
    before = encoder.embed(ragged)
    assert before.lengths.tolist() == [3, 2]
    for tile in range(3):
        pixels = ragged.values[0].clone()
        pixels[tile] = 255 - pixels[tile]
        after = encoder.embed(replace(ragged, values=[pixels, ragged.values[1]]))
        changed = (after.values != before.values).any(1)
        assert changed.tolist() == [number == tile for number in range(5)]
        seen = encoder(replace(ragged, values=[pixels, ragged.values[1]])).values != encoder(ragged).values
        assert seen.any(1).tolist() == [True, True, True, False, False]  # in the trunk the slide's tiles see each other


def test_a_tile_s_token_knows_where_in_it_its_pixels_are() -> None:
    encoder, ragged = SPEC.build(phantom.fingerprint()), slides(1)
    turned = replace(ragged, values=[v.flip(3) for v in ragged.values])
    assert not torch.allclose(encoder.embed(ragged).values, encoder.embed(turned).values, atol=1e-3)


def test_places_are_the_tiles_about_their_middle() -> None:
    encoder, ragged = SPEC.build(phantom.fingerprint()), slides(4, 1)
    assert ragged.places is not None
    position = encoder(ragged).position
    torch.testing.assert_close(position[1:4] - position[:3], ragged.places[0].diff(dim=0))
    assert position[:4].mean(0).abs().max() < 1e-5
    assert not position[4].any()
    moved = replace(ragged, places=[place + torch.tensor([7.0, -3.0, 0, 0]) for place in ragged.places])
    torch.testing.assert_close(encoder(moved).values, encoder(ragged).values, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("unknown", [None, torch.nan])
def test_a_slide_without_a_scale_is_taken_at_the_standard_s(unknown: float | None) -> None:
    encoder = SPEC.build(phantom.fingerprint())
    assert torch.equal(encoder(slides(2, spacing=unknown)).values, encoder(slides(2, spacing=0.001)).values)


def test_what_is_asked_is_a_thumbnail_of_the_tile() -> None:
    encoder, ragged = SPEC.build(phantom.fingerprint()), slides(2)
    assert encoder.answer_size == 3 * 4 * 4
    wanted = encoder.answer(ragged).view(2, 3, 4, 4)
    for tile, answer in zip(ragged.values[0].double() / 255, wanted, strict=True):
        thumbnail = torch.stack(
            [
                torch.stack([tile[:, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8].mean((1, 2)) for j in range(4)], 1)
                for i in range(4)
            ],
            1,
        )
        expected = (thumbnail - thumbnail.mean()) / (thumbnail.var(correction=0) + 1e-2).sqrt()
        torch.testing.assert_close(answer.double(), expected, atol=1e-5, rtol=1e-5)


def test_the_standard_is_what_was_asked_for() -> None:
    spec = SPEC.model_copy(update={"mpp": 0.5, "most": 7, "tissue": 0.3, "stain": "macenko"})
    assert spec.standard().model_dump() == {
        "kind": "slide", "mpp": 0.5, "size": 32, "most": 7, "tissue": 0.3, "smallest_mm2": 0.05, "stain": "macenko",
    }  # fmt: skip


def test_patches_that_do_not_fill_the_tile_are_refused() -> None:
    with pytest.raises(ValidationError, match="do not fill"):
        SlideVit(size=100, patch=16)
