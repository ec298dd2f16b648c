from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from polyclinic.tasks.augment import Augment, augmented

STILL = dict.fromkeys(("turn_deg", "stretch", "shift", "bend", "gain", "offset", "gamma", "noise"), 0.0)


def still(**changed: float) -> Augment:
    return Augment.model_validate(STILL | changed)


def ball(size: tuple[int, ...], m: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """An egg off the middle, dark at its edge: where it goes, its mask must go."""
    axes = torch.meshgrid(*(torch.arange(n) - n / 2 for n in size), indexing="ij")
    far = sum(((a - shift) / radius) ** 2 for a, shift, radius in zip(axes, (2, -3, 1), (9, 14, 11), strict=False))
    assert isinstance(far, torch.Tensor)
    return torch.exp(-far)[None, None].repeat(m, 1, *[1] * len(size)), (far < 1).long().repeat(m, *[1] * len(size))


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [(24, 32), (20, 24, 28)])
def test_nothing_that_is_asked_for_changes_nothing(size: tuple[int, ...]) -> None:
    x, masks = ball(size)
    found, there = augmented(x, masks, still(), drawn())
    torch.testing.assert_close(found, x, atol=1e-5, rtol=0)
    assert torch.equal(there, masks)


@pytest.mark.parametrize("size", [(48, 48), (40, 44, 48)])
@pytest.mark.parametrize("how", ["turn_deg", "stretch", "shift", "bend"])
def test_a_mask_goes_where_its_structure_goes(size: tuple[int, ...], how: str) -> None:
    x, masks = ball(size)
    found, there = augmented(x, masks, still(**{how: {"turn_deg": 30, "bend": 1.5}.get(how, 0.1)}), drawn())
    assert not torch.equal(there, masks)
    assert not torch.equal(there[0], there[1])  # each record its own way
    again = (found[:, 0] > math.exp(-1)).long()
    both = 2 * (again & there).sum() / (again.sum() + there.sum())
    assert both > 0.95


def test_a_quarter_turn_is_by_hand() -> None:
    """The one angle drawn is turned into what `rot90` gives, one way or the other."""
    x, masks = torch.rand(1, 1, 9, 9, generator=drawn()), torch.randint(0, 3, (1, 9, 9), generator=drawn())
    angle = float(torch.rand(1, generator=drawn(5)) * 2 - 1)
    found, there = augmented(x, masks, still(turn_deg=90 / abs(angle)), drawn(5))
    way = next(k for k in (1, -1) if torch.equal(there, torch.rot90(masks, k, (1, 2))))
    torch.testing.assert_close(found, torch.rot90(x, way, (2, 3)), atol=1e-4, rtol=0)


def test_a_turn_is_in_mm() -> None:
    """Of voxels three times as long a ball is an egg, and a turn leaves it as it is; without the spacing it would not."""
    z, y = torch.meshgrid(torch.arange(16) - 7.5, torch.arange(48) - 23.5, indexing="ij")
    masks = (((3 * z) ** 2 + y**2) < 144).long()[None]
    kept = lambda spacing: augmented(masks[:, None].float(), masks, still(turn_deg=60), drawn(1), spacing)[1]
    same = lambda there: float((there == masks).float().mean())
    assert same(kept(torch.tensor([[3.0, 1.0]]))) > 0.97
    assert same(kept(torch.tensor([[1.0, 1.0]]))) < 0.9
    assert torch.equal(kept(torch.full((1, 2), float("nan"))), kept(None))


@pytest.mark.parametrize("how", ["gain", "offset", "gamma", "noise"])
def test_brightness_leaves_masks_where_they_are(how: str) -> None:
    x, masks = ball((16, 16, 16))
    found, there = augmented(x, masks, still(**{how: 0.3}), drawn())
    assert torch.equal(there, masks)
    assert 0.001 < float((found - x).abs().mean()) < 0.5
    if how == "gamma":  # what is darkest and what is lightest stays
        torch.testing.assert_close(found.amax((1, 2, 3, 4)), x.amax((1, 2, 3, 4)))
        torch.testing.assert_close(found.amin((1, 2, 3, 4)), x.amin((1, 2, 3, 4)))


def test_a_record_of_one_value_stays_a_number() -> None:
    found, _ = augmented(torch.zeros(1, 1, 8, 8), torch.zeros(1, 8, 8, dtype=torch.int64), Augment(), drawn())
    assert bool(torch.isfinite(found).all())


def test_the_generator_decides_all() -> None:
    x, masks = ball((16, 16, 16))
    one, other, third = (augmented(x, masks, Augment(bend=1.0), drawn(seed)) for seed in (3, 3, 4))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    assert not torch.equal(one[0], third[0])


@pytest.mark.parametrize("wrong", [{"turn_deg": -1}, {"shift": 0.6}, {"noise": float("nan")}, {"rotate": 3}])
def test_what_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Augment.model_validate(wrong)
